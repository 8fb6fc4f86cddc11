"""Events: what happened, to which aggregate, in which order; and the tie between type names and payload classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from refold.errors import DefinitionError

__all__ = ["DomainEvent", "EventType", "NewEvent", "Upcaster", "event", "event_type_of"]

P_co = TypeVar("P_co", covariant=True)
C = TypeVar("C", bound=type)

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes a payload of one schema version (as decoded JSON) one of the next version."""

_ATTRIBUTE: Final = "__refold_event__"


class DomainEvent(msgspec.Struct, Generic[P_co], frozen=True, gc=False, kw_only=True, rename={"type": "event_type"}):
    """One event, as it stands in the stream; immutable.

    Attributes:
        id: unique id; also the message id it was published with.
        aggregate_id: id of the aggregate it happened to.
        type: the event type's name (``event_type`` on the wire).
        aggregate_type: type of that aggregate.
        timestamp: when it happened: aware, UTC, microseconds.
        version: number of the event within its aggregate, from 1.
        payload: what happened, of the class that the type name stands for.
        payload_version: schema version of the payload as it was published.
        position: sequence in the stream, from 1; 0 before it is published.
        raw_headers: the NATS header block as received; None where there is none. Read `headers` instead.
    """

    id: str
    aggregate_id: str
    type: str
    aggregate_type: str
    timestamp: datetime
    version: Annotated[int, msgspec.Meta(ge=1)]
    payload: P_co
    payload_version: Annotated[int, msgspec.Meta(ge=1)] = 1
    position: int = 0
    raw_headers: bytes | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The message's headers by name; the last one wins where a name stands twice. Parsed at each call."""
        return parse_headers(self.raw_headers) if self.raw_headers else {}


def parse_headers(block: bytes) -> dict[str, str]:
    r"""The headers of a NATS header block (``NATS/1.0\\r\\nName: value\\r\\n\\r\\n``, the first line optional) by name."""
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return headers


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to publish, where the payload alone does not say enough.

    Attributes:
        payload: an instance of an `event` class, or, with `type`, anything that JSON can hold.
        type: the type's name; by default that of the payload's class.
        id: unique id; a random one by default.
        timestamp: when it happened (aware); by default now.
        headers: further NATS headers.
    """

    payload: Any
    type: str | None = None
    id: str | None = None
    timestamp: datetime | None = None
    headers: Mapping[str, str] | None = None


class EventType(msgspec.Struct, frozen=True):
    """The tie between a type name and a payload class.

    Attributes:
        name: the type's name in subjects and envelopes.
        payload: the class its payloads are decoded to; ``dict`` takes any JSON object.
        upcast_from: for each older schema version, what makes its payload one of the next version.
    """

    name: str
    payload: Any
    upcast_from: Mapping[int, Upcaster] = {}

    @property
    def payload_version(self) -> int:
        """Schema version of payloads published now: one above the newest version that is upcast."""
        return max(self.upcast_from, default=0) + 1

    def upcast(self, payload: dict[str, Any], version: int) -> dict[str, Any]:
        """Lifts a decoded payload from a schema version to the current one.

        Raises:
            LookupError: there is no upcaster for that version.
        """
        while version != self.payload_version:
            if version not in self.upcast_from:
                raise LookupError(
                    f"event type {self.name!r} has no upcaster from payload version {version}; add it to upcast_from"
                )
            payload = self.upcast_from[version](payload)
            version += 1
        return payload


def event(name: str, *, upcast_from: Mapping[int, Upcaster] | None = None) -> Callable[[C], C]:
    """Ties a payload class to an event type name, once, for reading and publishing.

    Args:
        name: the type's name in subjects and envelopes.
        upcast_from: ``{1: f}`` makes payloads of schema version 1 ones of version 2, and so on without a gap. The class
            describes the newest version.

    Raises:
        DefinitionError: the name is empty, the class is tied already, or the upcasters have a gap.
    """
    upcasters = dict(upcast_from or {})
    if not name or not isinstance(name, str):
        raise DefinitionError("@event needs the type's name: @event('order_placed')")
    if sorted(upcasters) != list(range(1, len(upcasters) + 1)):
        raise DefinitionError(
            f"@event({name!r}): upcast_from has versions {sorted(upcasters)}; give 1, 2, … without a gap"
        )

    def tie(cls: C) -> C:
        if not isinstance(cls, type):
            raise DefinitionError(f"@event({name!r}) ties a class, not {cls!r}")
        known: EventType | None = cls.__dict__.get(_ATTRIBUTE)
        if known is not None:
            raise DefinitionError(f"{cls.__name__} is tied to event type {known.name!r} already; use one class a type")
        setattr(cls, _ATTRIBUTE, EventType(name, cls, upcasters))
        return cls

    return tie


def event_type_of(cls: Any) -> EventType:
    """The event type that a payload class was tied to by `event`.

    Raises:
        DefinitionError: it was not.
    """
    known: EventType | None = getattr(cls, "__dict__", {}).get(_ATTRIBUTE)
    if known is None:
        name = getattr(cls, "__name__", repr(cls))
        raise DefinitionError(f"{name} is no event: decorate the class with @event('its_type_name')")
    return known
