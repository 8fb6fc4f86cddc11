"""A projection's seat in the runner: what is known of it from one group to the next, and how it therefore stands.

How it stands is never set: it follows from what is known, so that no two things that happen at once can leave a wrong one.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from refold.engine.live.hooks import Hook, StateChanged
from refold.engine.live.member import Memory
from refold.engine.policy import Retry
from refold.engine.projector import Projector
from refold.errors import ClaimHeld, StoreError
from refold.ports import Checkpoint, Claims, Quarantined, Status, Wanted

__all__ = ["Company", "Halt", "Seat"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Halt:
    """An event that a projection may not pass.

    Attributes:
        position: of the event.
        reason: what it is, and what to do.
    """

    position: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Company:
    """Who may share a group: projections of which this is equal, once they are at one position.

    Attributes:
        created: the creation time of the stream that they have read.
        start_time, start_position: where reading begins, as long as that lies ahead.
        alone: name of a projection that is to be by itself.
    """

    created: str
    start_time: datetime | None
    start_position: int | None
    alone: str


class Seat:
    """One projection of a runner.

    Args:
        projector: the user's fold.
        hook: told of changes; it may not raise.

    Attributes:
        projector: as given.
        name: of the projection.
        checkpoint: where it was when it was taken up; None before it was built, and while it is not claimed.
        has_views: whether there are views of it, if only another version's.
        memory: what outlives its groups.
        position: where it is.
        failures: how often it failed since it last got on.
        lost: why another process, or other code, has it now; None while it does not.
        awaited: why it is waited for, while another process has it, perhaps not for long; else None.
        halt: the event that it may not pass.
        apart: the position up to which it is by itself, since a group failed without a word on whom that concerns; else None.
        is_building: whether it is being built.
        is_stale: whether its checkpoint must be read again before it runs.
    """

    def __init__(self, projector: Projector[Any], hook: Hook) -> None:
        self.projector = projector
        self.name: str = projector.spec.name
        self.checkpoint: Checkpoint | None = None
        self.has_views = False
        self.memory = Memory()
        self.position = 0
        self.failures = 0
        self.lost: StoreError | None = None
        self.awaited: ClaimHeld | None = None
        self.halt: Halt | None = None
        self.apart: int | None = None
        self.is_building = False
        self.is_stale = True
        self._hook = hook
        self._fault = ""
        self._trouble = ""
        self._note = ""
        self._held_by = ""
        self._at_head = False
        self._ready_at = 0.0
        self._attempts: dict[int, int] = {}
        self._stood = (Status.NEW, "")
        self._written: tuple[Status, str] | None = None

    # -- How it stands ---------------------------------------------------------------------------------------------------

    @property
    def standing(self) -> tuple[Status, str]:
        """How it stands, and why."""
        if self.lost is not None:
            return Status.STOPPED, str(self.lost)
        if self.awaited is not None:
            return Status.STOPPED, self._held_by
        if self.is_building:
            return Status.REBUILDING, "built from the beginning"
        if self._is_paused:
            return Status.PAUSED, f"paused by order; to go on: refold resume {self.name}"
        if self._fault:
            return Status.FAULTED, self._fault
        if self.checkpoint is None:
            return Status.NEW, self._trouble
        if self._trouble:
            return Status.DEGRADED, self._trouble
        if not self._at_head:
            return Status.CATCHING_UP, self._note
        if self.memory.held:
            held = f"{_views(len(self.memory.held))} quarantined: refold dead-letters list"
            return Status.DEGRADED, f"{held}; {self._note}" if self._note else held
        return Status.LIVE, self._note

    @property
    def is_faulted(self) -> bool:
        """Whether it cannot go on without help."""
        return bool(self._fault)

    @property
    def ready_in(self) -> float:
        """Seconds for which it waits, after a failure, before it is tried again; 0 where it does not."""
        return max(0.0, self._ready_at - time.monotonic())

    @property
    def can_be_taken(self) -> bool:
        """Whether its checkpoint should be read again, now."""
        return self.is_stale and not (self.lost or self.ready_in or self.is_faulted)

    @property
    def can_run(self) -> bool:
        """Whether it may be in a group, now."""
        return self.checkpoint is not None and not (self._is_paused or self._is_out_of_use)

    @property
    def can_be_built(self) -> bool:
        """Whether it was never built, or another generation was ordered; and may be built, now."""
        if self.is_building:
            return False
        if self.checkpoint is None:
            return not self._is_out_of_use
        return self.checkpoint.wanted is Wanted.REBUILD and not (self.is_stale or self.ready_in)

    @property
    def _is_out_of_use(self) -> bool:
        return bool(self.lost or self._fault or self.is_stale or self.ready_in)

    @property
    def _is_paused(self) -> bool:
        return self.checkpoint is not None and self.checkpoint.wanted is Wanted.PAUSE

    @property
    def company(self) -> Company:
        """Who may share a group with it."""
        checkpoint, wanted = self.checkpoint, self.projector.spec.wanted
        is_untouched = checkpoint is None or checkpoint.anchor is None  # else messages after the start were read
        ahead = wanted.start_position if (wanted.start_position or 0) > self.position + 1 else None
        alone = self.name if self.apart is not None or self.halt is not None else ""
        created = "" if checkpoint is None else checkpoint.created or ""
        return Company(created, wanted.start_time if is_untouched else None, ahead, alone)

    def knows(self, found: Checkpoint | None) -> bool:
        """Whether its checkpoint is still as this seat took it up, but for its position."""
        mine = self.checkpoint
        return (
            mine is not None
            and found is not None
            and (found.generation, found.version) == (mine.generation, mine.version)
            and (found.epoch, found.owner, found.role) == (mine.epoch, mine.owner, mine.role)
        )

    # -- What happens to it ----------------------------------------------------------------------------------------------

    def adopt(self, checkpoint: Checkpoint | None, quarantined: Sequence[Quarantined] = (), *, fault: str = "") -> None:
        """Takes a checkpoint up, or none, where it was never built.

        Args:
            checkpoint: as it was claimed.
            quarantined: its quarantined views.
            fault: why it cannot go on from there.
        """
        before, self.checkpoint = self.checkpoint, checkpoint
        self.lost, self.is_stale = None, False
        self.awaited, self._fault = None, fault
        self.position = 0 if checkpoint is None else checkpoint.position
        if checkpoint is not None:
            self.memory.held = {one.key for one in quarantined}
            self.memory.skip = checkpoint.skip
            self._written = (checkpoint.status, checkpoint.reason)
            if before is None or before.table != checkpoint.table:
                self._note, self.halt, self._at_head = "", None, False
        self._at_head = self._at_head and not (fault or self._is_paused)
        self._notice()

    def await_claim(self, held: ClaimHeld, seconds: float) -> None:
        """Another process has it, perhaps not for long."""
        if self.awaited is None or self.awaited.owner != held.owner:  # else only its last sign of life is another
            self._held_by = str(held)
            log.info("waiting for a claim", extra={"projection": self.name, "reason": self._held_by})
        self.awaited, self.is_stale = held, True
        self._ready_at = time.monotonic() + seconds
        self._notice()

    def lose(self, reason: StoreError) -> None:
        """Another process, or other code, has it."""
        log.warning("a projection is not run here", extra={"projection": self.name, "reason": str(reason)})
        self.lost, self.awaited, self.checkpoint, self.is_stale = reason, None, None, False
        self._notice()

    def fault(self, reason: str) -> None:
        """It cannot go on without help: an order, which is noticed as a change of its checkpoint."""
        log.error("a projection stopped", extra={"projection": self.name, "position": self.position, "reason": reason})
        self._fault, self.is_stale, self._at_head = reason, False, False
        self._notice()

    def wait_for(self, seconds: float, reason: str) -> None:
        """It failed, and is tried again after a while."""
        log.warning("a projection failed and is tried again", extra={"projection": self.name, "reason": reason})
        self.failures += 1
        self.is_stale = True
        self._ready_at = time.monotonic() + seconds
        self._trouble = reason
        self._notice()

    def is_built(self, note: str = "") -> None:
        """It is not being built any more.

        Args:
            note: what came of it, where that was not what was wanted.
        """
        self.is_building, self._note = False, note
        self._notice()

    def begin_building(self) -> None:
        """It is being built from now on."""
        self.is_building = True
        self._notice()

    def hurry(self) -> None:
        """Somebody wrote to its checkpoint, which is to be read now: what faulted it may be mended."""
        self.is_stale, self._ready_at, self._fault = True, 0.0, ""

    def part_until(self, position: int) -> None:
        """It is to be by itself until it has passed a position."""
        self.apart = max(position, self.position + 1)

    def refuse(self, key: str, reason: str, upto: int) -> bool:
        """The database refuses a row: its events up to a position are at fault. Whether that was not known yet."""
        if self.memory.refused.get(key, ("", -1))[1] >= upto:
            return False
        self.memory.refused[key] = (reason, upto)
        return True

    def try_again(self, position: int, rule: Retry) -> float:
        """Counts an attempt at an event; seconds to wait before the next. After the last one, its failure counts."""
        attempt = self._attempts[position] = self._attempts.get(position, 0) + 1
        if attempt >= rule.attempts:
            self.memory.exhausted.add(position)
        wait: float = min(rule.wait_max, rule.wait_initial * 2 ** min(attempt - 1, 50))
        return wait * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)

    def got_on(self, position: int, *, at_head: bool, trouble: str = "") -> None:
        """Its group tells how it is getting on.

        Args:
            position: the last one committed.
            at_head: whether that is the stream's head, or nearly.
            trouble: what keeps it from getting on; empty where nothing does.
        """
        self.position = max(position, self.position)
        self._at_head, self._trouble = at_head, trouble
        if not trouble:
            self.failures = 0
            self.apart = None if self.apart is None or position >= self.apart else self.apart
            self._attempts = {at: count for at, count in self._attempts.items() if at > position}
        self._notice()

    def reached(self, position: int) -> None:
        """Its group has ended."""
        self.position = max(position, self.position)
        if self.halt is not None and self.position >= self.halt.position - 1:
            halt, self.halt = self.halt, None
            if self.memory.skip != halt.position:
                self.fault(halt.reason)

    # -- What is told of it ----------------------------------------------------------------------------------------------

    async def tell(self, claims: Claims) -> None:
        """Writes how it stands, unless it was written already; what cannot be written now is written another time."""
        now = self.standing
        if self.checkpoint is None or self._written == now:
            return
        try:
            await claims.report(self.name, *now)
        except StoreError as error:
            log.warning("a status could not be written", extra={"projection": self.name, "reason": str(error)})
        else:
            self._written = now

    async def release(self, claims: Claims) -> None:
        """Lets go of its claim; what stopped it stays to be read."""
        if self.checkpoint is None:
            return
        status, reason = self.standing
        kept = status in (Status.FAULTED, Status.PAUSED)
        try:
            await claims.release(self.name, status if kept else Status.STOPPED, reason if kept else "")
        except StoreError as error:
            log.warning("a claim could not be released", extra={"projection": self.name, "reason": str(error)})

    def _notice(self) -> None:
        """Tells of a change."""
        (before, _), (now, reason) = self._stood, self.standing
        if self._stood == (now, reason):
            return
        self._stood = (now, reason)
        if before is not now:
            log.info(
                "a projection stands otherwise",
                extra={"projection": self.name, "before": before.value, "now": now.value, "reason": reason},
            )
        self._hook(StateChanged(projection=self.name, before=before, now=now, reason=reason, position=self.position))


def _views(count: int) -> str:
    return "1 view is" if count == 1 else f"{count} views are"
