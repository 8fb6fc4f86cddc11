"""Claims of a runner's projections: taken, renewed, and taken anew where somebody else wrote to a checkpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from refold.engine.live.parts import RunnerParts
from refold.engine.live.seat import Seat
from refold.engine.projector import Projector
from refold.errors import ClaimHeld, ClaimLost, StoreError
from refold.ports import Checkpoint, Claims

__all__ = ["Claiming"]

log = logging.getLogger(__name__)


class Claiming:
    """Takes checkpoints up, and notices when others write to them.

    A claim that another process holds when this one begins is waited for: while there are others to run, as long as that takes;
    else as long as a dead process would hold it. One that is lost later is lost.

    Args:
        parts: what the runner works with.
        claims: what it holds.
    """

    def __init__(self, parts: RunnerParts, claims: Claims) -> None:
        self._parts = parts
        self._claims = claims
        self._patience = asyncio.get_running_loop().time() + parts.lease + parts.grace

    async def take(self, seat: Seat) -> None:
        """Takes a seat's checkpoint up, whatever it is now."""
        before, seat.is_stale = seat.checkpoint, True
        try:
            refusal = await self._other_version(seat)
            if refusal:
                raise ClaimLost(refusal)
            checkpoint = await self._claims.take(seat.name, seat.projector.spec.version)
            quarantined = await self._claims.quarantined(seat.name) if checkpoint is not None else ()
        except ClaimHeld as error:
            if before is not None:
                seat.lose(error)
            else:
                seat.await_claim(error, self._parts.tick)
        except ClaimLost as error:
            seat.lose(error)
        except StoreError as error:
            seat.wait_for(self._parts.pause(seat.failures), f"its checkpoint cannot be read: {error}")
        else:
            fault = "" if checkpoint is None else _misfit(seat.projector, checkpoint, self._parts.stream)
            seat.adopt(checkpoint, quarantined, fault=fault)

    async def _other_version(self, seat: Seat) -> str:
        """Why this code should not run a projection whose views are another version's; empty where it should."""
        name, mine = seat.name, seat.projector.spec.version
        active = [g.version for g in await self._parts.store.generations(self._parts.app, name) if g.role == "active"]
        seat.has_views = bool(active)
        if not active or active == [mine]:
            return ""
        if max(active) > mine:
            return (
                f"version {max(active)} of {name} is active, and this code has version {mine}: deploy the newer code, or rebuild "
                f"version {mine} to go back (refold rebuild {name})"
            )
        if seat.checkpoint is not None:
            return f"somebody went back to version {max(active)} of {name}, and this code has version {mine}"
        return ""

    async def renew(self, seats: Iterable[Seat]) -> list[Seat]:
        """Gives a sign of life; the seats to whose checkpoints somebody else wrote: an order, another process."""
        claimed = [seat for seat in seats if seat.checkpoint is not None]
        if not claimed:
            return []
        try:
            stands = await self._claims.renew([seat.name for seat in claimed])
        except StoreError as error:
            log.warning("claims could not be renewed", extra={"reason": str(error)})
            return []
        return [seat for seat in claimed if not seat.knows(stands.get(seat.name))]

    def refuse_to_idle(self, seats: Sequence[Seat]) -> None:
        """Raises why nothing is left to be run here.

        Raises:
            ClaimHeld, ClaimLost: other processes, or other code, have everything.
        """
        is_patient = asyncio.get_running_loop().time() <= self._patience
        if not is_patient and all(seat.lost or seat.awaited for seat in seats):
            for seat in seats:
                if seat.awaited is not None:
                    seat.lose(seat.awaited)
        lost = [seat.lost for seat in seats if seat.lost is not None]
        if not lost or len(lost) < len(seats):
            return
        reasons = "; ".join(dict.fromkeys(map(str, lost)))
        first = lost[0]
        if isinstance(first, ClaimHeld) and all(isinstance(error, ClaimHeld) for error in lost):
            raise ClaimHeld(reasons, projection=first.projection, owner=first.owner)
        raise ClaimLost(reasons)


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
