"""Dead letters: events that a projection did not apply, kept whole."""

from __future__ import annotations

import dataclasses
import enum
from datetime import datetime

__all__ = ["DeadLetter", "LetterKind"]


class LetterKind(enum.Enum):
    """Why a dead letter was written."""

    FAILED = "failed"
    """The event could not be used for this view, which is quarantined since."""
    PARKED = "parked"
    """The event is well, but follows a failed one of its quarantined view."""
    SKIPPED = "skipped"
    """The event could not be used, and was passed over."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One event that one projection did not apply to one view, whole, so that it can be inspected and applied later.

    Attributes:
        projection: the projection's name.
        position: the event's stream sequence.
        key: the view's key; empty where it cannot be told.
        kind: why it is here.
        reason: what is wrong.
        subject: its subject's tokens, ``type.id.event``, as published, without a prefix.
        headers: the raw header block; None for a message without headers.
        body: the body.
        recorded: when it was written; None before.
    """

    projection: str
    position: int
    key: str
    kind: LetterKind
    reason: str
    subject: str
    headers: bytes | None
    body: bytes
    recorded: datetime | None = None
