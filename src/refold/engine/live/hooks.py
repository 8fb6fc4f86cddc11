"""What happens while projections run, told to whoever listens: frozen details, for logs, metrics and tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from refold.ports import DeadLetter, Status

__all__ = ["BatchApplied", "Hook", "LiveEvent", "Quarantine", "Retrying", "StateChanged"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchApplied:
    """A batch was committed.

    Attributes:
        projections: in whose group.
        position: where they are now.
        events: messages of the batch, wanted or not.
        rows: rows written and removed, of all projections.
        duplicates: events that changed nothing, as they had been handled.
        ignored: events of handlers with ``create=False`` whose row did not exist.
        letters: dead letters written.
        pending: messages that the stream had after it.
        seconds: from its first message to the commit's end.
    """

    projections: tuple[str, ...]
    position: int
    events: int
    rows: int
    duplicates: int
    ignored: int
    letters: int
    pending: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """Something failed that may pass, and is tried again.

    Attributes:
        projections: whom it concerns.
        what: ``commit``, ``load``, ``read`` or ``event``.
        reason: what failed.
        wait: seconds until the next attempt.
    """

    projections: tuple[str, ...]
    what: str
    reason: str
    wait: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Events were not applied, and kept as dead letters.

    Attributes:
        projection: the projection.
        letters: of one batch, as committed.
    """

    projection: str
    letters: tuple[DeadLetter, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """A projection stands otherwise than before.

    Attributes:
        projection: the projection.
        before: how it stood.
        now: how it stands.
        reason: why; empty where there is nothing to say.
        position: where it is.
    """

    projection: str
    before: Status
    now: Status
    reason: str
    position: int


LiveEvent = BatchApplied | Retrying | Quarantine | StateChanged

Hook = Callable[[LiveEvent], None]
"""Called in the engine's event loop: it must return at once, and its exceptions are logged and passed over."""
