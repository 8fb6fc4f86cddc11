"""A thread that notices when the event loop is blocked, and says by what."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable

from refold.tasks.health import BlockedLoop

__all__ = ["Watchdog"]

log = logging.getLogger(__name__)


class Watchdog:
    """Asks the event loop for a sign of life, again and again; where none comes in time, the loop is blocked.

    It stands outside of the loop, and so does the time that it measures.

    Args:
        seconds: how long the loop may take to answer, and how long to wait before it is asked again.
        name_of: gives id and type of the scheduler's task that an asyncio task runs; None where it runs none. Called in
            the watchdog's thread.
        on_blocked: called in the watchdog's thread.

    Attributes:
        blocked: how the loop is blocked; None as long as it answers. May be read from any thread.
    """

    def __init__(
        self,
        seconds: float,
        name_of: Callable[[asyncio.Task[object]], tuple[str, str] | None],
        on_blocked: Callable[[BlockedLoop], None] | None = None,
    ) -> None:
        self._seconds = seconds
        self._name_of = name_of
        self._on_blocked = on_blocked
        self._sign = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.blocked: BlockedLoop | None = None

    def start(self) -> None:
        """Watches the running event loop, in whose thread this is called; does nothing where it does so already."""
        if self._thread is not None:
            return
        arguments = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=arguments, name="refold watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._sign.set()
        if self._thread is not None:
            self._thread.join(1.0)  # more only where a user's `on_blocked` takes longer

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        while not self._stopped.is_set():
            self._sign.clear()
            if self._stopped.is_set():  # and its sign has just been cleared
                return
            try:
                loop.call_soon_threadsafe(self._sign.set)
            except RuntimeError:  # the loop was closed, and the scheduler was not
                return
            if not self._sign.wait(self._seconds) and not self._stopped.is_set():
                self._tell(loop, thread)
                self._sign.wait()
                self.blocked = None
            self._stopped.wait(self._seconds)

    def _tell(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        frame = sys._current_frames().get(thread)  # noqa: SLF001 (documented, and there is no other way)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        running = asyncio.current_task(loop)
        known = self._name_of(running) if running is not None else None
        task_id, task_type = known or (None, None)
        self.blocked = BlockedLoop(running.get_name() if running is not None else None, task_id, task_type, stack)
        log.error(
            "the event loop is blocked: nothing else can run",
            extra={
                "seconds": self._seconds,
                "task_id": task_id,
                "task_type": task_type,
                "running": self.blocked.name,
                "stack": stack,
            },
        )
        if self._on_blocked is not None:
            try:
                self._on_blocked(self.blocked)
            except Exception:
                log.exception("on_blocked failed")
