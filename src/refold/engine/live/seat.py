"""A projection's seat in the runner: how it stands, and what is known of it from one group to the next."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from refold.engine.live.group import Group
from refold.engine.live.hooks import Hook, StateChanged
from refold.engine.live.member import Memory
from refold.engine.policy import Retry
from refold.engine.projector import Projector
from refold.ports import Checkpoint, Claims, Quarantined, Status, Wanted

__all__ = ["Seat"]

log = logging.getLogger(__name__)


class Seat:
    """One projection of a runner.

    Args:
        projector: the user's fold.
        hook: told of changes.

    Attributes:
        projector: as given.
        name: of the projection.
        checkpoint: where it was when it was taken up; None before it was built, and once it is lost.
        memory: what outlives its groups.
        position: where it is.
        status, reason: how it stands, and why.
        failures: how often it failed since it last got on.
        is_lost: whether another process, or newer code, has it now.
        is_stale: whether its checkpoint must be read again before it runs.
    """

    def __init__(self, projector: Projector[Any], hook: Hook) -> None:
        self.projector = projector
        self.name: str = projector.spec.name
        self.checkpoint: Checkpoint | None = None
        self.memory = Memory()
        self.position = 0
        self.status = Status.NEW
        self.reason = ""
        self.failures = 0
        self.is_lost = False
        self.is_stale = False
        self._hook = hook
        self._until = 0.0
        self._attempts: dict[int, int] = {}
        self._told: tuple[Status, str] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it failed, and waits before it is tried again."""
        return time.monotonic() < self._until

    @property
    def can_run(self) -> bool:
        """Whether it may be in a group."""
        return not (self.is_lost or self.is_waiting or self.status in (Status.PAUSED, Status.FAULTED))

    @property
    def wants_rebuild(self) -> bool:
        """Whether somebody ordered another generation."""
        return not self.is_lost and self.checkpoint is not None and self.checkpoint.wanted is Wanted.REBUILD

    def knows(self, standing: Checkpoint | None) -> bool:
        """Whether its checkpoint is still as this seat took it up, but for its position."""
        mine = self.checkpoint
        return (
            mine is not None
            and standing is not None
            and (standing.generation, standing.version) == (mine.generation, mine.version)
            and (standing.epoch, standing.owner, standing.role) == (mine.epoch, mine.owner, mine.role)
        )

    # -- What happens to it ----------------------------------------------------------------------------------------------

    def adopt(self, checkpoint: Checkpoint | None, quarantined: Sequence[Quarantined] = ()) -> None:
        """Takes a checkpoint up, or none, where it was never built."""
        self.checkpoint = checkpoint
        self.is_lost = self.is_stale = False
        self._told = None
        if checkpoint is None:
            self._change(Status.NEW, "")
            return
        self.position = checkpoint.position
        self.memory.held = {one.key for one in quarantined}
        self.memory.skip = checkpoint.skip
        if self.status in (Status.NEW, Status.PAUSED, Status.FAULTED, Status.REBUILDING) and not self.is_waiting:
            self._change(Status.CATCHING_UP, "")

    def lose(self, reason: str) -> None:
        """Another process, or newer code, has it."""
        log.warning("a projection is not run here", extra={"projection": self.name, "reason": reason})
        self.is_lost = True
        self.checkpoint = None
        self._change(Status.STOPPED, reason)

    def wait_for(self, seconds: float, reason: str) -> None:
        """It failed, and is tried again after a while."""
        log.warning("a projection failed and is tried again", extra={"projection": self.name, "reason": reason})
        self.failures += 1
        self.is_stale = True
        self._until = time.monotonic() + seconds
        self._change(Status.DEGRADED, reason)

    def refuse(self, key: str, reason: str, upto: int) -> None:
        """The database refuses a row: its events up to a position are at fault."""
        self.memory.refused[key] = (reason, upto)

    def try_again(self, position: int, rule: Retry) -> float:
        """Counts an attempt at an event; seconds to wait before the next. After the last one, its failure counts."""
        attempt = self._attempts[position] = self._attempts.get(position, 0) + 1
        if attempt >= rule.attempts:
            self.memory.exhausted.add(position)
        wait: float = min(rule.wait_max, rule.wait_initial * 2 ** (attempt - 1))
        return wait * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)

    def reached(self, group: Group) -> None:
        """Takes note of what a group has committed."""
        if group.position > self.position:
            self.failures = 0
            self._attempts.clear()
        self.position = group.position

    def at_head(self, at_head: bool, position: int) -> None:
        """A batch was committed."""
        self.position = position
        if not at_head:
            self._change(Status.CATCHING_UP, "")
        elif self.memory.held:
            count = len(self.memory.held)
            views = "1 view is" if count == 1 else f"{count:,} views are"
            self._change(Status.DEGRADED, f"{views} quarantined; see refold dead-letters list")
        else:
            self._change(Status.LIVE, "")

    # -- What is told of it ----------------------------------------------------------------------------------------------

    async def stand(self, claims: Claims, status: Status, reason: str) -> None:
        """Stands so from now on, and says it."""
        self._change(status, reason)
        await self.tell(claims)

    async def fault(self, claims: Claims, reason: str) -> None:
        """It cannot go on without help."""
        log.error("a projection stopped", extra={"projection": self.name, "position": self.position, "reason": reason})
        await self.stand(claims, Status.FAULTED, reason)

    async def tell(self, claims: Claims) -> None:
        """Writes how it stands, unless it was written already."""
        now = (self.status, self.reason)
        if self.checkpoint is not None and self._told != now and self.status is not Status.NEW:
            await claims.report(self.name, *now)
            self._told = now

    async def release(self, claims: Claims) -> None:
        """Lets go of its claim; what stopped it stays to be read."""
        if self.checkpoint is None:
            return
        kept = self.status in (Status.FAULTED, Status.PAUSED)
        await claims.release(self.name, self.status if kept else Status.STOPPED, self.reason if kept else "")

    def _change(self, now: Status, reason: str) -> None:
        before = self.status
        if (before, self.reason) == (now, reason):
            return
        self.status, self.reason = now, reason
        if before is not now:
            log.info(
                "a projection stands otherwise",
                extra={"projection": self.name, "before": before.value, "now": now.value, "reason": reason},
            )
        self._hook(StateChanged(projection=self.name, before=before, now=now, reason=reason, position=self.position))
