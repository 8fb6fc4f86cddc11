"""Some tasks one after another, the others several at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from typing_extensions import Unpack

from refold.errors import ConfigurationError
from refold.tasks.lane_scheduler import LaneScheduler, Options
from refold.tasks.lanes import Lane, by_due_time, by_turn
from refold.tasks.task import Task

__all__ = ["HybridScheduler", "Way"]

Way = Literal["sequential", "concurrent"]
"""How tasks of a type are run."""


class HybridScheduler(LaneScheduler):
    """Runs timed and recurring tasks as `SequentialScheduler` does, and beside them all others as `ConcurrentScheduler`.

    Args:
        limit: slots of tasks that are run concurrently; the sequential ones have a slot of their own.
        routes: ways for types of tasks, whatever their schedule: ``{"report": "concurrent"}``.
        options: see `refold.tasks.LaneScheduler`; the capacity is for all together.

    Raises:
        ConfigurationError: a route is no way.
    """

    def __init__(self, limit: int = 10, *, routes: Mapping[str, Way] | None = None, **options: Unpack[Options]) -> None:
        self._ways: dict[str, Lane] = {"sequential": Lane(1, by_due_time), "concurrent": Lane(limit, by_turn)}
        self._routes: dict[str, Way] = dict(routes or {})
        for name, way in self._routes.items():
            if way not in self._ways:
                raise ConfigurationError(f"routes: type {name!r} goes {way!r}; say 'sequential' or 'concurrent'")
        super().__init__(self._ways.values(), **options)

    @property
    def limit(self) -> int:
        """How many concurrent attempts may run at once. May be set at any time; attempts under way go on. At least 1."""
        return self._ways["concurrent"].limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._ways["concurrent"].limit = limit
        self._pump(self._ways["concurrent"])

    def way(self, task: Task) -> Way:
        """The way that a task goes."""
        return self._routes.get(task.type) or ("sequential" if task.schedule.timed else "concurrent")

    def _lane(self, task: Task) -> Lane:
        return self._ways[self.way(task)]
