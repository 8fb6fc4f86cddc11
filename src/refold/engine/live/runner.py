"""The runner: claims projections, builds those that are new, and keeps groups of them going until it is told to stop.

What always holds: a projection is in one group at most; it is written under a claim; whatever fails ends the group, and each
projection is then taken up again from its checkpoint, without whom it concerns.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from refold.engine.live.group import Group, LiveLimits
from refold.engine.live.hooks import Hook, Retrying
from refold.engine.live.member import Member, TryLater
from refold.engine.live.seat import Seat
from refold.engine.outcome import ProgressHook, RebuildLimits
from refold.engine.projector import Projector
from refold.engine.rebuild import Rebuild
from refold.errors import (
    ClaimHeld,
    ClaimLost,
    EventsExpired,
    HandlerError,
    RebuildError,
    RefoldError,
    RowRefused,
    SchemaMismatch,
    StoreError,
    StreamReplaced,
)
from refold.filters import EventFilter
from refold.ports import Checkpoint, Claims, Codec, Database, EventSource, Status, StreamIdentity, Wanted
from refold.subjects import SubjectScheme

__all__ = ["Runner", "RunnerParts"]

log = logging.getLogger(__name__)

_GRACE: Final = 5.0
"""Seconds that a group has to commit what it has folded, when it is to end."""

_TICK: Final = 0.5
"""Seconds between signs of life, and so about how long an order takes to be noticed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunnerParts:
    """What a runner works with.

    Attributes:
        source: reads the stream.
        store: keeps views and checkpoints.
        codec: how messages are written.
        scheme: how subjects are written.
        app: the application's name.
        stream: the stream's name.
        lease: seconds after which a claim that was not renewed may be taken by another process.
        limits: how to cut batches.
        rebuild_limits: how much memory rebuilds may take.
        accept_expired: go on though events after a checkpoint are gone from the stream.
        hook: told what happens.
        progress: told how far rebuilds are.
    """

    source: EventSource
    store: Database
    codec: Codec
    scheme: SubjectScheme
    app: str
    stream: str
    lease: float = 15.0
    limits: LiveLimits | None = None
    rebuild_limits: RebuildLimits | None = None
    accept_expired: bool = False
    hook: Hook | None = None
    progress: ProgressHook | None = None


@dataclasses.dataclass(slots=True, eq=False)
class _Running:
    """A group under way."""

    group: Group
    seats: Sequence[Seat]
    stop: asyncio.Event
    task: asyncio.Task[None]
    at_head: bool = False


class Runner:
    """Runs projections of one app.

    Args:
        parts: what it works with.
        projectors: what to run.
    """

    def __init__(self, parts: RunnerParts, projectors: Sequence[Projector[Any]]) -> None:
        self._parts = parts
        self._seats = {p.spec.name: Seat(p, _guarded(parts.hook)) for p in projectors}
        self._running: list[_Running] = []
        self._rebuilding: dict[asyncio.Task[None], Sequence[Seat]] = {}
        self._changed = asyncio.Event()

    @property
    def standing(self) -> Mapping[str, tuple[Status, str]]:
        """How each projection stands, and why."""
        return {name: (seat.status, seat.reason) for name, seat in self._seats.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until told to stop; then finishes the batches under way, and lets go of its claims.

        Raises:
            ClaimHeld, ClaimLost: another process runs the projections; of several, when none is left to this one.
            StoreError, StreamError: at the start; later ones are waited out.
        """
        async with self._parts.store.claims(self._parts.app, lease=self._parts.lease) as claims:
            try:
                await self._take_all(claims, stop)
                while not stop.is_set():
                    await self._form(claims)
                    await self._wait(stop)
                    await self._look(claims)
                    self._refuse_to_idle()
            finally:
                await self._end()
                for seat in self._seats.values():
                    await seat.release(claims)

    # -- Claims --------------------------------------------------------------------------------------------------------

    async def _take_all(self, claims: Claims, stop: asyncio.Event) -> None:
        """Claims everything; what another process holds is waited for as long as a dead one would hold it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._parts.lease + 5
        waiting = list(self._seats.values())
        while waiting and not stop.is_set():
            held: list[Seat] = []
            for seat in waiting:
                try:
                    await self._take(claims, seat)
                except ClaimHeld as error:
                    if loop.time() > deadline:
                        raise
                    if seat.reason != str(error):
                        log.info("waiting for a claim", extra={"projection": seat.name, "reason": str(error)})
                    seat.reason = str(error)
                    held.append(seat)
            waiting = held
            if waiting:
                await _sleep(stop, _TICK)

    async def _take(self, claims: Claims, seat: Seat) -> None:
        """Takes a seat's checkpoint up, whatever it is now."""
        refusal = await self._newer_version(seat)
        if refusal:
            seat.lose(refusal)
            return
        checkpoint = await claims.take(seat.name, seat.projector.spec.version)
        if checkpoint is None:
            seat.adopt(None)
            return
        seat.adopt(checkpoint, await claims.quarantined(seat.name))
        if checkpoint.wanted is Wanted.PAUSE:
            await seat.stand(claims, Status.PAUSED, "paused by order; refold resume takes it up again")
        elif not seat.is_waiting:
            problem = _misfit(seat.projector, checkpoint, self._parts.stream)
            if problem:
                await seat.fault(claims, problem)

    async def _newer_version(self, seat: Seat) -> str:
        mine = seat.projector.spec.version
        rows = await self._parts.store.generations(self._parts.app, seat.name)
        active = [row.version for row in rows if row.role == "active"]
        if active and max(active) > mine:
            return (
                f"version {max(active)} of {seat.name} is active, and this code has version {mine}: deploy the newer code, or "
                f"rebuild version {mine} to go back (refold rebuild {seat.name})"
            )
        return ""

    async def _look(self, claims: Claims) -> None:
        """Gives a sign of life, and notices orders, and claims that were lost."""
        for task in [task for task in self._rebuilding if task.done()]:
            await self._rebuilt(claims, task)
        for running in [one for one in self._running if one.task.done()]:
            await self._ended(claims, running)
        seats = [seat for seat in self._seats.values() if seat.checkpoint is not None]
        if not seats:
            return
        try:
            standing = await claims.renew([seat.name for seat in seats])
        except StoreError as error:
            log.warning("claims could not be renewed", extra={"reason": str(error)})
            return
        for seat in seats:
            if seat.checkpoint is not None and not seat.knows(standing.get(seat.name)):
                await self._reconsider(claims, seat)
        for seat in seats:
            await seat.tell(claims)

    async def _reconsider(self, claims: Claims, seat: Seat) -> None:
        """Somebody else wrote to a checkpoint: an order, another process, another generation."""
        running = next((one for one in self._running if seat in one.seats), None)
        if running is not None:
            await self._stop(running)
            await self._ended(claims, running)
        else:
            await self._retake(claims, seat)

    async def _retake(self, claims: Claims, seat: Seat) -> None:
        try:
            await self._take(claims, seat)
        except ClaimHeld as error:
            seat.lose(str(error))
        except StoreError as error:
            seat.wait_for(_pause(seat.failures), f"its checkpoint cannot be read: {error}")

    def _refuse_to_idle(self) -> None:
        lost = [seat for seat in self._seats.values() if seat.is_lost]
        if lost and len(lost) == len(self._seats):
            raise ClaimLost("; ".join(sorted({seat.reason for seat in lost})))

    # -- Groups --------------------------------------------------------------------------------------------------------

    async def _form(self, claims: Claims) -> None:
        """Makes groups of the projections that can run and do not, and rebuilds those that need it."""
        busy = {seat for one in self._running for seat in one.seats}
        building = {seat for seats in self._rebuilding.values() for seat in seats}
        for seat in self._seats.values():
            if seat.is_stale and seat not in busy and not seat.is_waiting:
                await self._retake(claims, seat)
        free = [seat for seat in self._seats.values() if seat not in busy and seat.can_run]
        new = [seat for seat in free if seat.checkpoint is None and seat not in building]
        ordered = [seat for seat in self._seats.values() if seat.wants_rebuild and seat not in building]
        for some in filter(None, (new, ordered)):
            await self._begin_rebuild(claims, some)
        by_place: dict[Any, list[Seat]] = {}
        for seat in free:
            if seat.checkpoint is not None:
                by_place.setdefault((seat.checkpoint.position, seat.checkpoint.created), []).append(seat)
        for seats in by_place.values():
            await self._start(claims, seats)
        if not by_place and len(self._running) > 1 and all(one.at_head for one in self._running):
            await self._merge(claims)

    async def _start(self, claims: Claims, seats: Sequence[Seat], *, until: int | None = None) -> _Running | None:
        try:
            group = await self._group(claims, seats)
        except SchemaMismatch as error:
            for seat in seats:
                await seat.fault(claims, str(error))
            return None
        except StoreError as error:
            for seat in seats:
                seat.wait_for(_pause(seat.failures), str(error))
            return None
        stop = asyncio.Event()
        task = asyncio.create_task(group.run(stop, until=until), name="refold-group")
        task.add_done_callback(lambda _: self._changed.set())
        running = _Running(group, seats, stop, task)
        self._running.append(running)
        return running

    async def _group(self, claims: Claims, seats: Sequence[Seat]) -> Group:
        parts = self._parts
        limits = parts.limits or LiveLimits()
        capacity = max(1_000, limits.hot_views // len(seats))
        members = [Member(s.projector, s.memory, parts.codec, parts.scheme, capacity=capacity) for s in seats]
        writer = await claims.writer({seat.name: seat.projector.spec.schema for seat in seats})
        first = seats[0].checkpoint
        assert first is not None  # noqa: S101 (only seats with one are given)

        def standing(at_head: bool) -> None:
            for one in self._running:
                if one.group is group:
                    one.at_head = at_head
            for seat in seats:
                seat.at_head(at_head, group.position)

        group = Group(
            parts.source,
            members,
            writer,
            StreamIdentity(first.created or "", first.position, first.anchor),
            union([seat.projector.spec.wanted for seat in seats]),
            parts.codec,
            parts.scheme,
            name=f"{parts.app}-{first.epoch}",
            limits=limits,
            accept_expired=parts.accept_expired,
            hook=_guarded(parts.hook),
            on_standing=standing,
        )
        return group

    async def _stop(self, running: _Running) -> None:
        """Ends a group; one whose commit does not come to an end is cut short, which loses nothing."""
        running.stop.set()
        await asyncio.wait([running.task], timeout=_GRACE)
        running.task.cancel()
        await asyncio.wait([running.task])

    async def _merge(self, claims: Claims) -> None:
        """Brings groups at the head to one position, so that they share their reading from then on."""
        for running in list(self._running):
            await self._stop(running)
            await self._ended(claims, running)
        seats = [s for s in self._seats.values() if s.can_run and s.checkpoint is not None]
        last = max((s.position for s in seats), default=0)
        behind: dict[int, list[Seat]] = {}
        for seat in seats:
            if seat.position < last:
                behind.setdefault(seat.position, []).append(seat)
        for some in behind.values():
            running_some = await self._start(claims, some, until=last)
            if running_some is not None:
                await asyncio.wait([running_some.task])
                await self._ended(claims, running_some)

    async def _ended(self, claims: Claims, running: _Running) -> None:
        """Takes note of how a group ended; its projections are free again, but for whom it concerns."""
        if running not in self._running:
            return
        self._running.remove(running)
        await running.group.close()
        error = running.task.exception() if not running.task.cancelled() else None
        for seat in running.seats:
            seat.reached(running.group)
        if error is not None:
            await self._blame(claims, running, error)
        for seat in running.seats:
            if not seat.is_waiting and seat.status is not Status.FAULTED:
                await self._retake(claims, seat)

    async def _blame(self, claims: Claims, running: _Running, error: BaseException) -> None:
        """Who cannot go on, and how."""
        by_name = {seat.name: seat for seat in running.seats}
        seat = by_name.get(error.fault.projection if isinstance(error, TryLater) else getattr(error, "projection", ""))
        if seat is not None:
            await self._blame_one(claims, seat, error, running.group.reaching)
        elif isinstance(error, ClaimLost):
            log.warning("a batch was refused", extra={"projections": list(by_name), "reason": str(error)})
        elif isinstance(error, (StreamReplaced, EventsExpired)):
            for one in running.seats:
                await one.fault(claims, str(error))
        else:
            known = isinstance(error, RefoldError)
            if not known:
                log.error("a group failed", extra={"projections": list(by_name)}, exc_info=error)
            for one in running.seats:
                one.wait_for(_pause(one.failures), str(error) if known else f"{type(error).__name__}: {error}")

    async def _blame_one(self, claims: Claims, seat: Seat, error: BaseException, reaching: int) -> None:
        if isinstance(error, TryLater):
            wait = seat.try_again(error.fault.position, error.rule)
            seat.wait_for(wait, f"position {error.fault.position}: {error.fault.reason}; it is tried again")
            self._tell(Retrying(projections=(seat.name,), what="event", reason=error.fault.reason, wait=wait))
        elif isinstance(error, RowRefused):
            seat.refuse(error.key or "", str(error), reaching)
        elif isinstance(error, HandlerError):
            await seat.fault(
                claims,
                f"{error}; mend the projector and refold resume {seat.name}, or pass over the event: "
                f"refold skip {seat.name} --position {error.position}",
            )
        else:
            seat.wait_for(_pause(seat.failures), str(error))

    # -- Rebuilds ------------------------------------------------------------------------------------------------------

    async def _begin_rebuild(self, claims: Claims, seats: Sequence[Seat]) -> None:
        for seat in seats:
            await seat.stand(claims, Status.REBUILDING, "built from the beginning")
        task = asyncio.create_task(self._rebuild(seats), name="refold-rebuild")
        task.add_done_callback(lambda _: self._changed.set())
        self._rebuilding[task] = seats

    async def _rebuild(self, seats: Sequence[Seat]) -> None:
        parts = self._parts
        rebuild = Rebuild(
            parts.source,
            parts.store,
            parts.codec,
            parts.scheme,
            app=parts.app,
            limits=parts.rebuild_limits,
            hook=parts.progress,
        )
        results = await rebuild.run(
            [seat.projector for seat in seats],
            # What was never built has nothing to lose: quarantined views are better than none.
            accept_incomplete=all(seat.checkpoint is None for seat in seats),
            accept_truncated=parts.accept_expired,
        )
        for result in results:
            if not result.published:
                log.error(
                    "a rebuild was incomplete and not put in place; readers go on with the views that they have",
                    extra={"projection": result.projection, "failed": result.failed, "parked": result.parked},
                )

    async def _rebuilt(self, claims: Claims, task: asyncio.Task[None]) -> None:
        seats = self._rebuilding.pop(task)
        error = None if task.cancelled() else task.exception()
        for seat in seats:
            if seat.checkpoint is not None:  # an order, which is carried out, or cannot be
                await self._parts.store.order(self._parts.app, seat.name, Wanted.RUN)
            if error is None:
                await self._reconsider(claims, seat)
            elif isinstance(error, RebuildError) and seat.checkpoint is None:
                await seat.fault(claims, str(error))
            elif isinstance(error, RefoldError):
                seat.wait_for(_pause(seat.failures), f"it could not be rebuilt: {error}")
            else:
                raise error

    # -- Waiting and ending --------------------------------------------------------------------------------------------

    async def _wait(self, stop: asyncio.Event) -> None:
        self._changed.clear()
        if any(one.task.done() for one in self._running) or any(task.done() for task in self._rebuilding):
            return
        waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._changed.wait())]
        try:
            await asyncio.wait(waits, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _end(self) -> None:
        """Ends everything: groups in order, rebuilds at once."""
        for task in self._rebuilding:
            task.cancel()
        await asyncio.gather(*self._rebuilding, *map(self._stop, self._running), return_exceptions=True)
        for running in self._running:
            await running.group.close()
            for seat in running.seats:
                seat.reached(running.group)
        self._running.clear()

    def _tell(self, detail: Any) -> None:
        if self._parts.hook is not None:
            _guarded(self._parts.hook)(detail)


def _misfit(projector: Projector[Any], checkpoint: Checkpoint, stream: str) -> str:
    """Why a projector cannot go on from a checkpoint; empty where it can."""
    name = projector.spec.name
    if checkpoint.stream is not None and checkpoint.stream != stream:
        return (
            f"its views were built from stream {checkpoint.stream!r}, and the app reads {stream!r}: set stream= back, or build "
            f"them anew: refold reset {name}"
        )
    if checkpoint.fingerprint is not None and checkpoint.fingerprint != projector.spec.fingerprint:
        return (
            f"its code differs from the one that built its views (event types, keys or columns), and the version is still "
            f"{checkpoint.version}: raise version= in the projector, or build them anew: refold reset {name}"
        )
    return ""


def union(filters: Sequence[EventFilter]) -> EventFilter:
    """What at least one of several filters wants, whatever their starts and predicates."""
    kinds = [wanted.aggregate_types for wanted in filters]
    names = [wanted.event_types for wanted in filters]
    return EventFilter(
        aggregate_types=None if None in kinds else frozenset().union(*filter(None, kinds)),
        event_types=None if None in names else frozenset().union(*filter(None, names)),
    )


def _pause(failures: int) -> float:
    """Seconds to wait after so many failures: full jitter over an exponential."""
    return random.uniform(0.2, min(30.0, 0.5 * 2 ** min(failures, 10)))  # noqa: S311 (no secret)


def _guarded(hook: Hook | None) -> Hook:
    """A hook whose exceptions are logged and passed over."""

    def guarded(detail: Any) -> None:
        if hook is None:
            return
        try:
            hook(detail)
        except Exception:
            log.exception("a hook raised", extra={"detail": type(detail).__name__})

    return guarded


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
