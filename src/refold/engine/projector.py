"""Projectors: the user's fold, as a class whose handlers are checked when the class is made."""

from __future__ import annotations

import inspect
import re
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from refold.engine.fold import Fold
from refold.engine.policy import ErrorPolicies, ErrorPolicy, ErrorRule
from refold.engine.spec import KeyFunction, KeysFunction, ProjectorSpec, Route
from refold.errors import DefinitionError
from refold.event import DomainEvent, EventType, event_type_of
from refold.filters import EventFilter, Predicate
from refold.view import View, ViewSchema

__all__ = ["AggregateProjector", "Projector", "on"]

V = TypeVar("V", bound=View)
H = TypeVar("H", bound=Callable[..., Any])

_ATTRIBUTE: Final = "__refold_on__"
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def on(
    *event_types: type | str,
    create: bool = True,
    key: KeyFunction | None = None,
    keys: KeysFunction | None = None,
    replaces: bool = False,
) -> Callable[[H], H]:
    """Makes a method the handler of event types.

    Args:
        event_types: payload classes made by `event`, or type names, whose payloads are then plain JSON objects.
        create: False ignores (and counts) events whose row does not exist.
        key: gives the key of the view that the event goes to, instead of the aggregate's id.
        keys: gives the keys of several views; each gets the event once.
        replaces: declares that an event makes all earlier ones of its type and aggregate irrelevant, which
            ``latest_only`` rests on.

    Raises:
        DefinitionError: no type, one that is no event, or both `key` and `keys`.
    """
    if not event_types or (callable(event_types[0]) and not isinstance(event_types[0], type)):
        raise DefinitionError("@on needs the event types: @on(OrderPlaced)")
    if key is not None and keys is not None:
        raise DefinitionError("@on takes key= (one view) or keys= (several), not both")
    known = [EventType(t, dict) if isinstance(t, str) else event_type_of(t) for t in event_types]

    def mark(handler: H) -> H:
        routes = [Route(t, handler.__name__, create, key, keys, replaces) for t in known]
        setattr(handler, _ATTRIBUTE, getattr(handler, _ATTRIBUTE, []) + routes)
        return handler

    return mark


class AggregateProjector(ABC, Generic[V]):
    """Replays an aggregate's events into a view. Anyone may implement it by hand; `Projector` is one implementation."""

    @abstractmethod
    def project(self, aggregate_type: str, aggregate_id: str, events: Iterable[DomainEvent[Any]]) -> V | None:
        """The view of one aggregate; None where its events make none.

        Args:
            aggregate_type: the aggregate's type.
            aggregate_id: its id.
            events: all of its events that matter, in position order.
        """


class Projector(AggregateProjector[V]):
    """Base of declarative projectors: one class a projection, one method a kind of change.

    Class arguments:
        name: the projection's name: up to 40 of ``a-z``, ``0-9`` and ``_``.
        aggregate: the aggregate types it reads: one, several, or None (the default) for all.
        version: from 1; raise it when the fold or the view changes.
        start_time, start_position: where its history begins; see `EventFilter`.
        predicate: further condition on events; see `EventFilter`.
        on_error: what to do about events that fail: an `ErrorPolicy` or its name, a `Retry`, or a mapping of these by type of
            exception, in which `Exception` stands for the rest; quarantine by default.
        deduplicate: False spares a keyed projection the memory of every aggregate's version, and counts redelivered or
            republished events twice.

    Handlers take ``(self, view, event)``, are deterministic (no I/O, no clock, no randomness), change the view or return
    another, and ``return DELETE`` to remove the row. A view's `version`, `position` and times are kept by refold.

    Raises:
        DefinitionError: at class creation, naming the class, the handler and the mend.
    """

    spec: ClassVar[ProjectorSpec[Any]]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        aggregate: str | Iterable[str] | None = None,
        version: int = 1,
        start_time: datetime | None = None,
        start_position: int | None = None,
        predicate: Predicate | None = None,
        on_error: ErrorRule | str | Mapping[type[Exception], ErrorRule | str] = ErrorPolicy.QUARANTINE,
        deduplicate: bool = True,
        **rest: Any,
    ) -> None:
        super().__init_subclass__(**rest)
        if name is None:
            if inspect.isabstract(cls) or not _own_routes(cls):
                return  # a base class of projectors
            raise DefinitionError(f"{cls.__name__}: give the projection a name: class {cls.__name__}(…, name='…')")
        _require(bool(_NAME.fullmatch(name)), cls, f"name {name!r} is not up to 40 of a-z, 0-9 and _, no digit first")
        _require(not name.startswith("refold_"), cls, "names that start with refold_ are refold's own")
        _require(isinstance(version, int) and version >= 1, cls, f"version {version!r} is not 1, 2, …")
        view = _view_of(cls)
        routes = _routes(cls, view)
        aggregates = frozenset([aggregate] if isinstance(aggregate, str) else aggregate) if aggregate else None
        cls.spec = ProjectorSpec(
            name=name,
            version=version,
            schema=ViewSchema.of(view),
            routes=routes,
            wanted=EventFilter(
                aggregate_types=aggregates,
                event_types=frozenset(routes),
                start_time=start_time,
                start_position=start_position,
                predicate=predicate,
            ),
            policies=_policies(cls, on_error),
            keyed=aggregates is None or len(aggregates) > 1 or any(r.key or r.keys for r in routes.values()),
            deduplicate=deduplicate,
        )

    def project(self, aggregate_type: str, aggregate_id: str, events: Iterable[DomainEvent[Any]]) -> V | None:
        """The view of one aggregate, folded event by event; None where its events make none, or delete it.

        Events of other aggregates, and those that no handler wants, are passed over; so are duplicates.

        Raises:
            DefinitionError: the projector's views have keys of their own, so that no single aggregate makes one.
            Exception: what a handler raises.
        """
        if any(r.key or r.keys for r in self.spec.routes.values()):
            raise DefinitionError(
                f"{type(self).__name__} routes events by key= or keys=, so no single aggregate makes one of its views: "
                "rebuild the projection instead"
            )
        fold: Fold[V] = Fold(self, raising=True)
        for event in events:
            if event.aggregate_id == aggregate_id and event.aggregate_type == aggregate_type:
                fold.feed(event)
        return fold.view(aggregate_id)


def _require(condition: bool, cls: type, message: str) -> None:
    if not condition:
        raise DefinitionError(f"{cls.__name__}: {message}")


def _view_of(cls: type) -> type[View]:
    for base in cls.__mro__:
        for generic in base.__dict__.get("__orig_bases__", ()):
            origin = get_origin(generic)
            if isinstance(origin, type) and issubclass(origin, Projector):
                (view,) = get_args(generic)
                if isinstance(view, type) and issubclass(view, View):
                    return view
    raise DefinitionError(f"{cls.__name__}: say which view it makes: class {cls.__name__}(Projector[MyView], …)")


def _own_routes(cls: type) -> list[Route]:
    handlers = {name: getattr(cls, name, None) for name in dir(cls) if not name.startswith("__")}
    return [route for handler in handlers.values() for route in getattr(handler, _ATTRIBUTE, ())]


def _routes(cls: type, view: type[View]) -> dict[str, Route]:
    routes: dict[str, Route] = {}
    for route in _own_routes(cls):
        other = routes.setdefault(route.event_type.name, route)
        _require(
            other is route,
            cls,
            f"handlers {other.handler!r} and {route.handler!r} both take event type {route.event_type.name!r}; keep one",
        )
    _require(bool(routes), cls, "it has no handler; mark at least one method with @on(…)")
    for name in {route.handler for route in routes.values()}:
        _check_handler(cls, view, name, [r.event_type for r in routes.values() if r.handler == name])
    return routes


def _check_handler(cls: type, view: type[View], name: str, handled: list[EventType]) -> None:
    handler = getattr(cls, name)
    where = f"handler {name!r}"
    _require(not inspect.iscoroutinefunction(handler), cls, f"{where} is async; handlers do no I/O, so use plain def")
    parameters = list(inspect.signature(handler).parameters)
    _require(len(parameters) == 3, cls, f"{where} takes ({', '.join(parameters)}); it takes (self, view, event)")
    try:
        hints = get_type_hints(handler)
    except NameError:
        return  # names that only exist inside a function cannot be looked up
    said = hints.get(parameters[1], view)
    _require(said is Any or said is view, cls, f"{where}: view is annotated {_shown(said)}, not {view.__name__}")
    said = hints.get(parameters[2], Any)
    if get_origin(said) is DomainEvent:
        payloads = _alternatives(get_args(said)[0])
        missing = [t for t in handled if not (Any in payloads or t.payload in map(_bare, payloads))]
        _require(
            not missing,
            cls,
            f"{where} is annotated {_shown(said)}, and @on gives it {', '.join(_shown(t.payload) for t in missing)}",
        )
    else:
        _require(said in (Any, DomainEvent), cls, f"{where}: event is annotated {_shown(said)}, not DomainEvent[…]")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _bare(hint: Any) -> Any:
    return get_origin(hint) or hint


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _policies(cls: type, given: Any) -> ErrorPolicies:
    try:
        return ErrorPolicies.of(given)
    except DefinitionError as error:
        raise DefinitionError(f"{cls.__name__}: {error}") from None
