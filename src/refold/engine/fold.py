"""The fold: events in, changed views out, no I/O. Rebuilds, live running and ``project()`` are loops around it.

What always holds: the views depend on the events and their order alone, not on how they came in batches, which views were
in memory, or how often an event was delivered.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from refold.cells import check
from refold.engine.cache import Unpackable, ViewCache
from refold.engine.policy import Counts, ErrorPolicies, ErrorPolicy, Fault
from refold.engine.spec import DELETE, ProjectorSpec, Route
from refold.engine.step import Step, own_step
from refold.errors import HandlerError, RowRefused, UndecodableEvent, told
from refold.event import DomainEvent
from refold.view import Kind, Row, View, ViewSchema

if TYPE_CHECKING:
    from refold.engine.projector import Projector

__all__ = ["Deferred", "Fold"]

V = TypeVar("V", bound=View)

KEPT_FAULTS: Final = 1000
"""How many faults a fold keeps in full; all are counted."""


class Deferred(msgspec.Struct, frozen=True, gc=False):
    """An event that waits for its view to be read from the database. There may be many: it is made quickly."""

    key: str
    event: DomainEvent[Any]
    route: Route


class Fold(Generic[V]):
    """The fold of one projection over views kept in memory.

    In the fast mode nothing is copied: when a handler raises, its view is left in doubt, and the key becomes *troubled*:
    it leaves the cache and its further events are passed over. The caller then folds the troubled keys again from the start
    with a careful fold (``careful=True, only=keys``), which copies a view before each event and checks it after, and so
    knows exactly which event failed and what the view was before.

    Args:
        projector: the user's fold.
        capacity: how many views stay unpacked, about half of the most there can be.
        careful: copy before each event, check after.
        only: fold these keys alone; None for all.
        raising: let a handler's exception through, as it is.
        policies: what to do about events that fail, instead of what the projector says.
        cache: keeps the views, instead of one made for `capacity`.
        seen: keeps the versions of `seen`, instead of a dictionary.
        held: keys of views that stay as they are: their events are parked by a careful fold, and trouble for another.

    Attributes:
        troubled: keys to be folded again carefully.
        faults: the first `KEPT_FAULTS` records of what could not be used.
        recent: records that nobody has taken yet; whoever feeds the fold empties it.
        counts: how many there were in all.
        deferred: events whose views must be read from the database before they can be folded.
        stored: keys of cached views that the database has a row of.
        deleted: keys whose rows are to be removed from the database.
        seen: highest version handled, by (aggregate type, aggregate id), where no row tells it.
        spilled: whether the database has rows that are not in memory, so that a view not found here may be there. A
            careful fold stays in memory.
        careful, policies: as given.
        held: keys of views that stay as they are; a careful fold adds those that it quarantines.
    """

    def __init__(
        self,
        projector: Projector[V],
        *,
        capacity: int = 150_000,
        careful: bool = False,
        only: Collection[str] | None = None,
        raising: bool = False,
        policies: ErrorPolicies | None = None,
        cache: ViewCache[V] | None = None,
        seen: MutableMapping[tuple[str, str], int] | None = None,
        held: Iterable[str] = (),
    ) -> None:
        self.spec: ProjectorSpec[V] = projector.spec
        self.cache: ViewCache[V] = ViewCache(self.spec.schema, capacity) if cache is None else cache
        self.counts = Counts()
        self.faults: list[Fault] = []
        self.recent: list[Fault] = []
        self.troubled: set[str] = set()
        self.deferred: list[Deferred] = []
        self.stored: set[str] = set()
        self.deleted: set[str] = set()
        self.seen: MutableMapping[tuple[str, str], int] = {} if seen is None else seen
        self.spilled = False
        self.careful = careful
        self.held = set(held)
        self.policies = policies or projector.spec.policies
        self._projector = projector
        self._only = only
        self._raising = raising
        self._schema: ViewSchema[V] = self.spec.schema
        self._nested = any(column.kind is Kind.JSON for column in self._schema.columns)
        whole = only is None and not self.spec.keyed
        make = self._careful_step if careful else self._own_step if whole else self._keyed_step
        self.steps: dict[str, Step] = {name: self._filtered(make(route)) for name, route in self.spec.routes.items()}

    @property
    def whole(self) -> bool:
        """Whether it folds all keys, of which the database may take what memory does not."""
        return self._only is None

    @property
    def shares_payloads(self) -> bool:
        """Whether views may hold on to parts of a payload, so that it must not go to another fold as well."""
        return self._nested

    # -- Feeding ---------------------------------------------------------------------------------------------------

    def feed(self, event: DomainEvent[Any]) -> None:
        """Folds one event, if a handler wants it."""
        wanted = self.spec.wanted.aggregate_types
        step = self.steps.get(event.type)
        if step is not None and (wanted is None or event.aggregate_type in wanted):
            step(event)

    def unreadable(self, position: int, subject: str, reason: str, cause: Exception | None = None) -> None:
        """Records an event of which no view can be told, as one that could not be decoded.

        Raises:
            HandlerError: the policy says halt.
        """
        if self._only is None:
            policy = self.policy(UndecodableEvent if cause is None else type(cause), position)
            self._record(Fault(self.spec.name, position, subject, None, reason, policy=policy), cause)

    def policy(self, kind: type[Exception], position: int) -> ErrorPolicy:
        """What to do about a type of exception at a position."""
        return self.policies.policy(kind)

    def view(self, key: str) -> V | None:
        """A view in memory, by key."""
        view = self.cache.get(key)
        if view is not None:
            view.id = key  # whatever a handler made of it
        return view

    # -- Steps: one event type each --------------------------------------------------------------------------------

    def _own_step(self, route: Route) -> Step:
        """The fast step of views whose key is their aggregate's id."""

        def miss(key: str, event: DomainEvent[Any]) -> V | None:
            return self._miss(key, event, route)

        return own_step(
            self._schema.view,
            self.cache.hot,
            getattr(self._projector, route.handler),
            miss=miss,
            failed=self._failed,
            finish=self._finish,
            duplicate=self.counts.duplicate,
        )

    def _keyed_step(self, route: Route) -> Step:
        """The fast step of views with keys of their own, or of some keys alone."""

        def step(event: DomainEvent[Any]) -> None:
            for key in self._admitted_keys(event, route):
                view = self._find(key, event, route)
                if view is not None:
                    try:
                        self._apply(key, view, event, route)
                    except Exception as error:  # noqa: BLE001
                        self._failed(key, event, error)

        return step

    def _careful_step(self, route: Route) -> Step:
        """The step that knows, for every event, the view before it, and that stores take the view after it."""

        def step(event: DomainEvent[Any]) -> None:
            for key in self._admitted_keys(event, route):
                if key in self.held:
                    self._record(_fault(self.spec, key, event, "follows a failed event of this view", parked=True))
                    continue
                before = self.cache.get(key)
                packed = None if before is None else self.cache.pack(before)
                view = self._find(key, event, route)
                if view is not None:
                    self._apply_checked(key, view, event, route, packed)

        return step

    def _filtered(self, step: Step) -> Step:
        predicate = self.spec.wanted.predicate
        if predicate is None:
            return step

        def filtered(event: DomainEvent[Any]) -> None:
            try:
                wanted = predicate(event)
            except Exception as error:  # noqa: BLE001
                self.unreadable(event.position, "", f"predicate raised {told(error)}", error)
                return
            if wanted:
                step(event)

        return filtered

    # -- One event, one view ---------------------------------------------------------------------------------------

    def _admitted_keys(self, event: DomainEvent[Any], route: Route) -> Collection[str]:
        """The keys of the views that an event goes to, as far as they are to be folded; none for a duplicate, or where they
        cannot be told.
        """
        keys = self._keys(event, route)
        return keys if self._only is None else [key for key in keys if key in self._only]

    def _keys(self, event: DomainEvent[Any], route: Route) -> Collection[str]:
        if not self.spec.keyed:
            return (event.aggregate_id,)
        if self.spec.deduplicate:
            aggregate = (event.aggregate_type, event.aggregate_id)
            if event.version <= self.seen.get(aggregate, 0):
                self.counts.duplicates += self._only is None  # else it was counted, whatever keys it has
                return ()
            self.seen[aggregate] = event.version
        if route.key is None and route.keys is None:
            return (event.aggregate_id,)
        try:
            keys = (route.key(event),) if route.key else _several(route.keys(event))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001
            self.unreadable(event.position, "", f"key of {event.type} cannot be told: {told(error)}", error)
            return ()
        if not all(isinstance(key, str) and key for key in keys):
            self.unreadable(
                event.position, "", f"key of {event.type} is {keys!r:.80}, not a text of at least one character"
            )
            return ()
        return keys

    def _find(self, key: str, event: DomainEvent[Any], route: Route) -> V | None:
        view = self.cache.hot.get(key)
        return self._miss(key, event, route) if view is None else view

    def _miss(self, key: str, event: DomainEvent[Any], route: Route) -> V | None:
        """The view of a key that is not hot; None where the event is not for folding now."""
        view = self.cache.recall(key)
        if view is not None:
            return view
        if key in self.held:
            self.troubled.add(key)
        if key in self.troubled:
            return None
        if self.spilled:
            self.deferred.append(Deferred(key, event, route))
            return None
        return self._new(key, event, route)

    def _new(self, key: str, event: DomainEvent[Any], route: Route) -> V | None:
        if not self.spec.keyed:
            aggregate = (event.aggregate_type, event.aggregate_id)
            if self.seen and event.version <= self.seen.get(aggregate, 0):
                self.counts.duplicates += 1
                return None
            if not route.create:
                self.seen[aggregate] = event.version
        if not route.create:
            self.counts.ignored += 1
            return None
        view = self._schema.view()
        view.id = key
        view.created_at = event.timestamp
        self.cache.put(key, view)
        return view

    def _apply(self, key: str, view: V, event: DomainEvent[Any], route: Route) -> None:
        """Hands an event to its handler and keeps the view's own fields; lets the handler's exception through."""
        if self.spec.keyed:
            version = view.version + 1
        elif event.version <= view.version:
            self.counts.duplicates += 1
            return
        else:
            version = event.version
        if route.keys is not None and self._nested:
            event = detached(event)  # two views must not share a list
        result = getattr(self._projector, route.handler)(view, event)
        if result is not None:
            changed = self._finish(key, view, event, result)
            if changed is None:
                return
            view = changed
        view.version, view.updated_at, view.position = version, event.timestamp, event.position

    def _finish(self, key: str, view: V, event: DomainEvent[Any], result: object) -> V | None:
        """What a handler returned: another view, or None after a DELETE."""
        if result is DELETE:
            self._forget(key)
            if not self.spec.keyed:
                self.seen[event.aggregate_type, event.aggregate_id] = event.version
            return None
        if type(result) is not self._schema.view:
            raise TypeError(f"it returned {result!r:.80}; return None, a {self._schema.view.__name__} or DELETE")
        other: V = result
        other.id, other.created_at = key, view.created_at
        self.cache.drop(key)
        self.cache.put(key, other)
        return other

    def _apply_checked(self, key: str, view: V, event: DomainEvent[Any], route: Route, before: bytes | None) -> None:
        try:
            self._apply(key, view, event, route)
            changed = self.cache.get(key)
            if changed is not None:
                changed.id = key
                check(self._schema, self._schema.freeze(changed))
                self.cache.pack(changed)
        except Exception as error:  # noqa: BLE001
            self._restore(key, before)
            policy = self.policy(_kind(error), event.position)
            self._record(_fault(self.spec, key, event, _reason(route, error), policy=policy), error)
            if policy is ErrorPolicy.QUARANTINE:
                self.held.add(key)

    def _restore(self, key: str, before: bytes | None) -> None:
        self.cache.drop(key)
        if before is not None:
            self.cache.put(key, self.cache.unpack(before))

    # -- Failures --------------------------------------------------------------------------------------------------

    def _failed(self, key: str, event: DomainEvent[Any], error: Exception) -> None:
        if self._raising:
            raise error
        policy = self.policy(_kind(error), event.position)
        if policy is ErrorPolicy.HALT:
            route = self.spec.routes[event.type]
            self._record(_fault(self.spec, key, event, _reason(route, error), policy=policy), error)
        self.trouble(key)

    def trouble(self, key: str) -> None:
        """Marks a key to be folded again carefully, and forgets its view."""
        self._forget(key)
        self.troubled.add(key)

    def refuse(self, key: str, position: int, reason: str) -> None:
        """Records a view that only the database itself refuses.

        Raises:
            HandlerError: the policy says halt.
        """
        self._record(Fault(self.spec.name, position, "", key, reason, policy=self.policy(RowRefused, position)))

    def _forget(self, key: str) -> None:
        self.cache.drop(key)
        if key in self.stored:
            self.stored.discard(key)
            self.deleted.add(key)

    def _record(self, fault: Fault, cause: Exception | None = None) -> None:
        if fault.parked:
            self.counts.parked += 1
        else:
            self.counts.failed += 1
        self.recent.append(fault)
        if len(self.faults) < KEPT_FAULTS:
            self.faults.append(fault)
        if self._raising or fault.policy is ErrorPolicy.HALT:
            where = f"{fault.projection}: position {fault.position}" + (f", key {fault.key!r}" if fault.key else "")
            raise HandlerError(
                f"{where}: {fault.reason}", projection=fault.projection, key=fault.key, position=fault.position
            ) from cause

    # -- Between memory and database -------------------------------------------------------------------------------

    def admit(self, rows: dict[str, Row]) -> None:
        """Takes in rows read from the database for `deferred` events, and folds those events, in order."""
        for key, row in rows.items():
            if key not in self.troubled:
                self.stored.add(key)
                self.cache.put(key, self._schema.thaw(row))
        deferred, self.deferred, spilled, self.spilled = self.deferred, [], self.spilled, False
        try:
            for waiting in deferred:
                self._resume(waiting)
        finally:
            self.spilled = spilled

    def _resume(self, waiting: Deferred) -> None:
        view = self._find(waiting.key, waiting.event, waiting.route)
        if view is not None:
            try:
                self._apply(waiting.key, view, waiting.event, waiting.route)
            except Exception as error:  # noqa: BLE001
                self._failed(waiting.key, waiting.event, error)

    def drain_rows(self, size: int) -> Iterator[list[Row]]:
        """Every view in memory as a row, in lists of about a size; views that cannot be frozen become troubled."""
        yield from self.cache.drain_packed(size)
        yield from map(self.frozen, self.cache.drain_views(size))

    def frozen(self, items: list[tuple[str, V]]) -> list[Row]:
        """The rows of views, by key; views that cannot be frozen become troubled."""
        try:
            return self._schema.freeze_all(items)
        except RowRefused:
            return [row for key, view in items if (row := self._frozen(key, view)) is not None]

    def _frozen(self, key: str, view: V) -> Row | None:
        try:
            return self._schema.freeze_all([(key, view)])[0]
        except RowRefused:
            self.trouble(key)
            return None


def detached(event: DomainEvent[Any]) -> DomainEvent[Any]:
    """An equal event that shares no changeable part with the given one."""
    return msgspec.structs.replace(event, payload=copy.deepcopy(event.payload))


def _several(keys: Iterable[str]) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise TypeError(f"keys= gave one text, {keys!r:.80}, not several; use key=")
    return tuple(dict.fromkeys(keys))


def _fault(
    spec: ProjectorSpec[Any],
    key: str,
    event: DomainEvent[Any],
    reason: str,
    *,
    parked: bool = False,
    policy: ErrorPolicy = ErrorPolicy.QUARANTINE,
) -> Fault:
    return Fault(spec.name, event.position, "", key, reason, parked, policy)


def _kind(error: Exception) -> type[Exception]:
    """What a policy is asked about: a view that cannot be packed is one that no table takes."""
    return RowRefused if isinstance(error, Unpackable) else type(error)


def _reason(route: Route, error: Exception) -> str:
    if isinstance(error, (RowRefused, Unpackable)):
        return f"after {route.event_type.name}: {error}"
    return f"handler {route.handler!r} raised {told(error)} on {route.event_type.name}"
