"""Histories as tests write them: what happened, in order, with versions, positions and times that follow by themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from refold.codecs.json import JsonCodec
from refold.engine.spec import ProjectorSpec
from refold.errors import DefinitionError
from refold.event import DomainEvent, EventType, event_type_of
from refold.ports import RawMessage
from refold.subjects import SubjectScheme

__all__ = [
    "Again",
    "Happened",
    "Past",
    "again",
    "decoded",
    "events_of",
    "happened",
    "message_of",
    "told_events",
    "wants",
]

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Time of position 0; every position is a second later."""

_CODEC: Final = JsonCodec()
_SCHEME: Final = SubjectScheme()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event that happened; make it by `happened`, which says what everything means."""

    aggregate_id: str
    payload: Any
    aggregate: str | None = None
    type: str | None = None
    version: int | None = None
    timestamp: datetime | None = None
    position: int | None = None
    id: str | None = None

    def __repr__(self) -> str:
        further = (f.name for f in dataclasses.fields(self)[2:])
        told = [repr(self.aggregate_id), repr(self.payload)]
        told += [f"{name}={value!r}" for name in further if (value := getattr(self, name)) is not None]
        return f"happened({', '.join(told)})"


@dataclasses.dataclass(frozen=True, slots=True)
class Again:
    """An event that is delivered once more; make it by `again`."""

    number: int

    def __repr__(self) -> str:
        return f"again({self.number})"


Past = Happened | Again | tuple[str, Any] | tuple[str, str, Any]
"""An event as a test writes it: ``happened(…)``, ``again(…)``, (aggregate id, payload) or (aggregate type, id, payload)."""


def happened(
    aggregate_id: str,
    payload: Any,
    *,
    aggregate: str | None = None,
    type: str | None = None,  # noqa: A002 (as in DomainEvent)
    version: int | None = None,
    timestamp: datetime | None = None,
    position: int | None = None,
    id: str | None = None,  # noqa: A002 (as in DomainEvent)
) -> Happened:
    """An event that happened to an aggregate.

    Args:
        aggregate_id: to which.
        payload: of an `event` class; or, with `type`, a dict.
        aggregate: its type; may be left out where the projector reads one type alone.
        type: the event type's name; by default that of the payload's class.
        version: by default one above the last of its aggregate, from 1.
        timestamp: aware; by default 2026-01-01 00:00 UTC and as many seconds as the position.
        position: by default one above the last, from 1.
        id: by default ``event-`` and the position.
    """
    return Happened(
        aggregate_id=aggregate_id,
        payload=payload,
        aggregate=aggregate,
        type=type,
        version=version,
        timestamp=timestamp,
        position=position,
        id=id,
    )


def again(number: int) -> Again:
    """The number-th event of the history (from 1) once more: same id, version, time and payload, at a new position."""
    return Again(number)


def events_of(past: Iterable[Past], spec: ProjectorSpec[Any]) -> list[DomainEvent[Any]]:
    """A history as the events that it stands for.

    Raises:
        DefinitionError: it does not say enough, or something that cannot be.
    """
    events: list[DomainEvent[Any]] = []
    versions: dict[tuple[str, str], int] = {}
    for one in past:
        position = events[-1].position + 1 if events else 1
        if isinstance(one, Again):
            if not 1 <= one.number <= len(events):
                raise DefinitionError(f"again({one.number}): there are {len(events)} events before it")
            events.append(msgspec.structs.replace(events[one.number - 1], position=position))
            continue
        event = _event(_happened(one), spec, position, versions)
        if event.position < position:
            raise DefinitionError(f"position {event.position} comes after {position - 1}; positions rise")
        aggregate = (event.aggregate_type, event.aggregate_id)
        versions[aggregate] = max(event.version, versions.get(aggregate, 0))
        events.append(event)
    return events


def _happened(one: Happened | tuple[Any, ...]) -> Happened:
    if isinstance(one, Happened):
        return one
    if isinstance(one, tuple) and len(one) in (2, 3) and all(isinstance(name, str) for name in one[:-1]):
        return happened(one[-2], one[-1], aggregate=one[0] if len(one) == 3 else None)
    raise DefinitionError(
        f"{one!r} is no event; write happened(aggregate_id, payload), (aggregate_id, payload) or "
        "(aggregate_type, aggregate_id, payload)"
    )


def _event(
    one: Happened, spec: ProjectorSpec[Any], position: int, versions: dict[tuple[str, str], int]
) -> DomainEvent[Any]:
    kind = one.aggregate or _only(spec, one)
    position = position if one.position is None else one.position
    tied = event_type_of(type(one.payload)) if one.type is None else EventType(one.type, dict)
    return DomainEvent(
        id=one.id or f"event-{position}",
        aggregate_id=one.aggregate_id,
        type=tied.name,
        aggregate_type=kind,
        timestamp=one.timestamp or START + timedelta(seconds=position),
        version=versions.get((kind, one.aggregate_id), 0) + 1 if one.version is None else one.version,
        payload=one.payload,
        payload_version=tied.payload_version,
        position=position,
    )


def _only(spec: ProjectorSpec[Any], one: Happened) -> str:
    kinds = sorted(spec.wanted.aggregate_types or ())
    if len(kinds) != 1:
        which = f"reads {', '.join(kinds)}" if kinds else "reads every aggregate type"
        raise DefinitionError(f"{spec.name} {which}: say which one it is, {one!r:.200} with aggregate='…'")
    return kinds[0]


# -- As a projector gets them ------------------------------------------------------------------------------------------


def message_of(event: DomainEvent[Any]) -> RawMessage:
    """An event as a message of a stream."""
    kind, aggregate_id, name = map(_SCHEME.encode, (event.aggregate_type, event.aggregate_id, event.type))
    return kind, aggregate_id, name, event.position, None, _CODEC.encode(event)[0]


def wants(spec: ProjectorSpec[Any], event: DomainEvent[Any]) -> bool:
    """Whether a projector gets to see an event; its predicate is not asked."""
    wanted = spec.wanted
    return (
        event.type in spec.routes
        and (wanted.aggregate_types is None or event.aggregate_type in wanted.aggregate_types)
        and event.position >= (wanted.start_position or 0)
        and (wanted.start_time is None or event.timestamp >= wanted.start_time)
    )


def decoded(spec: ProjectorSpec[Any], events: Sequence[DomainEvent[Any]]) -> Iterator[DomainEvent[Any]]:
    """The events that a projector gets to see, as they come from a stream: written, and read again.

    Raises:
        UndecodableEvent: a payload cannot be written or read.
    """
    decoders = {name: _CODEC.decoder(route.event_type) for name, route in spec.routes.items()}
    for event in events:
        if wants(spec, event):
            come = decoders[event.type](_CODEC.encode(event)[0], None)
            yield msgspec.structs.replace(come, position=event.position)


def told_events(events: Sequence[DomainEvent[Any]], *, limit: int = 30) -> str:
    """Events for people, one a line, the last ones of many."""
    if not events:
        return "  (none)"
    lines = [
        f"  {e.position:>3}  {e.aggregate_type} {e.aggregate_id!r} version {e.version}: {e.type}  {e.payload!r:.200}"
        for e in events[-limit:]
    ]
    return "\n".join([f"  … {len(events) - limit} more before", *lines] if len(events) > limit else lines)
