"""The domain of the benchmark: orders that are placed, paid and shipped, and a summary of each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, islice
from random import Random
from typing import Annotated, Any, Final, Literal

import msgspec

from refold.engine.projector import Projector, on
from refold.errors import ConfigurationError
from refold.event import DomainEvent, event
from refold.view import Index, View

__all__ = [
    "AGGREGATE",
    "EPOCH",
    "Address",
    "OrderPaid",
    "OrderPlaced",
    "OrderShipped",
    "OrderSummaries",
    "OrderSummary",
    "Skew",
    "draw",
]

AGGREGATE: Final = "order"
"""The aggregate type of all events."""

Skew = Literal["uniform", "zipf"]
"""How events are spread over aggregates: evenly, or the n-th one getting 1/n of what the first gets."""


class Address(msgspec.Struct, gc=False):
    """A nested value, in every event."""

    street: str
    city: str
    zip: str


@event("placed")
class OrderPlaced(msgspec.Struct, gc=False):
    """A customer ordered."""

    customer: str
    total: Decimal
    placed_at: datetime
    address: Address


@event("paid")
class OrderPaid(msgspec.Struct, gc=False):
    """The order was paid."""

    amount: Decimal
    method: str
    paid_at: datetime
    address: Address


@event("shipped")
class OrderShipped(msgspec.Struct, gc=False):
    """The order left."""

    carrier: str
    weight: Decimal
    shipped_at: datetime
    address: Address


class OrderSummary(View):
    """What is known of an order."""

    customer: Annotated[str, Index()] = ""
    status: str = "new"
    total: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    carrier: str = ""
    city: str = ""


class OrderSummaries(Projector[OrderSummary], name="order_summaries", aggregate=AGGREGATE, version=1):
    """Folds an order's events into its summary."""

    @on(OrderPlaced)
    def placed(self, view: OrderSummary, event: DomainEvent[OrderPlaced]) -> None:
        """Who ordered, and for how much."""
        payload = event.payload
        view.status = "placed"
        view.customer = payload.customer
        view.total = payload.total

    @on(OrderPaid)
    def paid(self, view: OrderSummary, event: DomainEvent[OrderPaid]) -> None:
        """What was paid."""
        view.status = "paid"
        view.paid = event.payload.amount

    @on(OrderShipped)
    def shipped(self, view: OrderSummary, event: DomainEvent[OrderShipped]) -> None:
        """Where it goes."""
        payload = event.payload
        view.status = "shipped"
        view.carrier = payload.carrier
        view.city = payload.address.city


_TYPES: Final = ("placed", "paid", "shipped")
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When the first event happened."""
_CHUNK: Final = 10_000


def draw(events: int | None, aggregates: int, *, skew: Skew = "uniform", seed: int = 1) -> Iterator[DomainEvent[Any]]:
    """The events of the benchmark, in order; the same ones for the same arguments.

    Each event's aggregate is drawn; versions count up in each aggregate, and the types take turns: placed, paid,
    shipped.

    Args:
        events: how many; None for no end.
        aggregates: how many aggregates they are drawn from.
        skew: how they are spread over them.
        seed: of the draw.

    Raises:
        ConfigurationError: less than one event or aggregate, or an unknown skew.
    """
    if (events is not None and events < 1) or aggregates < 1:
        raise ConfigurationError(f"{events} events over {aggregates} aggregates: both must be at least 1")
    if skew not in ("uniform", "zipf"):
        raise ConfigurationError(f"skew {skew!r} is not known; use 'uniform' or 'zipf'")
    return islice(_endless(aggregates, skew, Random(seed)), events)  # noqa: S311 (no secret)


def _endless(aggregates: int, skew: Skew, random: Random) -> Iterator[DomainEvent[Any]]:
    weights = list(accumulate(1 / rank for rank in range(1, aggregates + 1))) if skew == "zipf" else None
    population, versions, number = range(aggregates), [0] * aggregates, 0
    while True:
        for aggregate in random.choices(population, cum_weights=weights, k=_CHUNK):
            version = versions[aggregate] = versions[aggregate] + 1
            when = EPOCH + timedelta(milliseconds=number)
            kind = (version - 1) % 3
            yield DomainEvent(
                id=f"{random.getrandbits(128):032x}",
                aggregate_id=str(aggregate),
                type=_TYPES[kind],
                aggregate_type=AGGREGATE,
                timestamp=when,
                version=version,
                payload=_payload(kind, number, when),
            )
            number += 1


def _payload(kind: int, number: int, when: datetime) -> OrderPlaced | OrderPaid | OrderShipped:
    address = Address(f"{number % 300} Main Street", "Springfield", f"{number % 99_999:05}")
    if kind == 2:
        return OrderShipped("united parcels", Decimal(f"{number % 30}.5"), when, address)
    amount = Decimal(f"{number % 900}.{number % 100:02}")
    if kind == 1:
        return OrderPaid(amount, "card", when, address)
    return OrderPlaced(f"customer-{number % 50_000:05}", amount, when, address)
