"""Several tasks at once."""

from __future__ import annotations

from typing_extensions import Unpack

from refold.tasks.lane_scheduler import LaneScheduler, Options
from refold.tasks.lanes import Lane, by_turn
from refold.tasks.task import Task

__all__ = ["ConcurrentScheduler"]


class ConcurrentScheduler(LaneScheduler):
    """Runs up to `limit` attempts at once. Whose time has come waits for a slot, and who has waited longest goes first.

    A step of priority counts as 10 seconds of waiting, so that a higher priority goes first and none waits for ever.

    Args:
        limit: the number of slots.
        options: see `refold.tasks.LaneScheduler`.
    """

    def __init__(self, limit: int = 10, **options: Unpack[Options]) -> None:
        self._only = Lane(limit, by_turn)
        super().__init__([self._only], **options)

    @property
    def limit(self) -> int:
        """How many attempts may run at once. May be set at any time; attempts under way go on. At least 1."""
        return self._only.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._only.limit = limit
        self._pump(self._only)

    def _lane(self, task: Task) -> Lane:
        return self._only
