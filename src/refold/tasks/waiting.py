"""Waiting for futures by an injected clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from refold.clock import AlarmClock

__all__ = ["all_done"]


async def all_done(futures: Iterable[asyncio.Future[Any]], clock: AlarmClock, seconds: float) -> bool:
    """Waits until all are done, or the time has passed; whether all are. Cancels none, and raises nothing of theirs."""
    pending = [future for future in futures if not future.done()]
    if not pending:
        return True
    left = len(pending)
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def one_is_done(_: asyncio.Future[Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            decide(True)

    def decide(done: bool) -> None:
        if not answer.done():
            answer.set_result(done)

    for future in pending:
        future.add_done_callback(one_is_done)
    alarm = clock.call_later(seconds, lambda: decide(False))
    try:
        return await answer
    finally:
        alarm.cancel()
        for future in pending:
            future.remove_done_callback(one_is_done)
