"""What all schedulers offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from refold.tasks.health import Health
from refold.tasks.info import TaskInfo, TaskStatus
from refold.tasks.task import Task

__all__ = ["Scheduler"]


class Scheduler(ABC):
    """Runs tasks when they are due. An async context manager: starts on entering, closes on leaving.

    A task runs in the event loop that it was scheduled in, with the context variables of whoever scheduled it. It never
    overlaps itself: due times that pass while a recurring task cannot run are merged into one run, for the last of them,
    and the others are counted as `TaskInfo.misfires`. Methods are for the loop's thread; `health` is for any.
    """

    @abstractmethod
    async def schedule(self, task: Task) -> TaskInfo:
        """Takes a task; it may be scheduled before the scheduler starts.

        Raises:
            TaskExists: a task with its id waits or runs. The id of one that is over may be used again.
            SchedulerFull: there are as many tasks as there may be.
            SchedulerClosed: the scheduler closes or is closed.
        """

    @abstractmethod
    async def cancel(self, task_id: str) -> TaskInfo:
        """Cancels a task, and returns when it has ended, its callback included.

        A waiting one never runs again. A running one gets a `asyncio.CancelledError` where it awaits; if it does not end
        within the grace, it is abandoned, which its info says. What it returns or raises from then on does not count. One
        that is over stays as it is. A task that cancels itself, in its work or a callback, is not waited for.

        Raises:
            TaskNotFound: no such task is known.
        """

    @abstractmethod
    async def wait(self, task_id: str) -> TaskInfo:
        """Waits until a task is over; a recurring one is over when it is cancelled.

        Raises:
            TaskNotFound: no such task is known.
        """

    @abstractmethod
    async def status(self, task_id: str) -> TaskInfo:
        """How a task stands.

        Raises:
            TaskNotFound: no such task is known: it never was, or its time to live is over.
        """

    @abstractmethod
    async def list(self, *, status: TaskStatus | None = None, task_type: str | None = None) -> Sequence[TaskInfo]:
        """Tasks that wait or run, and those that are over and still remembered, in the order of scheduling.

        Args:
            status: only those of a status.
            task_type: only those of a type.
        """

    @abstractmethod
    async def start(self) -> None:
        """Begins to run tasks, or goes on after `stop`.

        Raises:
            SchedulerClosed: the scheduler closes or is closed.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Begins no further attempt until `start`. Attempts under way go on, tasks may be scheduled and cancelled."""

    @abstractmethod
    async def close(self, deadline: float | None = None) -> None:
        """Takes no more tasks, cancels those that wait, lets those that run go on until the deadline, then cancels them.

        Every task that did not end well is told by its callback. Returns when all have ended, or were abandoned after the
        grace; closing again waits for the same.

        Args:
            deadline: seconds that running attempts may go on; None for what the scheduler was made with.
        """

    @property
    @abstractmethod
    def health(self) -> Health:
        """How the scheduler is; for any thread, also while the event loop is blocked."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
