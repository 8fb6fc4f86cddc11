"""Tasks: what is to be done, when, and what happens if it fails."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from random import Random
from typing import Any, Protocol
from uuid import uuid4

from refold.errors import ConfigurationError
from refold.tasks.info import TaskInfo
from refold.tasks.schedules import Now, Schedule

__all__ = ["Backoff", "Callback", "Run", "Task", "Work"]


class Run(Protocol):
    """One attempt, as its work sees it.

    Attributes:
        task_id, type: the task's.
        run_id: the same for all attempts for one due time: what idempotent work may remember.
        attempt: from 1.
        due_at: the due time that it runs for; aware, UTC.
    """

    @property
    def task_id(self) -> str:
        """The task's id."""
        ...

    @property
    def type(self) -> str:
        """The task's type."""
        ...

    @property
    def run_id(self) -> str:
        """The same for all attempts for one due time: what idempotent work may remember."""
        ...

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        ...

    @property
    def due_at(self) -> datetime:
        """The due time that it runs for; aware, UTC."""
        ...

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Says how far it is; see `TaskProgress`. Cheap, and without effect once the attempt is over."""
        ...


Work = Callable[[Run], Awaitable[Any]]
"""What a task does: a coroutine function. What it returns does not matter; what it raises is a failure."""

Callback = Callable[[TaskInfo], Awaitable[None] | None]
"""Told how a task stands: a function, plain or async. What it raises is logged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a retry: exponentially longer, with jitter, never above a cap.

    Args:
        initial: seconds before the first retry.
        factor: how many times longer each wait is than the one before.
        maximum: seconds that no wait exceeds.
        jitter: the part of a wait, from 0 to 1, that is left to chance, so that what failed together does not come back
            together: 0.2 takes off up to a fifth.

    Raises:
        ConfigurationError: a number makes no sense.
    """

    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 300.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, dataclasses.astuple(self)))
        if not (finite and self.initial >= 0 and self.factor >= 1 and self.maximum >= 0 and 0 <= self.jitter <= 1):
            raise ConfigurationError(f"{self}: initial and maximum are at least 0, factor is at least 1, jitter 0 to 1")

    def delay(self, retry: int, random: Random) -> float:
        """Seconds before a retry; the first is number 1."""
        try:
            whole = min(self.initial * self.factor ** (retry - 1), self.maximum)
        except OverflowError:
            whole = self.maximum if self.initial else 0.0
        return whole * (1 - self.jitter * random.random())


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is to be done, and when.

    Args:
        type: what kind of task it is: for lists, logs and `HybridScheduler`'s routes.
        work: the coroutine function that does it.
        id: names it among a scheduler's tasks; by default a random one.
        schedule: when it is due; by default at once.
        timeout: seconds after which an attempt is cancelled, and counts as failed; None for no limit.
        max_retries: how often it is tried again when it fails.
        backoff: how long to wait before each retry.
        ttl: time to live: seconds that a scheduler remembers it when it is over.
        priority: a higher one goes first; how far, the scheduler says.
        on_complete: called after every run that came to an end of its own: completed, failed or dead letter; its info's
            status says which.
        on_cancel: called when it has been cancelled.

    Raises:
        ConfigurationError: a number makes no sense, or type or id is empty.
    """

    type: str
    work: Work
    _: dataclasses.KW_ONLY
    id: str = dataclasses.field(default_factory=lambda: uuid4().hex)
    schedule: Schedule = Now()  # noqa: RUF009 (a value)
    timeout: float | None = None
    max_retries: int = 3
    backoff: Backoff = Backoff()
    ttl: float = 300.0
    priority: int = 0
    on_complete: Callback | None = None
    on_cancel: Callback | None = None

    def __post_init__(self) -> None:
        if not (self.type and self.id):
            raise ConfigurationError("a task needs a type and an id that are not empty")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ConfigurationError(f"task {self.type!r}: timeout={self.timeout!r} must be above 0, or None")
        if self.max_retries < 0:
            raise ConfigurationError(f"task {self.type!r}: max_retries={self.max_retries!r} must not be below 0")
        if not 0 <= self.ttl < math.inf:
            raise ConfigurationError(f"task {self.type!r}: ttl={self.ttl!r} must be seconds, at least 0")
