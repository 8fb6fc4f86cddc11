"""What a rebuild may take, what it tells on its way, and what it came to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from refold.engine.policy import Fault

__all__ = ["Progress", "ProgressHook", "RebuildLimits", "RebuildResult"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RebuildLimits:
    """How much memory a rebuild may take; the stream's length does not matter.

    Attributes:
        hot_views: views kept unpacked; twice as many at the most, shared among the projections rebuilt together. A view of
            ten columns takes about half a KiB.
        packed_bytes: about how many bytes of packed views are kept before they go to the database.
        chunk_rows: rows written at once.
    """

    hot_views: int = 500_000
    packed_bytes: int = 400 * 2**20
    chunk_rows: int = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is.

    Attributes:
        phase: ``reading``, ``writing``, ``catching up`` (with what was published meanwhile), ``repairing`` (folding views of failed
            events again) or ``publishing``.
        projections: names of what is rebuilt.
        events: messages read so far in this phase.
        position: stream sequence reached.
        head: sequence at which reading ends.
        seconds: since the rebuild began.
        events_per_s: rate of reading, so far.
        eta_seconds: until reading ends, at that rate; None while it cannot be told.
    """

    phase: str
    projections: tuple[str, ...]
    events: int
    position: int
    head: int
    seconds: float
    events_per_s: float
    eta_seconds: float | None


ProgressHook = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """What a rebuild of one projection came to.

    Attributes:
        projection: its name.
        version: its version.
        table: the physical table of the new generation.
        position: the last stream sequence that the views include.
        events: messages read; all projections rebuilt together share the reading.
        views: rows in the new generation.
        duplicates: events at or below the highest version handled for their aggregate.
        ignored: events of handlers with ``create=False`` whose row did not exist.
        failed: events that could not be used.
        parked: events behind a failed one of a quarantined view.
        faults: records of failed and parked events, the first thousand.
        seconds: wall time.
        published: whether readers see the new generation.
    """

    projection: str
    version: int
    table: str
    position: int
    events: int
    views: int
    duplicates: int
    ignored: int
    failed: int
    parked: int
    faults: tuple[Fault, ...]
    seconds: float
    published: bool

    @property
    def complete(self) -> bool:
        """Whether every event is in the views."""
        return not (self.failed or self.parked)
