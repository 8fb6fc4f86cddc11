"""Threads in which blocking drivers run, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

__all__ = ["Worker"]

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """A few threads; with one, calls run one after another in the order of asking.

    Args:
        name: prefix of the threads' names.
        threads: how many.
        interrupt: makes the statement that is running end soon; called from any thread when a caller is cancelled.
    """

    def __init__(self, name: str, threads: int = 1, interrupt: Callable[[], None] | None = None) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._interrupt = interrupt

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls in a thread. A cancelled caller waits until the call has ended, so that no connection is left half-used."""
        job = self._executor.submit(call, *args, **kwargs)
        ended = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            if not job.cancel():
                await self._wait(ended)
            raise

    async def _wait(self, ended: asyncio.Future[T]) -> None:
        if self._interrupt is not None and not ended.done():
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._interrupt))
        await asyncio.wait([ended])
        with suppress(Exception, asyncio.CancelledError):
            ended.exception()  # retrieved, so that asyncio does not log it: the caller went away

    async def close(self) -> None:
        """Waits for the running calls, and ends the threads."""
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown))
