"""What is known of a task."""

from __future__ import annotations

import enum
from datetime import datetime

import msgspec

from refold.tasks.schedules import Schedule

__all__ = ["TaskInfo", "TaskProgress", "TaskStatus", "run_id"]


def run_id(task_id: str, due_at: datetime) -> str:
    """Names a run: the task's id and the due time in UTC."""
    return f"{task_id}@{due_at:%Y-%m-%dT%H:%M:%S.%fZ}"


class TaskStatus(enum.Enum):
    """Where a task stands."""

    WAITING = "waiting"
    """For its due time, or for its turn."""
    RUNNING = "running"
    RETRYING = "retrying"
    """Its last attempt failed; the next one waits for its time, or for its turn."""
    COMPLETED = "completed"
    FAILED = "failed"
    """It failed, and was not to be tried again: it has no retries, or raised `TaskFailed`."""
    CANCELLED = "cancelled"
    DEAD_LETTER = "dead letter"
    """It failed, and so did all its retries."""


class TaskProgress(msgspec.Struct, frozen=True, gc=False):
    """How far an attempt is, in its own words.

    Attributes:
        done: how much is done, in whatever unit.
        total: how much there is to do; None where that is not known.
        note: what it is doing.
    """

    done: float
    total: float | None = None
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """Between 0 and 1; None where the total is not known."""
        return min(self.done / self.total, 1.0) if self.total else None


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task at one moment. Times are aware, UTC.

    Attributes:
        id: the task's id.
        type: its type.
        schedule: when it is due.
        priority: its priority.
        status: where it stands. A recurring task waits again after every run.
        created_at: when it was scheduled.
        due_at: the due time of the run that waits or runs, or of the last one.
        started_at: when its last attempt began.
        finished_at: when its last run was over.
        attempt: number of the attempt that runs or ran last in this run, from 1; 0 before the first.
        next_retry_at: when the next attempt is due; None unless it is retrying.
        expires_at: when it will be forgotten; None as long as it is not over.
        completed: runs that came to a good end.
        failed: runs that failed for good.
        misfires: due times of a recurring task that passed while it could not run, and were merged into a later one.
        last_error: type and text of what went wrong last.
        progress: how far its last attempt is; None where it says nothing.
        abandoned: it was told to end, did not within the grace, and still holds its slot; nobody waits for it any more.
    """

    id: str
    type: str
    schedule: Schedule
    priority: int
    status: TaskStatus
    created_at: datetime
    due_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 0
    next_retry_at: datetime | None = None
    expires_at: datetime | None = None
    completed: int = 0
    failed: int = 0
    misfires: int = 0
    last_error: str | None = None
    progress: TaskProgress | None = None
    abandoned: bool = False

    @property
    def run_id(self) -> str:
        """Names the run: the task's id and the due time; all attempts of a run share it."""
        return run_id(self.id, self.due_at)

    @property
    def over(self) -> bool:
        """Whether it will not run again."""
        return self.expires_at is not None
