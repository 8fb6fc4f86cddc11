"""Where the state of tasks is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from refold.clock import Clock
from refold.errors import ConfigurationError
from refold.tasks.info import TaskInfo

__all__ = ["MemoryTaskStore", "TaskStore"]


class TaskStore(ABC):
    """Keeps what is known of tasks. A scheduler tells it every change of status, and awaits it before it goes on.

    The order for one task is that of the changes; each info replaces the one before. A recurring task's run is saved
    with its outcome (completed, failed, dead letter) before the task is saved as waiting for its next due time.
    """

    @abstractmethod
    async def save(self, info: TaskInfo) -> None:
        """Keeps the info of a task.

        What it raises for a task that is being scheduled goes to whoever schedules it; for an attempt that is about to
        begin it fails the attempt, whose work is then not called; else it is logged.
        """

    @abstractmethod
    async def find(self, task_id: str) -> TaskInfo | None:
        """The last info of a task; None where there is none, or its time to live is over."""

    @abstractmethod
    async def all(self) -> Sequence[TaskInfo]:
        """The last info of every task whose time to live is not over, in no promised order."""


class MemoryTaskStore(TaskStore):
    """Keeps infos in memory: those of tasks that are over for their time to live, and only the last ones.

    Args:
        clock: tells when a time to live is over.
        keep: how many tasks that are over it remembers at most; the ones that ended first are forgotten first.

    Raises:
        ConfigurationError: `keep` is below zero.
    """

    def __init__(self, clock: Clock, *, keep: int = 500) -> None:
        if keep < 0:
            raise ConfigurationError(f"MemoryTaskStore: keep={keep} must not be below 0")
        self._clock = clock
        self._keep = keep
        self._open: dict[str, TaskInfo] = {}
        self._over: dict[str, TaskInfo] = {}

    async def save(self, info: TaskInfo) -> None:
        if info.expires_at is None:
            self._open[info.id] = info
            self._over.pop(info.id, None)
            return
        self._open.pop(info.id, None)
        self._over[info.id] = info
        if len(self._over) > self._keep:
            del self._over[next(iter(self._over))]

    async def find(self, task_id: str) -> TaskInfo | None:
        self._forget_expired()
        return self._open.get(task_id) or self._over.get(task_id)

    async def all(self) -> Sequence[TaskInfo]:
        self._forget_expired()
        return [*self._open.values(), *self._over.values()]

    def _forget_expired(self) -> None:
        """Looks at all of them, which are few; nothing needs to wake up for it."""
        now = self._clock.now()
        for task_id in [i.id for i in self._over.values() if i.expires_at is not None and i.expires_at <= now]:
            del self._over[task_id]
