"""How a scheduler is."""

from __future__ import annotations

import dataclasses
import enum

from refold.tasks.info import TaskInfo

__all__ = ["BlockedLoop", "Health", "HealthStatus"]


class HealthStatus(enum.Enum):
    """How a scheduler is, in a word."""

    GREEN = "green"
    YELLOW = "yellow"
    """It works, but somebody should look: abandoned tasks hold slots, or it takes no more tasks."""
    RED = "red"
    """Tasks cannot run: the event loop is blocked, or abandoned tasks hold all slots."""


@dataclasses.dataclass(frozen=True, slots=True)
class BlockedLoop:
    """An event loop that does not answer.

    Attributes:
        name: name of the asyncio task that blocks it; None where it is none.
        task_id: id of the scheduler's task that blocks it; None where it is none of its.
        task_type: the type of that task.
        stack: where the loop's thread was when it was noticed, as a traceback shows it.
    """

    name: str | None
    task_id: str | None
    task_type: str | None
    stack: str


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """How a scheduler is.

    Attributes:
        status: in a word.
        reasons: why it is not green; one line each.
        blocked: how the event loop is blocked, while it is.
        abandoned: tasks that hold their slots though they were told to end.
    """

    status: HealthStatus
    reasons: tuple[str, ...] = ()
    blocked: BlockedLoop | None = None
    abandoned: tuple[TaskInfo, ...] = ()
