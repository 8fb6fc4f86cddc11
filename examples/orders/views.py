"""What readers see: one row an order, and one row a day."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any

from refold import App, DomainEvent, Index, Projector, View, on

from .events import Line, OrderCancelled, OrderPaid, OrderPlaced, OrderShipped


class OrderView(View, gc=False):  # id, created_at, updated_at, version and position come with View
    customer: Annotated[str, Index()] = ""
    status: str = "placed"
    lines: tuple[Line, ...] = ()
    total: Decimal = Decimal(0)
    note: str = ""


class Orders(Projector[OrderView], name="orders", aggregate="order", version=1):
    @on(OrderPlaced)
    def placed(self, view: OrderView, event: DomainEvent[OrderPlaced]) -> None:
        view.customer, view.lines = event.payload.customer, event.payload.lines
        view.total = total(event.payload.lines)

    @on(OrderPaid)
    def paid(self, view: OrderView, event: DomainEvent[OrderPaid]) -> None:
        view.status = "paid"

    @on(OrderShipped)
    def shipped(self, view: OrderView, event: DomainEvent[OrderShipped]) -> None:
        view.status, view.note = "shipped", event.payload.tracking

    @on(OrderCancelled)
    def cancelled(self, view: OrderView, event: DomainEvent[OrderCancelled]) -> None:
        view.status, view.note = "cancelled", event.payload.reason


class DayView(View, gc=False):
    orders: int = 0
    cancelled: int = 0
    total: Decimal = Decimal(0)


def day(event: DomainEvent[Any]) -> str:
    return event.timestamp.date().isoformat()


class Days(Projector[DayView], name="days", aggregate="order", version=1):
    @on(OrderPlaced, key=day)
    def placed(self, view: DayView, event: DomainEvent[OrderPlaced]) -> None:
        view.orders += 1
        view.total += total(event.payload.lines)

    @on(OrderCancelled, key=day)
    def cancelled(self, view: DayView, event: DomainEvent[OrderCancelled]) -> None:
        view.cancelled += 1


def total(lines: Iterable[Line]) -> Decimal:
    return sum((line.quantity * line.price for line in lines), Decimal(0))


def make_app(**settings: Any) -> App:
    """The application; what `settings` leave out comes from the environment."""
    app = App("orders", **settings)
    app.register(Orders, Days)
    return app
