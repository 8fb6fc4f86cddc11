"""A fold in the plainest way: one event after another, everything copied, no cache, no batch. It shares no code with refold's
fold, and so can judge it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from refold.cells import check
from refold.engine.policy import ErrorPolicy
from refold.engine.projector import Projector
from refold.engine.spec import DELETE, Route
from refold.errors import RowRefused
from refold.event import DomainEvent
from refold.view import Row, View

__all__ = ["Call", "Failure", "PlainFold", "call_plainly"]


class Call(Protocol):
    """Calls a piece of the user's code."""

    def __call__(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """What the function gives; `what` names it."""
        ...


def call_plainly(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """Calls, and nothing else."""
    return function(*args)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An event that could not be used for a view, or (`parked`) that came after such a one.

    Attributes:
        position: the event's.
        key: the view's; empty where it cannot be told.
        parked: whether it is well itself.
        reason: what was raised.
    """

    position: int
    key: str
    parked: bool = False
    reason: str = ""


class PlainFold:
    """The views of a history.

    Args:
        projector: the user's fold.
        call: calls handlers, keys and predicate.

    Attributes:
        views: by key.
        failures: what could not be used, in order.
        halted: position of the event at which the projection stops; None where it does not.
        unstorable: the first row that no database takes, and the position where it came about.
    """

    def __init__(self, projector: Projector[Any], call: Call = call_plainly) -> None:
        self.views: dict[str, View] = {}
        self.failures: list[Failure] = []
        self.halted: int | None = None
        self.unstorable: tuple[int, RowRefused] | None = None
        self._projector = projector
        self._spec = projector.spec
        self._call = call
        self._handled: dict[tuple[str, str], int] = {}
        self._held: set[str] = set()

    @property
    def rows(self) -> dict[str, Row]:
        """The views as they are when they come back from a database, as rows, by key."""
        schema = self._spec.schema
        return {key: schema.freeze(schema.thaw(schema.freeze(view))) for key, view in self.views.items()}

    def feed_all(self, events: Iterable[DomainEvent[Any]]) -> None:
        """Folds events, until the end or until the projection would stop."""
        for event in events:
            self._feed(event)
            if self.halted is not None:
                return

    def _feed(self, event: DomainEvent[Any]) -> None:
        route = self._spec.routes[event.type]
        aggregate = (event.aggregate_type, event.aggregate_id)
        try:
            predicate = self._spec.wanted.predicate
            if predicate is not None and not self._call("predicate", predicate, event):
                return
            if self._spec.keyed and self._spec.deduplicate:
                if event.version <= self._handled.get(aggregate, 0):
                    return
                self._handled[aggregate] = event.version
            keys = self._keys(event, route)
        except Exception as error:  # noqa: BLE001 (a user's code may raise anything)
            self._fail(event, "", error)
            return
        for key in keys:
            self._feed_view(key, event, route)

    def _keys(self, event: DomainEvent[Any], route: Route) -> Sequence[str]:
        if route.key is not None:
            keys: Sequence[Any] = [self._call(f"key= of {event.type}", route.key, event)]
        elif route.keys is not None:
            given = self._call(f"keys= of {event.type}", route.keys, event)
            keys = [] if isinstance(given, str) else list(dict.fromkeys(given))
            if isinstance(given, str):
                raise TypeError(f"keys= gave one text, {given!r}")
        else:
            keys = [event.aggregate_id]
        if not all(isinstance(key, str) and key for key in keys):
            raise ValueError(f"not a key: {keys!r}")
        return keys

    def _feed_view(self, key: str, event: DomainEvent[Any], route: Route) -> None:
        if key in self._held:
            self.failures.append(Failure(event.position, key, parked=True))
            return
        aggregate = (event.aggregate_type, event.aggregate_id)
        before = self.views.get(key)
        if not self._spec.keyed:
            done = self._handled.get(aggregate, 0) if before is None else before.version
            if event.version <= done:
                return
        if before is None and not route.create:
            if not self._spec.keyed:
                self._handled[aggregate] = event.version
            return
        try:
            after = self._after(key, before, event, route)
        except Exception as error:  # noqa: BLE001
            self._fail(event, key, error)
            return
        if after is not None:
            self.views[key] = after
            return
        self.views.pop(key, None)
        if not self._spec.keyed:
            self._handled[aggregate] = event.version

    def _after(self, key: str, before: View | None, event: DomainEvent[Any], route: Route) -> View | None:
        """A view after an event; None after a DELETE."""
        schema = self._spec.schema
        view: Any = copy.deepcopy(before) if before is not None else schema.view()
        version = (0 if before is None else before.version) + 1 if self._spec.keyed else event.version
        if before is None:
            view.id, view.created_at = key, event.timestamp
        handler = getattr(self._projector, route.handler)
        result = self._call(route.handler, handler, view, copy.deepcopy(event))
        if result is DELETE:
            return None
        if result is not None and type(result) is not schema.view:
            raise TypeError(f"{route.handler} returned {result!r:.80}")
        after: Any = copy.deepcopy(view if result is None else result)
        after.id, after.version, after.updated_at, after.position = key, version, event.timestamp, event.position
        if result is not None:
            after.created_at = view.created_at
        try:
            check(schema, schema.freeze(after))
        except RowRefused as error:
            self.unstorable = self.unstorable or (event.position, error)
        return after  # type: ignore[no-any-return]

    def _fail(self, event: DomainEvent[Any], key: str, error: Exception) -> None:
        policy = self._spec.policies.policy(type(error))
        self.failures.append(Failure(event.position, key, reason=f"{type(error).__name__}: {error}"))
        if policy is ErrorPolicy.HALT:
            self.halted = event.position
        elif policy is ErrorPolicy.QUARANTINE and key:
            self._held.add(key)
