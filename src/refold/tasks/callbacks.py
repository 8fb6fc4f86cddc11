"""Calling what users want to have called, without ever waiting for it longer than agreed."""

from __future__ import annotations

import asyncio
import inspect
import logging

from refold.clock import AlarmClock
from refold.tasks.info import TaskInfo
from refold.tasks.task import Callback
from refold.tasks.waiting import all_done

__all__ = ["Callbacks"]

log = logging.getLogger(__name__)


class Callbacks:
    """Calls callbacks; each in an asyncio task of its own, cancelled when its time is over.

    Args:
        clock: measures the time.
        grace: seconds that a callback may take, and again seconds that it may take to end when it is cancelled.
    """

    def __init__(self, clock: AlarmClock, grace: float) -> None:
        self._clock = clock
        self._grace = grace
        self._calls: set[asyncio.Task[None]] = set()

    async def tell(self, callback: Callback | None, info: TaskInfo) -> None:
        """Calls, and waits until it is done or given up; what goes wrong is logged."""
        if callback is None:
            return
        call = asyncio.create_task(_call(callback, info), name=f"refold callback of {info.type} {info.id}")
        self._calls.add(call)  # the loop itself holds tasks only weakly
        call.add_done_callback(self._calls.discard)
        if await all_done([call], self._clock, self._grace):
            return
        log.error("a task's callback takes too long, and is cancelled", extra=_told(info) | {"seconds": self._grace})
        call.cancel()
        if not await all_done([call], self._clock, self._grace):
            log.error("a task's callback does not end, and is abandoned", extra=_told(info))


async def _call(callback: Callback, info: TaskInfo) -> None:
    try:
        result = callback(info)
        if inspect.isawaitable(result):
            await result
    except Exception:
        log.exception("a task's callback failed", extra=_told(info))


def _told(info: TaskInfo) -> dict[str, object]:
    return {"task_id": info.id, "task_type": info.type}
