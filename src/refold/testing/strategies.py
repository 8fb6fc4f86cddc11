"""Hypothesis strategies for payloads, histories and schedules. They need ``pip install 'refold[testing]'``."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from refold.codecs.payloads import PayloadCodec, encode_payload, is_pydantic
from refold.engine.projector import Projector
from refold.engine.spec import ProjectorSpec
from refold.errors import DefinitionError, UndecodableEvent
from refold.event import EventType
from refold.testing.faults import FATES, Fate, Schedule
from refold.testing.history import Again, Happened, Past, happened

__all__ = ["histories", "payloads", "schedules"]

_IDS: Final = ("a", "a", "b.1", "ünï *>")
"""Ids of aggregates: few, so that each has a history; some that subjects must escape."""

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


# -- Payloads ----------------------------------------------------------------------------------------------------------


def payloads(payload: Any) -> SearchStrategy[Any]:
    """Payloads of a class: `msgspec.Struct`, dataclass, TypedDict or pydantic model. Values are tame: what views may hold.

    Raises:
        DefinitionError: no strategy is known for it, or for one of its fields.
    """
    if payload is dict or get_origin(payload) is dict:
        raise DefinitionError(
            "payloads that are dicts may hold anything: give a strategy for them, payloads={'type': …}"
        )
    codec = PayloadCodec(EventType("generated", payload))

    def comes_back(value: Any) -> bool:
        try:
            codec.decode(encode_payload(value), 1)
        except UndecodableEvent:
            return False
        return True

    return _of(payload).filter(comes_back)


_PLAIN: Final[Mapping[Any, SearchStrategy[Any]]] = {
    str: st.one_of(
        st.sampled_from(["", "x", "y", "ünï"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    ),
    int: st.integers(-1000, 1000),
    float: st.floats(-1e6, 1e6, allow_nan=False, width=32),
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    Decimal: st.decimals(-10_000, 10_000, places=2, allow_nan=False),
    datetime: st.integers(0, 10**12).map(lambda us: _START + timedelta(microseconds=us)),
    date: st.dates(date(2000, 1, 1), date(2040, 1, 1)),
    type(None): st.none(),
    Any: st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(["", "x"])),
}


def _of(hint: Any) -> SearchStrategy[Any]:
    """Values of a type."""
    if (isinstance(hint, type) and hint in _PLAIN) or hint is Any:
        return _PLAIN[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _limited(args[0], args[1:])
    if origin in (Union, types.UnionType):
        return st.one_of([_of(one) for one in args])
    fields = _fields(hint)
    if fields is not None:
        return _built(hint, fields)
    if origin is list:
        return st.lists(_of(args[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(_of(args[0]), _of(args[1]), max_size=3)
    try:
        return st.from_type(hint)
    except Exception as error:
        raise DefinitionError(f"no values are known for {hint!r}; give a strategy: payloads={{MyEvent: …}}") from error


def _fields(cls: Any) -> dict[str, Any] | None:
    """The fields of a class, with their types; None where it has none that are known."""
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct):
        return {field.name: field.type for field in msgspec.structs.fields(cls)}
    if dataclasses.is_dataclass(cls):
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    if is_pydantic(cls):
        found = cls.model_fields.items()
        return {name: Annotated[(info.annotation, *info.metadata, None)] for name, info in found}
    return get_type_hints(cls, include_extras=True) if is_typeddict(cls) else None


def _built(cls: Any, fields: dict[str, Any]) -> SearchStrategy[Any]:
    values = st.fixed_dictionaries({name: st.deferred(lambda hint=hint: _of(hint)) for name, hint in fields.items()})  # type: ignore[misc]

    def build(given: dict[str, Any]) -> Any:
        try:
            return cls(**given)
        except ValueError:  # a condition that the class has of its own
            return None

    return values.map(build).filter(lambda made: made is not None)


def _limited(hint: Any, marks: tuple[Any, ...]) -> SearchStrategy[Any]:
    """Values of a type within limits, as `msgspec.Meta` and pydantic's `Field` give them."""
    limits: dict[str, Any] = {}
    for mark in marks:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            value = getattr(mark, name, None)
            if value is not None:
                limits[name] = value
    if hint in (int, Decimal, float) and limits.keys() & {"ge", "gt", "le", "lt"}:
        low = limits.get("ge", limits.get("gt", -1000))
        high = limits.get("le", limits.get("lt", max(1000, low + 1000)))
        step = 1 if hint is int else 0
        low, high = low + step * ("gt" in limits), high - step * ("lt" in limits)
        if hint is int:
            return st.integers(low, high)
        if hint is float:
            return st.floats(low, high, exclude_min="gt" in limits, exclude_max="lt" in limits, allow_nan=False)
        return st.decimals(low, high, places=2, allow_nan=False).filter(
            lambda v: v not in (limits.get("gt"), limits.get("lt"))
        )
    if hint is str and limits:
        short = limits.get("min_length", 0)
        return st.text("abü ", min_size=short, max_size=limits.get("max_length", short + 8))
    return _of(hint)


# -- Histories and schedules -------------------------------------------------------------------------------------------


def histories(
    projector: type[Projector[Any]] | Projector[Any],
    given: Mapping[type | str, SearchStrategy[Any]] | None = None,
    *,
    max_events: int = 30,
) -> SearchStrategy[list[Past]]:
    """Histories of a few aggregates, with events that come again, leave versions out, or come late.

    Args:
        projector: whose events.
        given: payloads, by class or event type name, instead of those of `payloads`.
        max_events: most events of a history.
    """
    spec: ProjectorSpec[Any] = projector.spec
    kinds = sorted(spec.wanted.aggregate_types or ("thing", "other"))
    own = dict(given or {})
    events = st.one_of(
        [
            _event(spec, kinds, name, own.get(name, own.get(route.event_type.payload)))
            for name, route in spec.routes.items()
        ]
    )
    again = st.builds(Again, st.integers(1, max(1, max_events // 3)))
    steps = st.one_of(events, events, events, again)
    # Lists are short unless told otherwise, and shrink to the first kind.
    few, many = st.lists(steps, max_size=max_events), st.lists(steps, min_size=max_events // 3, max_size=max_events)
    return st.one_of(few, many).map(_possible)


def _event(
    spec: ProjectorSpec[Any], kinds: list[str], name: str, given: SearchStrategy[Any] | None
) -> SearchStrategy[Happened]:
    payload = spec.routes[name].event_type.payload
    versions = st.one_of(st.none(), st.none(), st.none(), st.integers(1, 6))
    return st.builds(
        happened,
        st.sampled_from(_IDS),
        payloads(payload) if given is None else given,
        aggregate=st.sampled_from(kinds) if len(kinds) > 1 or spec.wanted.aggregate_types is None else st.none(),
        type=st.just(name) if payload is dict else st.none(),
        version=versions,
    )


def _possible(steps: list[Happened | Again]) -> list[Past]:
    """Without the repetitions of events that are not there."""
    return [one for i, one in enumerate(steps) if not isinstance(one, Again) or one.number <= _before(steps, i)]


def _before(steps: list[Happened | Again], index: int) -> int:
    return sum(not isinstance(one, Again) for one in steps[:index])


def schedules() -> SearchStrategy[Schedule]:
    """How histories come: what is there at first, how they are cut, and what becomes of commits."""
    fates: SearchStrategy[Fate] = st.sampled_from(FATES)
    return st.builds(
        Schedule,
        built=st.integers(0, 15),
        cuts=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
        batch=st.integers(1, 9),
        fates=st.lists(fates, max_size=8).map(tuple),
    )
