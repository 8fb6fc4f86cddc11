"""What people want: each command decides by the order's own events, which are never behind, and publishes one more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from refold import App, PublishAck

from .events import Line, OrderCancelled, OrderPaid, OrderPlaced, OrderShipped

_LEADS_TO: Final[dict[type[Any], str]] = {
    OrderPlaced: "placed",
    OrderPaid: "paid",
    OrderShipped: "shipped",
    OrderCancelled: "cancelled",
}
_COMES_AFTER: Final = {OrderPaid: {"placed"}, OrderShipped: {"paid"}, OrderCancelled: {"placed", "paid"}}


class UnknownOrder(Exception):
    """There is no such order."""


class NotPossible(Exception):
    """The order's status does not allow it."""


async def place(app: App, customer: str, lines: Sequence[Line]) -> tuple[str, PublishAck]:
    """Places an order; its id, and where its event is stored."""
    order_id = uuid4().hex
    return order_id, await app.publish("order", order_id, [OrderPlaced(customer, tuple(lines))], expected_version=0)


async def go_on(
    app: App, order_id: str, event: OrderPaid | OrderShipped | OrderCancelled, seen: int | None
) -> PublishAck:
    """Pays, ships or cancels an order.

    Args:
        seen: the version that the caller decided upon; by default the one there is.

    Raises:
        UnknownOrder, NotPossible: the order does not allow it.
        VersionConflict: something else happened to it first.
    """
    status, version = "", 0
    async for one in app.stream_reader.read("order", order_id):
        status, version = _LEADS_TO[type(one.payload)], one.version
    if not status:
        raise UnknownOrder(f"there is no order {order_id!r}")
    expected = version if seen is None else seen
    if expected == version and status not in _COMES_AFTER[type(event)]:
        raise NotPossible(f"order {order_id!r} is {status}, and cannot be {_LEADS_TO[type(event)]}")
    return await app.publish("order", order_id, [event], expected_version=expected)
