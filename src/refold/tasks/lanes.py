"""Lanes: tasks whose time has come wait in one for a slot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from refold.errors import ConfigurationError
from refold.tasks.agenda import Agenda
from refold.tasks.entry import Entry

__all__ = ["Lane", "by_due_time", "by_turn"]

_WORTH: Final = 10.0
"""Seconds of waiting that one step of priority is worth."""

Order = Callable[[datetime, datetime, int], Any]
"""Gives the key that a lane is ordered by: of due time, the moment it became ready, and priority."""


def by_due_time(due: datetime, ready: datetime, priority: int) -> tuple[float, int]:
    """Strictly in order of due time; priority decides among equal ones."""
    return due.timestamp(), -priority


def by_turn(due: datetime, ready: datetime, priority: int) -> float:
    """Who has waited longest goes first; a step of priority counts as 10 seconds of waiting, so that nobody starves."""
    return ready.timestamp() - _WORTH * priority


class Lane:
    """So many slots, and an ordered queue for them.

    Args:
        limit: the number of slots.
        order: who goes first.

    Attributes:
        running: slots that are taken; above `limit` for a while where that was lowered.

    Raises:
        ConfigurationError: the limit is below 1.
    """

    def __init__(self, limit: int, order: Callable[[datetime, datetime, int], Any]) -> None:
        self._order = order
        self._queue: Agenda[Entry] = Agenda()
        self.running = 0
        self.limit = limit

    @property
    def limit(self) -> int:
        """The number of slots."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if limit < 1:
            raise ConfigurationError(f"limit={limit} must be at least 1")
        self._limit = limit

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._queue)

    def put(self, entry: Entry, due: datetime, ready: datetime) -> None:
        """Queues a task whose time has come."""
        self._queue.put(self._order(due, ready, entry.task.priority), entry)

    def discard(self, entry: Entry) -> None:
        """Takes a task out of the queue, if it is there."""
        self._queue.discard(entry)

    def take(self) -> Entry | None:
        """Gives a slot to the one whose turn it is; None where there is no slot, or nobody."""
        if self.running >= self._limit:
            return None
        entry = self._queue.pop()
        if entry is not None:
            self.running += 1
        return entry

    def release(self) -> None:
        """Gives a slot back."""
        self.running -= 1
