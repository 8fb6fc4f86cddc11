"""Which events a projection wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from refold.errors import DefinitionError
from refold.event import DomainEvent
from refold.subjects import SubjectScheme

__all__ = ["EventFilter", "Predicate"]

Predicate = Callable[[DomainEvent[Any]], bool]
"""Says whether an event is wanted. Deterministic: no clock, no randomness, no I/O."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events of a stream are wanted; every condition must hold.

    Attributes:
        aggregate_types: only these aggregate types; None for all.
        event_types: only these event types; None for all.
        start_time: only events *stored* at or after this time (aware). It acts on the server, by the time at which the
            server stored the message.
        start_position: only events at or after this stream sequence (from 1).
        predicate: asked last, about the whole event.

    Raises:
        DefinitionError: an empty set, a naive time, a position below 1, or both a time and a position.
    """

    aggregate_types: frozenset[str] | None = None
    event_types: frozenset[str] | None = None
    start_time: datetime | None = None
    start_position: int | None = None
    predicate: Predicate | None = None

    def __post_init__(self) -> None:
        if self.aggregate_types is not None and not self.aggregate_types:
            raise DefinitionError("a filter of no aggregate types wants nothing; leave it out to want all")
        if self.event_types is not None and not self.event_types:
            raise DefinitionError("a filter of no event types wants nothing; leave it out to want all")
        if self.start_time is not None and self.start_time.tzinfo is None:
            raise DefinitionError("start_time has no time zone; use an aware datetime")
        if self.start_position is not None and self.start_position < 1:
            raise DefinitionError(f"start_position is {self.start_position}; stream sequences start at 1")
        if self.start_time is not None and self.start_position is not None:
            raise DefinitionError("give start_time or start_position, not both")

    def accepts(self, event: DomainEvent[Any]) -> bool:
        """Whether an event is wanted. `start_time`, which is about the time of storing, is not looked at."""
        return (
            (self.aggregate_types is None or event.aggregate_type in self.aggregate_types)
            and (self.event_types is None or event.type in self.event_types)
            and (self.start_position is None or event.position >= self.start_position)
            and (self.predicate is None or self.predicate(event))
        )

    def subjects(self, scheme: SubjectScheme, limit: int = 50) -> Sequence[str]:
        """Filter subjects that select at least the wanted events; empty where the whole stream is to be read.

        Args:
            scheme: the stream's way to write subjects.
            limit: above so many subjects a server is slower with them than without: then fewer, wider ones are given.
        """
        aggregates = sorted(self.aggregate_types) if self.aggregate_types is not None else [None]
        events = sorted(self.event_types) if self.event_types is not None else [None]
        if aggregates == [None] and events == [None]:
            return ()
        if len(aggregates) * len(events) <= limit:
            return [scheme.pattern(a, None, e) for a in aggregates for e in events]
        if aggregates != [None] and len(aggregates) <= limit:
            return [scheme.pattern(a) for a in aggregates]
        return ()
