"""The runner: claims projections, builds those that are new, and keeps groups of them going until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from refold.engine.live.building import Building
from refold.engine.live.claiming import Claiming
from refold.engine.live.grouping import Grouping
from refold.engine.live.parts import RunnerParts
from refold.engine.live.seat import Seat
from refold.engine.projector import Projector
from refold.errors import RebuildError
from refold.ports import Claims, Status

__all__ = ["Runner", "RunnerParts"]

log = logging.getLogger(__name__)


class Runner:
    """Runs projections of one app.

    Args:
        parts: what it works with.
        projectors: what to run.
    """

    def __init__(self, parts: RunnerParts, projectors: Sequence[Projector[Any]]) -> None:
        self._parts = parts
        self._seats = [Seat(projector, parts.tell) for projector in projectors]
        self._changed = asyncio.Event()

    @property
    def standing(self) -> Mapping[str, tuple[Status, str]]:
        """How each projection stands, and why."""
        return {seat.name: seat.standing for seat in self._seats}

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until told to stop; then finishes the batches under way, and lets go of its claims. Cancelling does the same.

        Raises:
            ClaimHeld, ClaimLost: another process runs the projections, or other code does; of several, when none is left to
                this one.
            RebuildError: none of the projections could be built.
            StoreError: the database cannot be reached at the start; later it is waited for.
        """
        parts = self._parts
        async with parts.store.claims(parts.app, lease=parts.lease) as claims:
            groups = Grouping(parts, claims, self._changed.set)
            building = Building(parts, self._changed.set)
            working = asyncio.create_task(self._work(claims, groups, building, stop), name="refold-runner")
            try:
                await self._until(stop, working)
            finally:
                await self._end(claims, groups, building, working)

    async def _work(self, claims: Claims, groups: Grouping, building: Building, stop: asyncio.Event) -> None:
        claiming = Claiming(self._parts, claims)
        while not stop.is_set():
            await groups.collect()
            for seat in await building.collect():
                seat.is_stale = seat.lost is None
            for seat in await claiming.renew(self._seats):
                seat.hurry()
            stale = [seat for seat in self._seats if seat.can_be_taken]
            await groups.leave(stale)
            for seat in stale:
                await claiming.take(seat)
            claiming.refuse_to_idle(self._seats)
            self._refuse_to_wait()
            await building.begin(self._seats)
            await groups.form(self._seats)
            await groups.merge()
            for seat in self._seats:
                await seat.tell(claims)
            await self._wait(stop, groups, building)

    def _refuse_to_wait(self) -> None:
        """Raises why nothing could be built, and so nothing can be run, nor ordered."""
        if all(seat.lost is not None or (seat.checkpoint is None and seat.is_faulted) for seat in self._seats):
            raise RebuildError("; ".join(dict.fromkeys(seat.standing[1] for seat in self._seats)))

    async def _wait(self, stop: asyncio.Event, groups: Grouping, building: Building) -> None:
        """Waits for something to happen, or for the time of the next look."""
        self._changed.clear()
        if groups.has_ended or building.has_ended or any(seat.can_be_taken for seat in self._seats):
            return
        again = [seat.ready_in for seat in self._seats if seat.ready_in]
        await _first_of([stop, self._changed], min([self._parts.tick, *again]))

    async def _until(self, stop: asyncio.Event, working: asyncio.Task[None]) -> None:
        """Until the work is over, or was told to be over and had time for that."""
        stopping = asyncio.create_task(stop.wait(), name="refold-stop")
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([working], timeout=self._parts.grace)
            if working.done():
                working.result()
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _end(self, claims: Claims, groups: Grouping, building: Building, working: asyncio.Task[None]) -> None:
        """Ends everything: groups in order, rebuilds at once; then lets go of the claims, if the database is there."""
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await building.end()
        await groups.end()
        try:
            async with asyncio.timeout(self._parts.grace):
                for seat in self._seats:
                    await seat.release(claims)
        except TimeoutError:
            log.warning("claims were not released in time", extra={"projections": [seat.name for seat in self._seats]})


async def _first_of(events: Sequence[asyncio.Event], seconds: float) -> None:
    """Waits for one of several events, and no longer than that."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
