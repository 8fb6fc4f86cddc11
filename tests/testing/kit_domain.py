"""Projectors to test the kit with: sound ones of every kind, and unsound ones."""

from __future__ import annotations

import dataclasses
import enum
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pydantic

from refold import DELETE, DomainEvent, Index, Projector, View, event, on
from refold.engine.policy import Retry


class Address(msgspec.Struct):
    street: str
    number: Annotated[int, msgspec.Meta(ge=1, le=9)]


@event("placed")
class Placed(msgspec.Struct, gc=False):
    customer: str
    total: Decimal
    address: Address | None = None


@event("paid")
@dataclasses.dataclass
class Paid:
    amount: Decimal
    notes: list[str] = dataclasses.field(default_factory=list)


@event("shipped")
class Shipped(pydantic.BaseModel):
    carrier: str = pydantic.Field(max_length=3)
    weight: int = pydantic.Field(gt=0, lt=5)


@event("cancelled")
class Cancelled(msgspec.Struct, gc=False):
    pass


class Kind(enum.Enum):
    A = "a"
    B = "b"


@event("all_kinds")
class AllKinds(msgspec.Struct):
    when: datetime
    kind: Kind
    price: Decimal | None
    count: Annotated[int, msgspec.Meta(gt=0, lt=3)]
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=2)]
    by_name: dict[str, list[int]]
    pair: tuple[int, bool]


class Order(View):
    customer: Annotated[str, Index()] = ""
    status: str = "new"
    total: Decimal = Decimal(0)
    notes: list[str] = []


class Orders(Projector[Order], name="orders", aggregate="order", version=1):
    @on(Placed)
    def placed(self, view: Order, event: DomainEvent[Placed]) -> None:
        view.customer, view.total, view.status = event.payload.customer, event.payload.total, "placed"

    @on(Paid, create=False)
    def paid(self, view: Order, event: DomainEvent[Paid]) -> None:
        view.status = "paid"
        view.notes = event.payload.notes
        view.notes.append("paid")

    @on(Shipped)
    def shipped(self, view: Order, event: DomainEvent[Shipped]) -> Order:
        return Order(customer=view.customer, status="shipped", notes=[event.payload.carrier])

    @on(Cancelled)
    def cancelled(self, view: Order, event: DomainEvent[Cancelled]) -> object:
        return DELETE


class Customer(View):
    orders: int = 0
    paid: Decimal = Decimal(0)


class Customers(Projector[Customer], name="customers", aggregate=("order", "return"), version=1):
    """Keyed, of several aggregate types; its key function and a handler may raise."""

    @on(Placed, key=lambda event: event.payload.customer)  # no text: recorded, and passed over
    def placed(self, view: Customer, event: DomainEvent[Placed]) -> None:
        view.orders += 1
        if event.payload.total < -5000:
            raise ValueError("half-way")

    @on(Paid, keys=lambda event: event.payload.notes, create=False)
    def paid(self, view: Customer, event: DomainEvent[Paid]) -> object:
        view.paid += event.payload.amount
        return DELETE if view.paid > 9000 else None


class Counted(Projector[Customer], name="counted", version=1, deduplicate=False, predicate=lambda e: e.version != 3):
    @on(Placed, Cancelled)
    def counted(self, view: Customer, event: DomainEvent[Any]) -> None:
        view.orders += 1


def failing(name: str, on_error: Any) -> type[Projector[Any]]:
    """A projector whose handler fails at some events."""

    class Failing(Projector[Order], name=name, aggregate="order", version=1, on_error=on_error):
        @on(Placed)
        def placed(self, view: Order, event: DomainEvent[Placed]) -> None:
            view.total += event.payload.total
            if event.payload.address is not None:
                raise ValueError("half-way")

    return Failing


SOUND = [
    Orders,
    Customers,
    Counted,
    *(failing(f"failing_{policy}", policy) for policy in ("skip", "quarantine", "halt")),
    failing("failing_retry", {ValueError: Retry(attempts=2, wait_initial=9), Exception: "skip"}),
]
