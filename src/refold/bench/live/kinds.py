"""A domain of 24 event types, and projections that share it in three ways: one, 24 parts, 24 times everything."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final

import msgspec

from refold.bench.model import EPOCH
from refold.engine.projector import Projector, on
from refold.event import DomainEvent, event
from refold.view import View

__all__ = ["KIND", "SETS", "draw_kinds"]

KIND: Final = "thing"
"""The aggregate type of all events."""

_TYPES: Final = 24


def _payload(number: int) -> type[msgspec.Struct]:
    fields = [("amount", Decimal), ("number", int), ("note", str)]
    return event(f"kind_{number:02}")(msgspec.defstruct(f"Kind{number:02}", fields, gc=False))


_PAYLOADS: Final = tuple(_payload(number) for number in range(_TYPES))


def _projector(name: str, handled: Sequence[type[msgspec.Struct]]) -> type[Projector[Any]]:
    """A projection with a view class of its own, which counts and sums up the event types that it handles."""
    fields = [("events", int, 0), ("total", Decimal, Decimal(0)), ("number", int, 0), ("note", str, "")]
    view = msgspec.defstruct(f"View_{name}", fields, bases=(View,), module=__name__, gc=False)

    def happened(self: Any, view: Any, event: DomainEvent[Any]) -> None:
        payload = event.payload
        view.events += 1
        view.total += payload.amount
        view.number = payload.number
        view.note = payload.note

    def body(namespace: dict[str, Any]) -> None:
        namespace["happened"] = on(*handled)(happened)

    bases: Any = (Projector[view],)  # type: ignore[valid-type]
    made: type[Projector[Any]] = types.new_class(
        f"Projector_{name}", bases, {"name": name, "aggregate": KIND, "version": 1}, body
    )
    return made


SETS: Final[Mapping[str, Sequence[type[Projector[Any]]]]] = {
    "one": (_projector("whole", _PAYLOADS),),
    "parts": tuple(_projector(f"part_{n:02}", [payload]) for n, payload in enumerate(_PAYLOADS)),
    "all": tuple(_projector(f"every_{n:02}", _PAYLOADS) for n in range(_TYPES)),
}
"""Projections by how they share the work."""


def draw_kinds(aggregates: int, seed: int = 1) -> Iterator[DomainEvent[Any]]:
    """Events without an end, the same ones for the same arguments: the aggregate and the type of each are drawn."""
    random = Random(seed)  # noqa: S311 (no secret)
    versions, number = [0] * aggregates, 0
    while True:
        aggregate, kind = random.randrange(aggregates), random.randrange(_TYPES)
        versions[aggregate] += 1
        yield DomainEvent(
            id=f"{random.getrandbits(128):032x}",
            aggregate_id=str(aggregate),
            type=f"kind_{kind:02}",
            aggregate_type=KIND,
            timestamp=EPOCH + timedelta(milliseconds=number),
            version=versions[aggregate],
            payload=_PAYLOADS[kind](Decimal(f"{number % 900}.{number % 100:02}"), number, f"note {number % 300}"),
        )
        number += 1
