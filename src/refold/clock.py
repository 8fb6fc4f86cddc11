"""Time, injected: nothing in refold asks the operating system for it elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Alarm", "AlarmClock", "Clock", "SystemClock"]


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time now: aware, UTC."""
        ...


class Alarm(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Takes the call back; does nothing where it has come already."""
        ...


class AlarmClock(Clock, Protocol):
    """A clock that also measures durations, and calls when one is over. For the thread of a running event loop."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back, whatever is done to the system's time."""
        ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Calls from the event loop when so many seconds of `monotonic` have passed, or at the next turn."""
        ...


class SystemClock:
    """The operating system's clock; alarms are those of the running event loop."""

    def now(self) -> datetime:
        """The time now: aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back, whatever is done to the system's time."""
        return time.monotonic()

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Calls from the event loop when so many seconds have passed."""
        return asyncio.get_running_loop().call_later(seconds, call)
