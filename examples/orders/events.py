"""What happens to an order."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import msgspec

from refold import event


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an order: events, views and HTTP share it."""

    product: str
    quantity: int
    price: Decimal


@event("placed")
class OrderPlaced(msgspec.Struct, frozen=True, gc=False):
    customer: str
    lines: tuple[Line, ...]


@event("paid")
class OrderPaid(msgspec.Struct, frozen=True, gc=False):
    pass


@event("shipped")
class OrderShipped(msgspec.Struct, frozen=True, gc=False):
    tracking: str


@event("cancelled")
class OrderCancelled(msgspec.Struct, frozen=True, gc=False):
    reason: str
