"""What tests of the order service share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx


class _Alarm:
    def cancel(self) -> None:
        pass


class StillClock:
    """Time stands still until a test sets it."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self._calls: list[Callable[[], None]] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def call_later(self, seconds: float, call: Callable[[], None]) -> _Alarm:
        self._calls.append(call)
        return _Alarm()

    def set(self, now: datetime) -> None:
        self._now = now
        calls, self._calls = self._calls, []
        for call in calls:
            call()


async def until(holds: Callable[[dict[str, Any]], bool], client: httpx.AsyncClient) -> dict[str, Any]:
    """The service's health, once it is so."""
    health: dict[str, Any] = {}
    try:
        async with asyncio.timeout(30):
            while True:
                health = (await client.get("/health")).json()
                if "well" in health and holds(health):
                    return health
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"in 30 s, it did not come to that: {health}") from None
