"""From faults to dead letters."""

from __future__ import annotations

from refold.engine.policy import ErrorPolicy, Fault
from refold.ports import DeadLetter, LetterKind, RawMessage

__all__ = ["letter_of"]


def letter_of(fault: Fault, message: RawMessage | None) -> DeadLetter:
    """A fault with its event, whole.

    Args:
        fault: what could not be used.
        message: the event as read; None where it is not at hand.
    """
    kind, aggregate_id, name, _, headers, body = message or ("", "", "", 0, None, b"")
    return DeadLetter(
        projection=fault.projection,
        position=fault.position,
        key=fault.key or "",
        kind=_kind(fault),
        reason=fault.reason,
        subject=f"{kind}.{aggregate_id}.{name}" if message else fault.subject,
        headers=headers,
        body=body,
    )


def _kind(fault: Fault) -> LetterKind:
    if fault.parked:
        return LetterKind.PARKED
    if fault.key is not None and fault.policy is ErrorPolicy.QUARANTINE:
        return LetterKind.FAILED
    return LetterKind.SKIPPED
