"""Generations that a runner builds: first ones, and those that were ordered, beside the one that readers see."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from refold.engine.live.parts import RunnerParts
from refold.engine.live.seat import Seat
from refold.engine.outcome import RebuildResult
from refold.engine.rebuild import Rebuild
from refold.errors import RebuildError, RefoldError, StoreBusy, StoreError, StoreUnavailable, StreamError
from refold.ports import Wanted

__all__ = ["Building"]

log = logging.getLogger(__name__)


class Building:
    """Rebuilds under way.

    Args:
        parts: what the runner works with.
        on_end: called when one of them has ended.
    """

    def __init__(self, parts: RunnerParts, on_end: Callable[[], None]) -> None:
        self._parts = parts
        self._on_end = on_end
        self._under_way: dict[asyncio.Task[list[RebuildResult]], Sequence[Seat]] = {}

    @property
    def has_ended(self) -> bool:
        """Whether `collect` has something to do."""
        return any(task.done() for task in self._under_way)

    async def begin(self, seats: Sequence[Seat]) -> None:
        """Builds what needs it: in one pass what has no views yet, in others new versions, and what was ordered."""
        ready = [seat for seat in seats if seat.can_be_built]
        new = [seat for seat in ready if seat.checkpoint is None and not seat.has_views]
        newer = [seat for seat in ready if seat.checkpoint is None and seat.has_views]
        ordered = [seat for seat in ready if seat.checkpoint is not None]
        together = [[seat for seat in some if seat.apart is None] for some in (new, newer, ordered)]
        for some in [*filter(None, together), *([seat] for seat in ready if seat.apart is not None)]:
            for seat in some:
                seat.begin_building()
            task = asyncio.create_task(self._build(some), name="refold-rebuild")
            task.add_done_callback(lambda _: self._on_end())
            self._under_way[task] = some

    async def _build(self, seats: Sequence[Seat]) -> list[RebuildResult]:
        parts = self._parts
        rebuild = Rebuild(
            parts.source,
            parts.store,
            parts.codec,
            parts.scheme,
            app=parts.app,
            limits=parts.rebuild_limits,
            hook=parts.tell_progress if parts.progress is not None else None,
        )
        nothing_yet = {seat.name for seat in seats if not await self._has_views(seat)}
        return await rebuild.run(
            [seat.projector for seat in seats],
            # Where there are no views yet, some that are quarantined are better than none.
            accept_incomplete=len(nothing_yet) == len(seats),
            accept_truncated=parts.accept_expired,
        )

    async def _has_views(self, seat: Seat) -> bool:
        generations = await self._parts.store.generations(self._parts.app, seat.name)
        return any(generation.role == "active" for generation in generations)

    async def collect(self) -> list[Seat]:
        """Takes note of what has ended; the seats whose checkpoints may be others now."""
        for task, seats in self._under_way.items():
            if all(seat.lost is not None for seat in seats):
                task.cancel()  # whoever has them builds them
        ended: list[Seat] = []
        for task in [task for task in self._under_way if task.done()]:
            seats = self._under_way.pop(task)
            ended += seats
            error = None if task.cancelled() else task.exception()
            if task.cancelled():
                for seat in seats:
                    seat.is_built()
            elif error is not None:
                await self._failed(seats, error)
            else:
                for seat, result in zip(seats, task.result(), strict=True):
                    await self._built(seat, result)
        return ended

    async def _built(self, seat: Seat, result: RebuildResult) -> None:
        if result.published:
            seat.is_building = False  # how it stands then, tells the checkpoint, which is read next
            seat.failures = 0
            seat.apart = None
        else:
            await self._in_vain(
                seat,
                f"version {result.version} was built incompletely ({result.failed} events failed, {result.parked} after them) "
                f"and not put in place; mend the projector, or accept that: refold rebuild {seat.name} --accept-incomplete",
            )

    async def _in_vain(self, seat: Seat, reason: str) -> None:
        """Trying again would not help: an order is done with, and what was never built cannot run."""
        log.error(
            "a rebuild was not put in place; readers go on with what they have",
            extra={"projection": seat.name, "reason": reason},
        )
        if seat.checkpoint is None:
            seat.is_building = False
            seat.fault(reason)
        else:
            seat.is_built(reason)
            await self._clear_order(seat)

    async def _clear_order(self, seat: Seat) -> None:
        """Takes an order to rebuild back, but no other that came meanwhile."""
        parts = self._parts
        try:
            for found in await parts.store.generations(parts.app, seat.name):
                if found.role == "active" and found.wanted is Wanted.REBUILD:
                    await parts.store.order(parts.app, seat.name, Wanted.RUN)
        except StoreError as error:
            seat.wait_for(parts.pause(seat.failures), str(error))

    async def _failed(self, seats: Sequence[Seat], error: BaseException) -> None:
        named = error.projection if isinstance(error, RebuildError) else ""
        for seat in seats:
            if isinstance(error, RebuildError) and named in ("", seat.name):
                await self._in_vain(seat, str(error))
            elif isinstance(error, RebuildError):
                seat.is_built()  # and it is begun again, without the one that is named
            else:
                seat.is_built()
                self._blame(seat, error, share=len(seats))

    def _blame(self, seat: Seat, error: BaseException, *, share: int) -> None:
        is_known = isinstance(error, RefoldError)
        if not is_known:
            log.error("a rebuild failed", extra={"projection": seat.name}, exc_info=error)
        if share > 1 and not isinstance(error, (StreamError, StoreUnavailable, StoreBusy)):
            seat.part_until(0)  # so that whom it concerns shows
        reason = str(error) if is_known else f"{type(error).__name__}: {error}"
        seat.wait_for(self._parts.pause(seat.failures), f"it could not be built: {reason}")

    async def end(self) -> None:
        """Ends all that is under way; what was written goes."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        for seats in self._under_way.values():
            for seat in seats:
                seat.is_building = False
        self._under_way.clear()
