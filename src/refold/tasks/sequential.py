"""One task after another."""

from __future__ import annotations

from typing_extensions import Unpack

from refold.tasks.lane_scheduler import LaneScheduler, Options
from refold.tasks.lanes import Lane, by_due_time
from refold.tasks.task import Task

__all__ = ["SequentialScheduler"]


class SequentialScheduler(LaneScheduler):
    """Runs one attempt at a time, strictly in order of due time; among equal ones the higher priority goes first.

    Retries included: a retry is due when its wait is over, and others go on meanwhile.

    Args:
        options: see `refold.tasks.LaneScheduler`.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self._only = Lane(1, by_due_time)
        super().__init__([self._only], **options)

    def _lane(self, task: Task) -> Lane:
        return self._only
