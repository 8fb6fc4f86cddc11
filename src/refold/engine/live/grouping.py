"""Groups of a runner: formed of projections at one position, ended, and brought together again.

What always holds: a projection is in one group at most; whatever fails ends its group, and each projection is then taken up
again from its checkpoint, without whom it concerns.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence

from refold.engine.live.group import Group, LiveLimits
from refold.engine.live.hooks import Retrying
from refold.engine.live.member import Member, TryLater
from refold.engine.live.parts import RunnerParts
from refold.engine.live.seat import Company, Halt, Seat
from refold.errors import (
    ClaimLost,
    EventsExpired,
    HandlerError,
    RefoldError,
    RowRefused,
    SchemaMismatch,
    StoreBusy,
    StoreError,
    StoreUnavailable,
    StreamError,
    StreamReplaced,
)
from refold.filters import EventFilter
from refold.ports import Claims, StreamIdentity

__all__ = ["Grouping"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True, eq=False)
class _Running:
    """A group under way."""

    group: Group
    seats: Sequence[Seat]
    until: int | None
    stop: asyncio.Event
    task: asyncio.Task[None]
    at_head: bool = False

    @property
    def company(self) -> Company:
        """Whom it could share a group with."""
        return self.seats[0].company


@dataclasses.dataclass(frozen=True, slots=True)
class _Meeting:
    """Where groups come together, and how long those that are there wait, by the loop's clock."""

    position: int
    deadline: float


class Grouping:
    """Groups under way.

    Args:
        parts: what the runner works with.
        claims: what it holds.
        on_end: called when one of them has ended.
    """

    def __init__(self, parts: RunnerParts, claims: Claims, on_end: Callable[[], None]) -> None:
        self._parts = parts
        self._claims = claims
        self._on_end = on_end
        self._running: list[_Running] = []
        self._meetings: dict[Company, _Meeting] = {}

    @property
    def has_ended(self) -> bool:
        """Whether `collect` has something to do."""
        return any(one.task.done() for one in self._running)

    # -- Beginning -----------------------------------------------------------------------------------------------------

    async def form(self, seats: Iterable[Seat]) -> None:
        """Makes groups of the projections that can run and do not."""
        busy = {seat for one in self._running for seat in one.seats}
        by_place: dict[tuple[Company, int], list[Seat]] = {}
        for seat in seats:
            if seat not in busy and seat.can_run:
                by_place.setdefault((seat.company, seat.position), []).append(seat)
        self._adjourn(by_place)
        for (company, position), some in by_place.items():
            meeting = self._meetings.get(company)
            if meeting is None or position > meeting.position:
                await self._start(some, until=_before_halt(some))
            elif position < meeting.position:
                await self._start(some, until=meeting.position)

    def _adjourn(self, free: Iterable[tuple[Company, int]]) -> None:
        """Ends meetings that nobody is on the way to any more."""
        now = asyncio.get_running_loop().time()
        for company, meeting in list(self._meetings.items()):
            coming = any(other == company and position < meeting.position for other, position in free)
            coming = coming or any(one.company == company and one.until is not None for one in self._running)
            if not coming or now > meeting.deadline:
                del self._meetings[company]

    async def _start(self, seats: Sequence[Seat], *, until: int | None) -> None:
        try:
            identity = await self._identity(seats)
            group = await self._group(seats, identity) if identity is not None else None
        except SchemaMismatch as error:
            reason = str(error)
            self._part(seats, error, 0, lambda seat: seat.fault(reason))
        except (StoreError, StreamError) as error:
            for seat in seats:
                seat.wait_for(self._parts.pause(seat.failures), str(error))
        else:
            if group is not None:
                self._run(group, seats, until)

    def _run(self, group: Group, seats: Sequence[Seat], until: int | None) -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(group.run(stop, until=until), name="refold-group")
        task.add_done_callback(lambda _: self._on_end())
        self._running.append(_Running(group, seats, until, stop, task))

    async def _identity(self, seats: Sequence[Seat]) -> StreamIdentity | None:
        """What the projections know of their stream; None where one of them has read another, which faults it."""
        first = seats[0].checkpoint
        assert first is not None  # noqa: S101 (only such can run)
        anchors: dict[str | None, list[Seat]] = {}
        for seat in seats:
            anchors.setdefault(seat.checkpoint.anchor if seat.checkpoint is not None else None, []).append(seat)
        known = sorted((anchor for anchor in anchors if anchor is not None), key=_position_of)
        for anchor in known[:-1]:  # the reader itself compares the last one
            found = await self._parts.source.anchor(_position_of(anchor))
            if found not in (None, anchor):
                for seat in anchors[anchor]:
                    seat.fault(
                        f"the event at position {_position_of(anchor)} is another than the one that its views include: the "
                        f"stream was replaced or restored; build them anew: refold reset {seat.name}"
                    )
                return None
        return StreamIdentity(first.created or "", seats[0].position, known[-1] if known else None)

    async def _group(self, seats: Sequence[Seat], identity: StreamIdentity) -> Group:
        parts = self._parts
        limits = parts.limits or LiveLimits()
        capacity = max(1, limits.hot_views // len(seats))
        members = [Member(s.projector, s.memory, parts.codec, parts.scheme, capacity=capacity) for s in seats]
        writer = await self._claims.writer({seat.name: seat.projector.spec.schema for seat in seats})
        epoch = 0 if seats[0].checkpoint is None else seats[0].checkpoint.epoch

        def standing(at_head: bool, trouble: str) -> None:
            for one in self._running:
                if one.group is group:
                    one.at_head = at_head
            for seat in seats:
                seat.got_on(group.position, at_head=at_head, trouble=trouble)

        group = Group(
            parts.source,
            members,
            writer,
            identity,
            _union(seats),
            parts.codec,
            parts.scheme,
            name=f"{parts.app}-{epoch}",
            limits=limits,
            accept_expired=parts.accept_expired,
            hook=parts.tell,
            on_standing=standing,
        )
        return group

    # -- Ending --------------------------------------------------------------------------------------------------------

    async def collect(self) -> None:
        """Takes note of what has ended."""
        for running in [one for one in self._running if one.task.done()]:
            await self._ended(running)

    async def leave(self, seats: Iterable[Seat]) -> None:
        """Ends the groups of some seats, in order."""
        leaving = set(seats)
        await self._end([one for one in self._running if leaving.intersection(one.seats)])

    async def end(self) -> None:
        """Ends all groups, in order."""
        await self._end(self._running)

    async def _end(self, some: Sequence[_Running]) -> None:
        """Ends groups; one whose commit does not come to an end is cut short, which loses nothing."""
        ending = list(some)
        for running in ending:
            running.stop.set()
        if ending:
            await asyncio.wait([one.task for one in ending], timeout=self._parts.grace)
        for running in ending:
            running.task.cancel()
            await asyncio.wait([running.task])
            await self._ended(running)

    async def _ended(self, running: _Running) -> None:
        """Its projections are free again, but for whom it concerns."""
        self._running.remove(running)
        await self._close(running.group)
        error = None if running.task.cancelled() else running.task.exception()
        for seat in running.seats:
            seat.is_stale = True
            seat.reached(running.group.position)
        if error is not None:
            self._blame(running, error)

    async def _close(self, group: Group) -> None:
        try:
            await group.close()
        except StoreError as error:
            log.warning("a connection could not be closed", extra={"projections": group.names, "reason": str(error)})

    # -- Blaming -------------------------------------------------------------------------------------------------------

    def _blame(self, running: _Running, error: BaseException) -> None:
        """Who cannot go on, and how."""
        names = [seat.name for seat in running.seats]
        name = error.fault.projection if isinstance(error, TryLater) else getattr(error, "projection", "")
        for seat in running.seats:
            if seat.name == name:
                self._blame_one(seat, error, running.group.reaching)
                return
        if isinstance(error, ClaimLost):
            log.warning("a batch was refused", extra={"projections": names, "reason": str(error)})
        elif isinstance(error, (StreamReplaced, EventsExpired)):
            for seat in running.seats:
                seat.fault(_with_mend(str(error), seat.name))
        else:
            if not isinstance(error, RefoldError):
                log.error("a group failed", extra={"projections": names}, exc_info=error)
            self._part(running.seats, error, running.group.reaching, lambda seat: self._wait(seat, error))

    def _part(self, seats: Sequence[Seat], error: BaseException, reaching: int, blame: Callable[[Seat], None]) -> None:
        """Nobody knows whom it concerns: each goes on alone, which shows it."""
        concerns_all = isinstance(error, (StreamError, StoreUnavailable, StoreBusy))
        for seat in seats:
            if len(seats) > 1 and not concerns_all:
                seat.part_until(reaching)
            else:
                blame(seat)

    def _wait(self, seat: Seat, error: BaseException) -> None:
        reason = str(error) if isinstance(error, RefoldError) else f"{type(error).__name__}: {error}"
        seat.wait_for(self._parts.pause(seat.failures), reason)

    def _blame_one(self, seat: Seat, error: BaseException, reaching: int) -> None:
        if isinstance(error, TryLater):
            wait = seat.try_again(error.fault.position, error.rule)
            seat.wait_for(wait, f"position {error.fault.position}: {error.fault.reason}; it is tried again")
            self._parts.tell(Retrying(projections=(seat.name,), what="event", reason=error.fault.reason, wait=wait))
        elif isinstance(error, RowRefused) and error.key and seat.refuse(error.key, str(error), reaching):
            pass  # taken up again, it knows whose fault that is
        elif isinstance(error, HandlerError) and error.position is not None:
            # What comes before the event is still committed, so that it stands right before it.
            seat.halt = Halt(
                error.position,
                f"{error}; mend the projector and then refold resume {seat.name}, or pass over the event: "
                f"refold skip {seat.name} --position {error.position}",
            )
            seat.reached(seat.position)
        else:
            self._wait(seat, error)

    # -- Coming together -----------------------------------------------------------------------------------------------

    async def merge(self) -> None:
        """Brings groups that are at the head to one position, so that they share their reading from then on."""
        by_company: dict[Company, list[_Running]] = {}
        for one in self._running:
            by_company.setdefault(one.company, []).append(one)
        for company, some in by_company.items():
            if len(some) < 2 or not all(one.at_head and one.until is None for one in some):
                continue
            await self._end(some)
            position = max(seat.position for one in some for seat in one.seats)
            deadline = asyncio.get_running_loop().time() + 2 * self._parts.grace
            self._meetings[company] = _Meeting(position, deadline)


def _union(seats: Sequence[Seat]) -> EventFilter:
    """What at least one of several projections wants; their starts are one."""
    filters = [seat.projector.spec.wanted for seat in seats]
    kinds = [wanted.aggregate_types for wanted in filters]
    names = [wanted.event_types for wanted in filters]
    company = seats[0].company
    return EventFilter(
        aggregate_types=None if None in kinds else frozenset().union(*filter(None, kinds)),
        event_types=None if None in names else frozenset().union(*filter(None, names)),
        start_time=company.start_time,
        start_position=company.start_position,
    )


def _before_halt(seats: Sequence[Seat]) -> int | None:
    halt = seats[0].halt
    return None if halt is None else halt.position - 1


def _position_of(anchor: str) -> int:
    return int(anchor.partition(":")[0])


def _with_mend(reason: str, name: str) -> str:
    if "reset NAME" in reason:
        return reason.replace("reset NAME", f"reset {name}")
    return reason if "reset" in reason else f"{reason}; build them anew: refold reset {name}"
