"""Items in order, any of which may be taken out at any time; and the one timer above what is to come."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final, Generic, TypeVar

from refold.clock import Alarm, AlarmClock

__all__ = ["Agenda", "Alarms"]

T = TypeVar("T")

_SLACK: Final = 64


class Agenda(Generic[T]):
    """Items by rising key; equal keys in the order in which they came.

    A heap. What is discarded stays in it until its turn comes, or until such remains are the greater part.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, T]] = []
        self._turns: dict[T, int] = {}
        self._count = count()

    def __len__(self) -> int:
        return len(self._turns)

    def put(self, key: Any, item: T) -> None:
        """Adds an item, or moves it to another key."""
        turn = next(self._count)
        self._turns[item] = turn
        heapq.heappush(self._heap, (key, turn, item))

    def discard(self, item: T) -> None:
        """Takes an item out, if it is there."""
        if self._turns.pop(item, None) is None or len(self._heap) < 2 * len(self._turns) + _SLACK:
            return
        self._heap = [entry for entry in self._heap if self._turns.get(entry[2]) == entry[1]]
        heapq.heapify(self._heap)

    def first_key(self) -> Any | None:
        """The lowest key; None where nothing is left."""
        while self._heap:
            key, turn, item = self._heap[0]
            if self._turns.get(item) == turn:
                return key
            heapq.heappop(self._heap)
        return None

    def pop(self) -> T | None:
        """Takes the first item out; None where nothing is left."""
        while self._heap:
            _, turn, item = heapq.heappop(self._heap)
            if self._turns.get(item) == turn:
                del self._turns[item]
                return item
        return None


class Alarms(Generic[T]):
    """Calls for items when their moments have come: one timer for all, set for the first of them.

    Args:
        clock: where the timer is set.
        now: tells the time that moments are in, in seconds.
        ring: called with the items whose moment has come, in order; they are out of the agenda then.
        longest: seconds after which the time is looked at in any case, for times that may jump.
    """

    def __init__(
        self,
        clock: AlarmClock,
        now: Callable[[], float],
        ring: Callable[[Sequence[T]], None],
        *,
        longest: float | None = None,
    ) -> None:
        self._clock = clock
        self._now = now
        self._ring = ring
        self._longest = longest
        self._agenda: Agenda[T] = Agenda()
        self._alarm: Alarm | None = None
        self._set_for = 0.0

    def __len__(self) -> int:
        return len(self._agenda)

    def put(self, moment: float, item: T) -> None:
        """Adds an item, or moves it to another moment."""
        self._agenda.put(moment, item)
        if self._alarm is None or moment < self._set_for:
            self._set()

    def discard(self, item: T) -> None:
        """Takes an item out, if it is there."""
        self._agenda.discard(item)  # a timer that was set for it finds nothing to do

    def stop(self) -> None:
        """Takes the timer back; items stay."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set(self) -> None:
        self.stop()
        first = self._agenda.first_key()
        if first is None:
            return
        self._set_for = first
        seconds = max(first - self._now(), 0.0)
        if self._longest is not None:
            seconds = min(seconds, self._longest)
        self._alarm = self._clock.call_later(seconds, self._look)

    def _look(self) -> None:
        self._alarm = None
        now = self._now()
        due: list[T] = []
        while (first := self._agenda.first_key()) is not None and first <= now:
            item = self._agenda.pop()
            assert item is not None  # noqa: S101 (there is a first key)
            due.append(item)
        self._ring(due)
        if self._alarm is None:
            self._set()
