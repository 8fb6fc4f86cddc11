"""A stream in memory: a list of events that can be read and followed as a real one."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import cycle
from typing import Final

from refold.event import DomainEvent
from refold.filters import EventFilter
from refold.ports import EventSource, RawBatch, RawMessage, StreamIdentity, StreamState, anchor_of
from refold.testing.history import message_of

__all__ = ["ListStream"]

NAME: Final = "list"
_CREATED: Final = "2026-01-01T00:00:00Z"


class ListStream(EventSource):
    """A stream of events in memory; `append` lets more come to those who follow it.

    Args:
        events: what is there at first, positions rising.
        cuts: how many messages a batch has, in turns.
    """

    def __init__(self, events: Sequence[DomainEvent[object]] = (), cuts: Sequence[int] = (100,)) -> None:
        self._messages: list[RawMessage] = [message_of(event) for event in events]
        self._positions: list[int] = [event.position for event in events]
        self._times = {event.position: event.timestamp for event in events}
        self._cuts = cuts
        self._more = asyncio.Event()

    def append(self, event: DomainEvent[object]) -> None:
        """Stores one more event."""
        self._messages.append(message_of(event))
        self._positions.append(event.position)
        self._times[event.position] = event.timestamp
        self._more.set()
        self._more = asyncio.Event()

    @property
    def head(self) -> int:
        """Position of the last event."""
        return self._positions[-1] if self._positions else 0

    async def state(self) -> StreamState:
        return StreamState(NAME, _CREATED, 1, self.head, len(self._messages))

    async def batches(self, wanted: EventFilter, *, until: int) -> AsyncGenerator[RawBatch, None]:
        for batch in self._read(self._start(wanted), until, cycle(self._cuts)):
            yield batch

    async def follow(
        self, wanted: EventFilter, identity: StreamIdentity, *, name: str = "", accept_expired: bool = False
    ) -> AsyncGenerator[RawBatch, None]:
        last, cuts = max(identity.position, self._start(wanted)), cycle(self._cuts)
        while True:
            more = self._more
            for batch in self._read(last, self.head, cuts):
                last = batch.last
                yield batch
            if self.head <= last:  # else more has come meanwhile
                yield RawBatch((), last)
                await more.wait()

    async def anchor(self, position: int) -> str | None:
        found = [message for message in self._messages if message[3] == position]
        return anchor_of(found[0]) if found else None

    def _read(self, after: int, until: int, cuts: Iterator[int]) -> Iterator[RawBatch]:
        at, end = bisect_right(self._positions, after), bisect_right(self._positions, until)
        while at < end:
            part = self._messages[at : min(end, at + next(cuts))]
            at += len(part)
            yield RawBatch(part, part[-1][3], end - at)

    def _start(self, wanted: EventFilter) -> int:
        """The position before the first that is wanted."""
        if wanted.start_time is not None:
            early = [at for at, time in self._times.items() if time < wanted.start_time]
            return max(early, default=0)
        return (wanted.start_position or 1) - 1
