"""Full projections, the fast way: one pass over the stream for all aggregates of all projections rebuilt together.

What always holds: readers see the old views or all of the new ones; every event either is in the new views, or is a counted
duplicate or ignored event, or is recorded as a fault.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

from refold.cells import refusals
from refold.engine.dispatch import Dispatcher
from refold.engine.fold import Fold
from refold.engine.letters import letter_of
from refold.engine.outcome import Progress, ProgressHook, RebuildLimits, RebuildResult
from refold.engine.policy import ErrorPolicies, ErrorPolicy
from refold.engine.projector import Projector
from refold.errors import HandlerError, RebuildError, RebuildHalted, RowRefused, StreamReplaced
from refold.filters import EventFilter
from refold.ports import Codec, EventSource, GenerationWriter, RawBatch, StreamState, ViewStore, anchor_of
from refold.subjects import SubjectScheme
from refold.view import Row

__all__ = ["Rebuild"]

log = logging.getLogger(__name__)

_NEAR: Final = 500
"""Messages by which new views may be behind the stream when they are put in place."""
_ROUNDS: Final = 20
"""How often a rebuild reads on to come near."""


@dataclasses.dataclass(slots=True)
class _Build:
    """One projection under way."""

    projector: Projector[Any]
    fold: Fold[Any]
    writer: GenerationWriter
    written: int = 0

    def of(self, fold: Fold[Any]) -> _Build:
        """The same with another fold, of which nothing is written yet."""
        return _Build(self.projector, fold, self.writer)


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    """What a rebuild works with."""

    source: EventSource
    store: ViewStore
    codec: Codec
    scheme: SubjectScheme
    app: str
    limits: RebuildLimits
    hook: ProgressHook | None
    policies: Mapping[str, ErrorPolicies]


class Rebuild:
    """Rebuilds projections of one stream.

    Args:
        source: reads the stream.
        store: takes the views.
        codec: how the stream's messages are written.
        scheme: how its subjects are written.
        app: the application's name, part of the checkpoint's key.
        limits: how much memory to take.
        hook: told how far it is, a few times a second.
        policies: what to do about events that fail, by projection, instead of what its projector says.
    """

    def __init__(
        self,
        source: EventSource,
        store: ViewStore,
        codec: Codec,
        scheme: SubjectScheme,
        *,
        app: str,
        limits: RebuildLimits | None = None,
        hook: ProgressHook | None = None,
        policies: Mapping[str, ErrorPolicies] | None = None,
    ) -> None:
        self._parts = _Parts(source, store, codec, scheme, app, limits or RebuildLimits(), hook, policies or {})

    async def run(
        self,
        projectors: Sequence[Projector[Any]],
        *,
        accept_incomplete: bool = False,
        accept_truncated: bool = False,
    ) -> list[RebuildResult]:
        """Rebuilds projections, those with the same start in one pass, and puts each in place for its readers.

        Args:
            projectors: what to rebuild.
            accept_incomplete: put views in place though events failed; otherwise readers go on seeing the old ones.
            accept_truncated: rebuild though the stream no longer begins at its first event.

        Returns:
            One result a projector, in their order.

        Raises:
            RebuildHalted: an event failed whose projection's policy says halt.
            RebuildError: the stream no longer begins at its first event.
            StreamError, StoreError: stream or database; readers see what they saw.
        """
        state = await self._parts.source.state()
        by_start: dict[tuple[Any, Any], list[Projector[Any]]] = {}
        for projector in projectors:
            wanted = projector.spec.wanted
            if not accept_truncated:
                _check_beginning(projector, state)
            by_start.setdefault((wanted.start_time, wanted.start_position), []).append(projector)
        results: dict[str, RebuildResult] = {}
        for group in by_start.values():
            rebuilt = await _Pass(self._parts, group, state).run(accept_incomplete=accept_incomplete)
            results |= {result.projection: result for result in rebuilt}
        return [results[projector.spec.name] for projector in projectors]


class _Pass:
    """One pass over the stream for projections with the same start."""

    def __init__(self, parts: _Parts, projectors: Sequence[Projector[Any]], state: StreamState) -> None:
        self._parts = parts
        self._projectors = projectors
        self._names = tuple(projector.spec.name for projector in projectors)
        self._state = state
        self._wanted = _union([projector.spec.wanted for projector in projectors])
        self._began = time.perf_counter()
        self._told = 0.0
        self._anchor: str | None = None

    async def run(self, *, accept_incomplete: bool) -> list[RebuildResult]:
        share = max(1, len(self._projectors))
        async with AsyncExitStack() as stack:
            builds = []
            for projector in self._projectors:
                spec = projector.spec
                writer = await self._parts.store.begin_generation(
                    spec.schema, app=self._parts.app, name=spec.name, version=spec.version
                )
                await stack.enter_async_context(writer)
                fold: Fold[Any] = Fold(
                    projector,
                    capacity=max(1, self._parts.limits.hot_views // share),
                    policies=self._parts.policies.get(spec.name),
                )
                builds.append(_Build(projector, fold, writer))
            try:
                events = await self._read(builds, "reading", self._wanted)
                for build in builds:
                    await self._write(build)
                events += await self._catch_up(builds)
                await self._repair(builds)
            except HandlerError as error:
                raise RebuildHalted(
                    f"rebuild stopped, as the projection's policy says: {error}", projection=error.projection
                ) from error
            return [await self._publish(build, events, accept_incomplete) for build in builds]

    # -- Reading -----------------------------------------------------------------------------------------------------

    async def _catch_up(self, builds: Sequence[_Build]) -> int:
        """Folds what was published meanwhile, until that is little; how many messages there were.

        Readers who saw a position in the views that the new ones replace shall find it in these, but for the last moments.
        """
        events = 0
        for _ in range(_ROUNDS):
            state, last = await self._parts.source.state(), self._state.last
            if state.created != self._state.created:
                raise StreamReplaced(f"stream {state.name!r} was made anew while it was read: rebuild again")
            begun = self._anchor is not None or self._wanted.start_time is None  # else its start may be yet to come
            if state.last - last <= _NEAR or not begun:
                break
            self._state = dataclasses.replace(self._state, last=state.last)
            start = max(last + 1, self._wanted.start_position or 1)
            for build in builds:
                build.fold.spilled = True  # all that was folded is in the database
            wanted = dataclasses.replace(self._wanted, start_time=None, start_position=start)
            events += await self._read(builds, "catching up", wanted)
            for build in builds:
                await self._write(build)
        return events

    async def _read(self, builds: Sequence[_Build], phase: str, wanted: EventFilter) -> int:
        """Folds messages up to the head; how many there were."""
        folds = [build.fold for build in builds]
        dispatcher = Dispatcher(folds, self._parts.codec, self._parts.scheme)
        head = self._state.last
        events, began = 0, time.perf_counter()
        most = self._parts.limits.packed_bytes // max(1, len(builds))
        async with aclosing(self._parts.source.batches(wanted, until=head)) as batches:
            async for batch in batches:
                dispatcher.apply(batch)
                if len(batch):
                    self._anchor = anchor_of(batch.messages[-1])
                for build in builds:
                    if build.fold.recent:
                        await self._record(build, batch)
                    if build.fold.deferred:
                        await self._fold_deferred(build)
                    if build.fold.cache.packed_bytes > most and build.fold.whole:
                        await self._spill(build)
                events += len(batch)
                self._tell(phase, events, batch.last, began)
        self._tell(phase, events, head, began, force=True)
        return events

    async def _record(self, build: _Build, batch: RawBatch | None) -> None:
        """Keeps what could not be used, whole, with the generation."""
        recent, build.fold.recent = build.fold.recent, []
        await build.writer.record([letter_of(f, batch.message(f.position) if batch else None) for f in recent])

    async def _fold_deferred(self, build: _Build) -> None:
        fold = build.fold
        keys = {waiting.key for waiting in fold.deferred} - fold.deleted
        fold.admit(await build.writer.load(keys))

    async def _spill(self, build: _Build) -> None:
        """Makes room: packed views go to the database, and are read back when an event needs them."""
        build.fold.spilled = True
        chunks = build.fold.cache.drain_packed(self._parts.limits.chunk_rows)
        await self._write_rows(build, chunks, spilling=True)

    # -- Writing -----------------------------------------------------------------------------------------------------

    async def _write(self, build: _Build) -> None:
        await self._write_rows(build, build.fold.drain_rows(self._parts.limits.chunk_rows))
        if build.fold.deleted:
            await build.writer.upsert((), sorted(build.fold.deleted))
            build.written -= len(build.fold.deleted)
            build.fold.deleted.clear()

    async def _write_rows(self, build: _Build, chunks: Iterable[list[Row]], *, spilling: bool = False) -> None:
        """Checks and writes rows a chunk at a time; one chunk is made while the one before is written."""
        writing: asyncio.Task[None] | None = None
        try:
            for chunk in chunks:
                good = self._accepted(build, chunk, spilling=spilling)
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self._send(build, good, spilling=spilling), name="refold-write")
            if writing is not None:
                await writing
        except BaseException:
            if writing is not None:
                await asyncio.gather(writing, return_exceptions=True)
            raise
        self._tell("writing", build.written, self._state.last, self._began, force=True)

    def _accepted(self, build: _Build, rows: list[Row], *, spilling: bool) -> list[Row]:
        """The rows that stores take."""
        refused = {error.key for error in refusals(build.fold.spec.schema, rows)}
        if not refused:
            return rows
        for row in rows:
            if row[0] in refused:
                self._leave_out(build, row, spilling=spilling)
        return [row for row in rows if row[0] not in refused]

    def _leave_out(self, build: _Build, row: Row, *, spilling: bool) -> None:
        """Keeps a bad row in memory, for a later event may mend it; in the end, its key is to be folded again carefully."""
        if spilling:
            build.fold.cache.put_back(row)
        else:
            build.fold.trouble(row[0])

    async def _send(self, build: _Build, rows: list[Row], *, spilling: bool) -> None:
        fold = build.fold
        known = fold.stored | fold.deleted
        again = [row for row in rows if row[0] in known] if known else []
        fresh = [row for row in rows if row[0] not in known] if known else rows
        fresh = await self._put(build, fresh, build.writer.insert, spilling=spilling)
        again = await self._put(build, again, build.writer.upsert, spilling=spilling)
        build.written += len(fresh)
        fold.stored.difference_update(row[0] for row in again)
        fold.deleted.difference_update(row[0] for row in again)

    async def _put(
        self,
        build: _Build,
        rows: list[Row],
        write: Callable[[Sequence[Row]], Awaitable[None]],
        *,
        spilling: bool,
    ) -> list[Row]:
        """Writes rows but for those that only the database itself refuses; gives those written."""
        while rows:
            try:
                await write(rows)
                break
            except RowRefused as error:
                refused = next((row for row in rows if row[0] == error.key), None)
                if refused is None:
                    raise
                if build.fold.careful:
                    build.fold.refuse(refused[0], refused[4], str(error))
                else:
                    self._leave_out(build, refused, spilling=spilling)
                rows = [row for row in rows if row is not refused]
        return rows

    # -- Repair ------------------------------------------------------------------------------------------------------

    async def _repair(self, builds: Sequence[_Build]) -> None:
        """Reads the stream once more for the views in doubt, and folds those with a copy before every event."""
        again: list[tuple[_Build, _Build, _Build]] = []
        for build in builds:
            if build.fold.troubled:
                only = frozenset(build.fold.troubled)
                careful: Fold[Any] = Fold(build.projector, careful=True, only=only, policies=build.fold.policies)
                # What the fast fold counted of these keys is counted once more, to be taken off.
                fast: Fold[Any] = Fold(build.projector, only=only, policies=ErrorPolicies(ErrorPolicy.SKIP))
                again.append((build, build.of(careful), build.of(fast)))
        if not again:
            return
        await self._read([one for _, *both in again for one in both], "repairing", self._wanted)
        for build, careful_build, fast_build in again:
            await self._write(careful_build)
            fold, careful = build.fold, careful_build.fold
            build.written += careful_build.written
            fold.recent += careful.recent
            fold.counts.add(careful.counts)
            fold.counts.add(fast_build.fold.counts, -1)
            fold.faults += careful.faults
            if not fold.spec.keyed:
                for aggregate in [one for one in fold.seen if one[1] in fold.troubled]:
                    del fold.seen[aggregate]  # a quarantined event was not handled after all
            fold.seen.update(careful.seen)

    # -- The end -----------------------------------------------------------------------------------------------------

    async def _publish(self, build: _Build, events: int, accept_incomplete: bool) -> RebuildResult:
        fold, counts = build.fold, build.fold.counts
        if fold.recent:
            await self._record(build, None)
        published = accept_incomplete or not (counts.failed or counts.parked)
        self._tell("publishing", events, self._state.last, self._began, force=True)
        if published:
            await build.writer.publish(
                stream=self._state.name,
                created=self._state.created,
                position=self._state.last,
                fingerprint=fold.spec.fingerprint,
                seen=[(kind, key, version) for (kind, key), version in fold.seen.items()],
                anchor=self._anchor,
            )
            self._tell("publishing", events, self._state.last, self._began, force=True)
        result = RebuildResult(
            projection=fold.spec.name,
            version=fold.spec.version,
            table=build.writer.table,
            position=self._state.last,
            events=events,
            views=build.written,
            duplicates=counts.duplicates,
            ignored=counts.ignored,
            failed=counts.failed,
            parked=counts.parked,
            faults=tuple(sorted(fold.faults, key=lambda fault: fault.position)),
            seconds=time.perf_counter() - self._began,
            published=published,
        )
        log.info(
            "projection was rebuilt" if published else "projection was rebuilt incompletely and not published",
            extra={"projection": result.projection, "position": result.position, "views": result.views},
        )
        return result

    def _tell(self, phase: str, events: int, position: int, began: float, *, force: bool = False) -> None:
        now = time.perf_counter()
        if self._parts.hook is None or not (force or now - self._told > 0.1):
            return
        self._told = now
        rate = events / max(now - began, 1e-9)
        head = self._state.last
        done = position - (self._state.first - 1)
        eta = (head - position) * (now - began) / done if done > 0 else None
        self._parts.hook(Progress(phase, self._names, events, position, head, now - self._began, rate, eta))


def _check_beginning(projector: Projector[Any], state: StreamState) -> None:
    wanted = projector.spec.wanted
    if wanted.start_time is not None or state.first <= (wanted.start_position or 1):
        return
    raise RebuildError(
        f"{projector.spec.name}: stream {state.name!r} begins at position {state.first}, so its first events are gone and "
        "the views would lack them; restore the stream, set start_position= in the projector, or accept it "
        "(--accept-truncated)",
        projection=projector.spec.name,
    )


def _union(filters: Sequence[EventFilter]) -> EventFilter:
    """What at least one of several filters with the same start wants."""

    def joined(sets: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
        known = list(sets)
        return None if None in known else frozenset().union(*(one for one in known if one is not None))

    return EventFilter(
        aggregate_types=joined(wanted.aggregate_types for wanted in filters),
        event_types=joined(wanted.event_types for wanted in filters),
        start_time=filters[0].start_time,
        start_position=filters[0].start_position,
    )
