"""Generated orders of the last days, the same in every run but for their ids and dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final
from uuid import uuid4

from refold import App, NewEvent

from .events import Line, OrderCancelled, OrderPaid, OrderPlaced, OrderShipped
from .views import Days, Orders

_PRICES: Final = {"tea, 100 g": "6.40", "coffee, 250 g": "8.90", "teapot": "24.00", "cup": "7.50", "filters": "3.20"}


async def seed(app: App, orders: int = 48) -> None:
    """Publishes orders, and waits until the views show them."""
    random = Random(4)  # noqa: S311 - no secret
    now = datetime.now(UTC)
    position = 0
    for number in range(orders):
        moment = now - timedelta(hours=3 * (orders - number))
        products = random.sample(list(_PRICES), random.randint(1, 3))
        lines = tuple(Line(product, random.randint(1, 4), Decimal(_PRICES[product])) for product in products)
        fates: list[list[Any]] = [
            [],
            [OrderPaid()],
            [OrderPaid(), OrderShipped(f"parcel {1000 + number}")],
            [OrderCancelled("ordered twice")],
        ]
        events = [OrderPlaced(f"customer {random.randint(1, 9)}", lines), *random.choice(fates)]
        new = [NewEvent(payload=one, timestamp=moment + timedelta(minutes=20 * i)) for i, one in enumerate(events)]
        ack = await app.publish("order", uuid4().hex, new, expected_version=0, atomic=False)
        position = ack.position
    await app.wait_for([Orders, Days], position)
