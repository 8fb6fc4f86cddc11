"""One projection in a group: its fold, what it remembers, and what a batch comes to in it."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from typing import Any, Final, Protocol, TypeVar

from refold.cells import refusals
from refold.engine.dispatch import Dispatcher
from refold.engine.fold import Fold
from refold.engine.letters import letter_of
from refold.engine.live.batch import Batch
from refold.engine.live.cache import SeenLog, TouchedCache
from refold.engine.policy import Counts, ErrorPolicies, ErrorPolicy, ErrorRule, Fault, Retry
from refold.engine.projector import Projector
from refold.engine.spec import Route
from refold.engine.step import Step
from refold.errors import HandlerError, RowRefused
from refold.event import DomainEvent
from refold.ports import Changes, Codec, SeenRow
from refold.subjects import SubjectScheme
from refold.view import Row, View

__all__ = ["Loader", "Member", "Memory", "TryLater"]

V = TypeVar("V", bound=View)

_Aggregate = tuple[str, str]

MOST_DEFERRED: Final = 20_000
"""Events that wait for their views before these are read, in the middle of a batch."""

MOST_SEEN: Final = 500_000
"""Aggregates whose versions a projection remembers."""


class Loader(Protocol):
    """Reads what a projection has in the database, as of the batch before."""

    async def rows(self, projection: str, keys: Collection[str]) -> dict[str, Row]:
        """Rows by key."""
        ...

    async def seen(self, projection: str, aggregates: Collection[_Aggregate]) -> dict[_Aggregate, int]:
        """Highest handled versions."""
        ...


class TryLater(Exception):
    """An event failed in a way that its projection's policy wants to be tried again.

    Attributes:
        fault: what failed.
        rule: how to try again.
    """

    def __init__(self, fault: Fault, rule: Retry) -> None:
        super().__init__(fault.reason)
        self.fault = fault
        self.rule = rule


@dataclasses.dataclass(slots=True)
class Memory:
    """What outlives a projection's membership in one group.

    Attributes:
        held: keys of quarantined views.
        refused: rows that the database itself refused: why, by key, with the position up to which that was.
        exhausted: positions of events that were tried again often enough.
        skip: position of an event that somebody ordered to skip.
    """

    held: set[str] = dataclasses.field(default_factory=set)
    refused: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    exhausted: set[int] = dataclasses.field(default_factory=set)
    skip: int | None = None


class Member:
    """A projection in a group.

    Args:
        projector: the user's fold.
        memory: what is known of it.
        codec: how messages are written.
        scheme: how subjects are written.
        capacity: views to keep; about twice as many at the most.
    """

    def __init__(
        self, projector: Projector[Any], memory: Memory, codec: Codec, scheme: SubjectScheme, *, capacity: int
    ) -> None:
        self.projector = projector
        self.name: str = projector.spec.name
        self.memory = memory
        self.fold = _LiveFold(projector, memory, capacity)
        self._codec = codec
        self._scheme = scheme
        self._capacity = capacity
        self._counts = Counts()

    @property
    def touched(self) -> bool:
        """Whether the open batch did anything here yet."""
        fold = self.fold
        waits = fold.deferred or fold.late
        changes = fold.deleted or fold.recorded or fold.troubled or fold.seen.before
        return bool(len(fold.cache.hot) or waits or changes)

    @property
    def is_crowded(self) -> bool:
        """Whether the open batch touched as many views as are kept."""
        return len(self.fold.cache.hot) >= self._capacity

    @property
    def is_full(self) -> bool:
        """Whether more events wait for their views than should."""
        return len(self.fold.deferred) + len(self.fold.late) > min(MOST_DEFERRED, self._capacity)

    def counted(self) -> Counts:
        """What was counted since this was asked last."""
        counts, self._counts = self._counts, Counts()
        counts.add(self.fold.counts)
        self.fold.counts.reset()
        return counts

    async def settle(self, loader: Loader) -> None:
        """Reads the views that events wait for, and folds those events."""
        fold = self.fold
        while fold.late or fold.deferred:
            if fold.late:
                asked = {_aggregate(event) for event, _ in fold.late}
                fold.seen.learn(await loader.seen(self.name, asked), asked)
                fold.fold_late()
            if fold.deferred:
                keys = {waiting.key for waiting in fold.deferred} - fold.deleted
                fold.admit(await self._load(keys, fold.seen.learn, loader))

    async def finish(self, batch: Batch, loader: Loader) -> Changes:
        """Ends the open batch: what it changes, frozen and checked.

        Raises:
            HandlerError: an event failed, and the policy says halt.
            TryLater: an event failed, and the policy says to try again.
        """
        fold = self.fold
        await self.settle(loader)
        for key in self.memory.refused:
            if fold.cache.hot.get(key) is not None or key in fold.deleted:
                fold.trouble(key)
        rows = self._changed_rows(fold, batch.old)
        repaired = await self._repair(batch, loader) if fold.troubled else Changes()
        fold.deleted -= fold.troubled
        fold.deleted.difference_update(row[0] for row in rows)
        self._stop_at(fold.recorded)
        changes = Changes(
            rows=[*rows, *repaired.rows],
            deleted=[*sorted(fold.deleted), *repaired.deleted],
            seen=[*fold.seen.changes, *repaired.seen],
            letters=[letter_of(failure.fault, batch.message(failure.fault.position)) for failure in fold.recorded],
        )
        fold.settle()
        return changes

    def committed(self, position: int) -> None:
        """Forgets what mattered up to a position alone."""
        memory = self.memory
        memory.refused = {key: why for key, why in memory.refused.items() if why[1] > position}
        memory.exhausted = {at for at in memory.exhausted if at > position}

    async def _load(self, keys: Collection[str], learn: Callable[..., None], loader: Loader) -> dict[str, Row]:
        rows = await loader.rows(self.name, keys) if keys else {}
        if not self.projector.spec.keyed:
            (kind,) = self.projector.spec.wanted.aggregate_types or ("",)
            asked = {(kind, key) for key in keys if key not in rows}
            if asked:
                learn(await loader.seen(self.name, asked), asked)
        return rows

    def _changed_rows(self, fold: Fold[Any], old: int) -> list[Row]:
        """Rows of the views that were changed; what stores do not take becomes trouble."""
        items = [(key, view) for key, view in fold.cache.hot.items() if view.position > old]
        rows = fold.frozen(items)
        refused = {error.key for error in refusals(fold.spec.schema, rows) if error.key is not None}
        for key in refused:
            fold.trouble(key)
        return [row for row in rows if row[0] not in refused] if refused else rows

    # -- Views in trouble ----------------------------------------------------------------------------------------------

    async def _repair(self, batch: Batch, loader: Loader) -> Changes:
        """Folds the batch once more for views in trouble, from what they were before it, event by event."""
        fold = self.fold
        only = frozenset(fold.troubled)
        known = ChainMap(dict(fold.seen.before), fold.seen)

        def learn(found: Mapping[_Aggregate, int], asked: Iterable[_Aggregate]) -> None:
            known.update({one: found.get(one, 0) for one in asked})

        stored = await self._load(only, learn, loader)
        careful = _CarefulFold(self.projector, self.memory, only, ChainMap({}, known))
        fast: Fold[Any] = Fold(
            self.projector,
            only=only,
            policies=ErrorPolicies(ErrorPolicy.SKIP),
            seen=ChainMap({}, known),
            held=fold.held & only,
        )
        for key, row in stored.items():
            careful.cache.put(key, fold.spec.schema.thaw(row))
            if key not in fold.held:  # of which the live fold counts nothing
                fast.cache.put(key, fold.spec.schema.thaw(row))
        # What the live fold counted of these keys is counted once more, to be taken off.
        dispatcher = Dispatcher([careful, fast], self._codec, self._scheme)
        for part in batch.parts:
            dispatcher.apply(part)
        fold.recorded += careful.recorded
        self._counts.add(careful.counts)
        self._counts.add(fast.counts, -1)
        if not fold.spec.keyed:
            for aggregate in [one for one in fold.seen.before if one[1] in only]:
                del fold.seen[aggregate]
        views = [(key, view) for key in only if (view := careful.cache.get(key)) is not None]
        gone = [key for key in stored if careful.cache.get(key) is None]
        self.memory.held |= careful.held
        seen: list[SeenRow] = [] if fold.spec.keyed else [(*one, v) for one, v in careful.seen.maps[0].items()]
        return Changes(
            rows=careful.frozen([(key, view) for key, view in views if view.position > batch.old]),
            deleted=sorted(gone),
            seen=seen,
        )

    def _stop_at(self, recorded: Iterable[Failure]) -> None:
        """Raises what the policy wants raised, for the first event that wants it."""
        for failure in sorted(recorded, key=lambda one: one.fault.position):
            fault, rule, cause = failure.fault, failure.rule, failure.cause
            is_new = fault.position not in self.memory.exhausted and fault.position != self.memory.skip
            if isinstance(rule, Retry) and is_new:
                raise TryLater(fault, rule) from cause
            if fault.policy is ErrorPolicy.HALT:
                where = f"position {fault.position}" + (f", key {fault.key!r}" if fault.key else "")
                raise HandlerError(
                    f"{fault.projection}: {where}: {fault.reason}",
                    projection=fault.projection,
                    key=fault.key,
                    position=fault.position,
                ) from cause


def _aggregate(event: DomainEvent[Any]) -> _Aggregate:
    return event.aggregate_type, event.aggregate_id


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A fault, what the projection's rule for it was (None for a parked one), and what was raised."""

    fault: Fault
    rule: ErrorRule | None
    cause: Exception | None


class _Recording(Fold[V]):
    """A fold that keeps what failed, and leaves it to its caller to stop.

    Attributes:
        recorded: what failed, and what was parked.
    """

    def __init__(self, projector: Projector[V], memory: Memory, **rest: Any) -> None:
        self.recorded: list[Failure] = []
        self._rule: ErrorRule | None = None
        self._memory = memory
        super().__init__(projector, **rest)

    def policy(self, kind: type[Exception], position: int) -> ErrorPolicy:
        self._rule = self.policies.rule(kind)
        return ErrorPolicy.SKIP if position == self._memory.skip else self.policies.policy(kind)

    def _record(self, fault: Fault, cause: Exception | None = None) -> None:
        rule, self._rule = self._rule, None  # every failure is asked about just before it is recorded
        self.recorded.append(Failure(fault, None if fault.parked else rule, cause))
        if fault.parked:
            self.counts.parked += 1
        else:
            self.counts.failed += 1


class _LiveFold(_Recording[V]):
    """The fold that goes on from batch to batch.

    Attributes:
        late: events of a keyed projection that wait until it is known whether their aggregate's version was handled; and
            every event after them, since they may share a view.
    """

    cache: TouchedCache[V]  # pyright: ignore[reportIncompatibleVariableOverride]  # it is given, and stays
    seen: SeenLog  # pyright: ignore[reportIncompatibleVariableOverride]  # it is given, and stays

    def __init__(self, projector: Projector[V], memory: Memory, capacity: int) -> None:
        self.late: list[tuple[DomainEvent[Any], Step]] = []
        super().__init__(
            projector,
            memory,
            cache=TouchedCache(projector.spec.schema, capacity),
            seen=SeenLog(),
        )
        self.held = memory.held  # the same set: what is quarantined on the way is held from then on
        self.spilled = True

    def _filtered(self, step: Step) -> Step:
        step = super()._filtered(step)
        if not (self.spec.keyed and self.spec.deduplicate):
            return step
        late, seen = self.late, self.seen

        def in_time(event: DomainEvent[Any]) -> None:
            if late or _aggregate(event) not in seen:
                late.append((event, step))
            else:
                step(event)

        return in_time

    def fold_late(self) -> None:
        """Folds the events that waited, in order."""
        waiting = self.late[:]
        self.late.clear()
        for event, step in waiting:
            step(event)

    def settle(self) -> None:
        """Ends the batch."""
        self.cache.settle()
        self.deleted.clear()
        self.troubled.clear()
        self.recorded.clear()
        self.stored.clear()
        # A view that has a row tells its aggregate's version itself.
        self.seen.settle(MOST_SEEN if self.spec.keyed else 0)

    def _failed(self, key: str, event: DomainEvent[Any], error: Exception) -> None:
        self.trouble(key)

    def _forget(self, key: str) -> None:
        self.cache.drop(key)
        self.deleted.add(key)  # whether it has a row is not known, and need not be


class _CarefulFold(_Recording[V]):
    """The fold of views in trouble, with what the database refused of them."""

    seen: ChainMap[_Aggregate, int]  # pyright: ignore[reportIncompatibleVariableOverride]  # it is given, and stays

    def __init__(
        self,
        projector: Projector[V],
        memory: Memory,
        only: frozenset[str],
        seen: MutableMapping[_Aggregate, int],
    ) -> None:
        super().__init__(projector, memory, careful=True, only=only, seen=seen, held=memory.held & only)

    def _apply_checked(self, key: str, view: V, event: DomainEvent[Any], route: Route, before: bytes | None) -> None:
        refused = self._memory.refused.get(key)
        is_duplicate = not self.spec.keyed and event.version <= view.version
        if refused is None or event.position > refused[1] or is_duplicate:
            super()._apply_checked(key, view, event, route, before)
            return
        self._restore(key, before)
        policy = self.policy(RowRefused, event.position)
        self._record(Fault(self.spec.name, event.position, "", key, refused[0], policy=policy))
        if policy is ErrorPolicy.QUARANTINE:
            self.held.add(key)
