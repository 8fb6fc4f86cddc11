"""Live running as a program: until a signal says to stop, then in order, and within a deadline."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, Final, TypeVar

from refold.app import App
from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import Hook
from refold.engine.outcome import ProgressHook
from refold.engine.projector import Projector

__all__ = ["run"]

T = TypeVar("T")

_GRACE: Final = 10.0
"""Seconds that ending in order may take."""

_SHOW_CURSOR: Final = "\x1b[?25h"


def run(
    app: App,
    *which: str | type[Projector[Any]],
    accept_truncated: bool = False,
    limits: LiveLimits | None = None,
    hook: Hook | None = None,
    progress: ProgressHook | None = None,
    grace: float = _GRACE,
) -> None:
    """Runs projections until SIGINT or SIGTERM, as ``refold run`` does: for a program whose only work this is.

    After the first signal, batches under way are finished and claims let go of, and it returns. Where that takes longer than
    `grace`, the process ends with exit code 1; at a second signal, at once (130 after SIGINT, 143 after SIGTERM). Neither loses
    anything: what was not committed is read again by whoever runs next.

    Within an event loop of your own, use `App.run`. In another thread than the main one, it looks at no signals.

    Args:
        app: not open yet.
        which: names or classes; all that are registered where none is given.
        accept_truncated: go on though events that were not read are gone from the stream.
        limits: how to cut batches.
        hook: told what happens; see `refold.engine.live.hooks`.
        progress: told how far first builds are.
        grace: seconds.

    Raises: as opening the app and `App.run` do.
    """
    app.chosen(which)  # a wrong name is told before anything is connected

    async def until_told() -> None:
        stop = signals.event()
        async with AsyncExitStack() as stack:
            if await _unless(stop, stack.enter_async_context(app)):
                await app.run(
                    *which, stop=stop, accept_truncated=accept_truncated, limits=limits, hook=hook, progress=progress
                )

    signals = _Signals(grace)
    with signals.heard():  # around the loop, which may wait for threads in the end
        asyncio.run(until_told())


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """What work gives; None where an event cuts it short."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for one in (working, stopping):
            one.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


class _Signals:
    """What signals say: the first to end in order, within a time; the second to end at once.

    The handlers are Python's own, not the event loop's: they run while a projector's handler keeps the loop busy, too.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._told = threading.Event()
        self._ended = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def event(self) -> asyncio.Event:
        """An event of the running loop that the first signal sets."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._told.is_set():
            self._stop.set()
        return self._stop

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listens to signals; in the main thread alone, as Python has it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Begun beforehand, since a signal's handler cannot start a thread safely.
        watch = threading.Thread(target=self._watch, name="refold-deadline", daemon=True)
        watch.start()
        former = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            self._ended.set()
            self._told.set()
            watch.join()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._told.is_set():
            _leave(128 + number, "told twice, it ends at once")
        self._told.set()
        with suppress(RuntimeError):  # the loop has ended
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)

    def _watch(self) -> None:
        self._told.wait()
        if not self._ended.wait(self._grace):
            _leave(1, f"it did not end within {self._grace:g} s, and is ended now; nothing is lost")


def _leave(code: int, why: str) -> None:
    """Ends the process without another word to anybody; databases and servers notice by themselves."""
    with suppress(OSError):
        os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}refold: {why}\n".encode())
    os._exit(code)
