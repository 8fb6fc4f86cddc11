"""How projections stand, as anybody can see it from outside: from their checkpoints, and from the end of the stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from refold.clock import Clock
from refold.engine.projector import Projector
from refold.errors import RefoldError
from refold.ports import Checkpoint, ProjectionStore, Status, StreamState, Wanted

__all__ = ["BuildingStatus", "HeadReader", "ProjectionStatus", "is_tended", "look"]

_AT_WORK: Final = frozenset({Status.REBUILDING, Status.CATCHING_UP, Status.LIVE, Status.DEGRADED})
"""Statuses that say that somebody is at it now."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuildingStatus:
    """A generation that is being built, which readers do not see yet.

    Attributes:
        version, generation: which.
        owner: who builds it.
        since: since when.
    """

    version: int
    generation: int
    owner: str | None
    since: datetime | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionStatus:
    """How one projection stands.

    What is not known is None. A projection that was never built has no position, and so no lag: it is never shown as caught up.

    Attributes:
        projection: its name.
        version: the version that readers see; that of the code where they see none.
        generation: the generation that readers see.
        status: how it stands. One that should run, and whose owner gives no sign of life, is ``stopped``.
        since: since when.
        reason: why, and what to do; empty where there is nothing to say.
        wanted: what people ordered.
        position: the last stream sequence that its views include.
        head: the stream's last sequence.
        lag_events: stream sequences between the two.
        lag_seconds: age of the first message after the position; 0 at the head.
        rate: stream sequences a second since an earlier look.
        dead_letters: how many it has.
        quarantined: how many of its views are quarantined.
        owner: who runs it, or ran it last.
        building: a generation that is being built.
        unknown: why head or lag cannot be told; empty where they can.
        looked: when this was so.
    """

    projection: str
    version: int
    generation: int | None = None
    status: Status = Status.NEW
    since: datetime | None = None
    reason: str = ""
    wanted: Wanted = Wanted.RUN
    position: int | None = None
    head: int | None = None
    lag_events: int | None = None
    lag_seconds: float | None = None
    rate: float | None = None
    dead_letters: int = 0
    quarantined: int = 0
    owner: str | None = None
    building: BuildingStatus | None = None
    unknown: str = ""
    looked: datetime

    @property
    def needs_help(self) -> bool:
        """Whether it is degraded or faulted, or has been built from another stream than there is now."""
        is_astray = self.head is not None and self.position is not None and self.lag_events is None
        return is_astray or self.status in (Status.DEGRADED, Status.FAULTED)


class HeadReader(Protocol):
    """Tells where a stream ends."""

    async def state(self) -> StreamState:
        """The stream now. Raises RefoldError where it cannot be asked."""
        ...

    async def stored(self, position: int) -> datetime | None:
        """When the first message at a position or after it was stored; None where there is none. Raises as `state`."""
        ...


async def look(
    store: ProjectionStore,
    reader: HeadReader,
    app: str,
    projectors: Sequence[Projector[Any]],
    *,
    clock: Clock,
    lease: float = 15.0,
    before: Sequence[ProjectionStatus] = (),
) -> list[ProjectionStatus]:
    """How projections stand now.

    Args:
        store: has their checkpoints.
        reader: knows the stream's end.
        app: the application.
        projectors: which projections.
        clock: what time it is.
        lease: seconds without a sign of life after which nobody counts as running a projection.
        before: an earlier answer, for the rate.

    Returns:
        One for each projector, in their order.

    Raises:
        StoreError: the database cannot be asked.
    """
    looked = clock.now()
    rows = await store.generations(app)  # before the stream is asked: so its end cannot be behind them
    letters = await store.letter_counts(app)
    end = await _End.of(reader, clock)
    earlier = {one.projection: one for one in before}
    found: list[ProjectionStatus] = []
    for projector in projectors:
        name = projector.spec.name
        mine = [row for row in rows if row.projection == name]
        now = _standing(projector, mine, looked, timedelta(seconds=lease))
        lag = await end.lag(_of_role(mine, "active"))
        count, quarantined = letters.get(name, (0, 0))
        rate = _rate(earlier.get(name), now)
        found.append(dataclasses.replace(now, **lag, dead_letters=count, quarantined=quarantined, rate=rate))
    return found


def is_tended(checkpoint: Checkpoint, now: datetime, lease: timedelta) -> bool:
    """Whether somebody runs a projection, as far as its checkpoint tells: orders are noticed then."""
    return (
        checkpoint.owner is not None
        and checkpoint.status is not Status.STOPPED
        and checkpoint.renewed is not None
        and now - checkpoint.renewed <= lease
    )


def _standing(
    projector: Projector[Any], mine: Sequence[Checkpoint], now: datetime, lease: timedelta
) -> ProjectionStatus:
    """What checkpoints tell."""
    name, version = projector.spec.name, projector.spec.version
    active, building = _of_role(mine, "active"), _of_role(mine, "rebuilding")
    common: dict[str, Any] = {"projection": name, "looked": now, "building": _building(building)}
    if active is None:
        if building is None:
            reason = "never built: refold run, or refold rebuild " + name
            return ProjectionStatus(version=version, reason=reason, **common)
        return ProjectionStatus(
            version=version,
            status=Status.REBUILDING,
            since=building.since,
            reason="its first generation is being built; readers see nothing yet",
            owner=building.owner,
            **common,
        )
    status, since, reason = active.status, active.since, active.reason
    if status in _AT_WORK and not is_tended(active, now, lease):
        status, since = Status.STOPPED, active.renewed
        reason = _silent(active)
    elif active.wanted is Wanted.PAUSE and status is not Status.PAUSED:
        reason = reason or "told to pause: whoever runs it will"
    elif active.version != version:
        reason = reason or _other_version(active, version)
    return ProjectionStatus(
        version=active.version,
        generation=active.generation,
        status=status,
        since=since,
        reason=reason,
        wanted=active.wanted,
        position=active.position,
        owner=active.owner,
        **common,
    )


def _building(row: Checkpoint | None) -> BuildingStatus | None:
    if row is None:
        return None
    return BuildingStatus(version=row.version, generation=row.generation, owner=row.owner, since=row.since)


def _silent(active: Checkpoint) -> str:
    if active.renewed is None:
        return f"no sign of life from {active.owner or 'anybody'}"
    return f"no sign of life from {active.owner} since {active.renewed:%Y-%m-%d %H:%M:%S} UTC; it may have been killed"


def _other_version(active: Checkpoint, version: int) -> str:
    if active.version > version:
        return f"the code here has version {version}, which is older than what readers see"
    return f"version {version} of the code is not built yet: refold run, or refold rebuild {active.projection}"


def _of_role(rows: Sequence[Checkpoint], role: str) -> Checkpoint | None:
    """The last generation of a role."""
    found = [row for row in rows if row.role == role]
    return found[-1] if found else None


def _rate(before: ProjectionStatus | None, now: ProjectionStatus) -> float | None:
    if before is None or before.position is None or now.position is None:
        return None
    if (before.version, before.generation) != (now.version, now.generation):
        return None
    seconds = (now.looked - before.looked).total_seconds()
    return (now.position - before.position) / seconds if seconds > 0 else None


class _End:
    """The end of a stream, or why it is not known."""

    def __init__(self, reader: HeadReader, clock: Clock, stream: StreamState | None, why: str) -> None:
        self._reader = reader
        self._clock = clock
        self._stream = stream
        self._why = why
        self._stored: dict[int, datetime | None] = {}

    @staticmethod
    async def of(reader: HeadReader, clock: Clock) -> _End:
        """Asks for it."""
        try:
            return _End(reader, clock, await reader.state(), "")
        except RefoldError as error:
            return _End(reader, clock, None, str(error))

    async def lag(self, active: Checkpoint | None) -> Mapping[str, Any]:
        """How far behind a checkpoint is, as fields of its status."""
        stream = self._stream
        if stream is None:
            return {"unknown": self._why}
        if active is None:
            return {"head": stream.last}
        problem = _another(active, stream)
        if problem:
            return {"head": stream.last, "unknown": problem}
        known: dict[str, Any] = {"head": stream.last, "lag_events": stream.last - active.position}
        try:
            return known | {"lag_seconds": await self._age(active.position, stream.last)}
        except RefoldError as error:
            return known | {"unknown": str(error)}

    async def _age(self, position: int, head: int) -> float:
        """Seconds since the first message after a position was stored; 0 where there is none."""
        if position >= head:
            return 0.0
        if position not in self._stored:
            self._stored[position] = await self._reader.stored(position + 1)
        stored = self._stored[position]
        return 0.0 if stored is None else max(0.0, (self._clock.now() - stored).total_seconds())


def _another(active: Checkpoint, stream: StreamState) -> str:
    """Why a checkpoint's position is none of this stream; empty where it is."""
    anew = f"build the views anew: refold reset {active.projection}"
    if active.stream not in (None, stream.name):
        return f"its views were built from stream {active.stream!r}, and the app reads {stream.name!r}: {anew}"
    if active.created not in (None, stream.created):
        return f"stream {stream.name!r} was made anew since its views were built: {anew}"
    if active.position > stream.last:
        return f"stream {stream.name!r} ends at {stream.last}, before its position: it lost its end; {anew}"
    return ""
