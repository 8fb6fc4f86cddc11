"""What becomes of events: what happens when one, or a row, fails, and the record of it."""

from __future__ import annotations

import dataclasses
import enum

__all__ = ["Counts", "ErrorPolicy", "Fault"]


class ErrorPolicy(enum.Enum):
    """What a projection does about an event that fails."""

    QUARANTINE = "quarantine"
    """Record it, leave its view as it was before, and park every later event of that view. Where no view can be told (a
    body that cannot be decoded, a ``key=`` that raises), the event is recorded and skipped."""
    SKIP = "skip"
    """Record it, leave its view as it was before, and go on with the view's next event."""
    HALT = "halt"
    """Stop; readers go on seeing what they saw."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One event that one projection could not use.

    Attributes:
        projection: the projection's name.
        position: the event's stream sequence; the last of the row's events where a database refused the row.
        subject: the subject it was published to, where it is known.
        key: the view's key; None where it is not known.
        reason: what is wrong.
        parked: True for an event that is well, but follows a failed one of its quarantined view.
    """

    projection: str
    position: int
    subject: str
    key: str | None
    reason: str
    parked: bool = False


@dataclasses.dataclass(slots=True)
class Counts:
    """What became of events that a projection has a handler for.

    Attributes:
        duplicates: not above the highest version handled for their aggregate.
        ignored: of a handler with ``create=False``, where there was no row.
        failed: could not be used, and were recorded.
        parked: behind a failed one of their quarantined view, and recorded.
    """

    duplicates: int = 0
    ignored: int = 0
    failed: int = 0
    parked: int = 0

    def duplicate(self) -> None:
        """Counts a duplicate."""
        self.duplicates += 1

    def add(self, others: Counts, times: int = 1) -> None:
        """Counts what others counted, too; with -1, no more."""
        self.duplicates += others.duplicates * times
        self.ignored += others.ignored * times
        self.failed += others.failed * times
        self.parked += others.parked * times
