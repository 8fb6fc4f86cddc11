"""A task inside a scheduler: what changes while it waits and runs."""

from __future__ import annotations

import asyncio
import contextvars
import enum
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from refold.tasks.info import TaskInfo, TaskProgress, run_id
from refold.tasks.task import Task

if TYPE_CHECKING:
    from refold.tasks.lanes import Lane

__all__ = ["Attempt", "Ending", "Entry", "Phase"]


class Phase(enum.Enum):
    """What a scheduler does with a task."""

    NEW = enum.auto()
    """It is being saved for the first time."""
    IDLE = enum.auto()
    """It waits for its time or its turn."""
    BUSY = enum.auto()
    """It is about to begin, or has ended, and this is being recorded and told."""
    WORK = enum.auto()
    """Its work runs: only now may it be cancelled."""
    OVER = enum.auto()
    """The scheduler has let go of it."""


class Ending(enum.Enum):
    """Why an attempt was told to end."""

    TIMEOUT = enum.auto()
    CANCEL = enum.auto()


class Entry:
    """A task inside a scheduler.

    Attributes:
        task: the task.
        info: what is known of it.
        lane: where it waits for a slot.
        phase: what is done with it.
        ending: why its attempt was told to end; None if it was not.
        runner: the asyncio task that runs, or cancels, it.
        context: context variables of whoever scheduled it.
    """

    __slots__ = ("_left", "_over", "context", "ending", "info", "lane", "phase", "runner", "task")

    def __init__(self, task: Task, info: TaskInfo, lane: Lane) -> None:
        self.task = task
        self.info = info
        self.lane = lane
        self.phase = Phase.NEW
        self.ending: Ending | None = None
        self.runner: asyncio.Task[None] | None = None
        self.context = contextvars.copy_context()
        self._over: asyncio.Future[None] | None = None
        self._left: asyncio.Future[None] | None = None

    def over(self) -> asyncio.Future[None]:
        """Done when the scheduler lets go of the task. Wait for it without cancelling it."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
            if self.phase is Phase.OVER:
                self._over.set_result(None)
        return self._over

    def left(self) -> asyncio.Future[None]:
        """Done when nobody waits for the task any more: it is over or abandoned. Wait for it without cancelling it."""
        if self._left is None:
            self._left = asyncio.get_running_loop().create_future()
            if self.phase is Phase.OVER or self.info.abandoned:
                self._left.set_result(None)
        return self._left

    def abandon(self) -> None:
        """Nobody waits any more."""
        self.info = replace(self.info, abandoned=True)
        _resolve(self._left)

    def come_back(self) -> None:
        """An abandoned attempt has ended after all."""
        self.info = replace(self.info, abandoned=False)
        self._left = None

    def let_go(self) -> None:
        """It is over."""
        self.phase = Phase.OVER
        _resolve(self._left)
        _resolve(self._over)


class Attempt:
    """One attempt, as its work sees it; see `refold.tasks.Run`."""

    __slots__ = ("_entry", "attempt", "due_at", "task_id", "type")

    def __init__(self, entry: Entry) -> None:
        info = entry.info
        self._entry = entry
        self.task_id = info.id
        self.type = info.type
        self.attempt = info.attempt
        self.due_at: datetime = info.due_at

    @property
    def run_id(self) -> str:
        """The same for all attempts for one due time."""
        return run_id(self.task_id, self.due_at)

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Says how far it is."""
        entry = self._entry
        if entry.phase is Phase.WORK and entry.info.attempt == self.attempt and entry.info.due_at == self.due_at:
            entry.info = replace(entry.info, progress=TaskProgress(done, total, note))


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
