"""What every store says of claims and checkpoints in the same words."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime

from refold.errors import ClaimHeld, ClaimLost, StoreError
from refold.ports.live import Checkpoint
from refold.stores.catalog import owner

__all__ = [
    "claim_held",
    "claim_lost",
    "epoch_moved",
    "highest_seen",
    "letters_came",
    "new_owner",
    "not_claimed",
    "stands_at",
]


def new_owner() -> str:
    """A holder of claims: host, process id and a random part, so that no two are ever the same."""
    return f"{owner()}:{secrets.token_hex(6)}"


def stands_at(claim: Checkpoint, found: Checkpoint | None, position: int) -> bool:
    """Whether a checkpoint that was found is that of a claim which still holds, at a position."""
    return (
        found is not None
        and (found.owner, found.epoch, found.role, found.position) == (claim.owner, claim.epoch, "active", position)
        and (found.version, found.generation) == (claim.version, claim.generation)
    )


def claim_held(found: Checkpoint) -> ClaimHeld:
    """The error where another process runs a projection."""
    return ClaimHeld(
        f"projection {found.projection!r} version {found.version} is run by {found.owner}: {found.status.value} since "
        f"{_time(found.since)}, last sign of life {_time(found.renewed)}; stop it there, or wait until it ends",
        projection=found.projection,
        owner=found.owner or "",
    )


def claim_lost(
    claims: Mapping[str, Checkpoint], found: Mapping[str, Checkpoint | None], old: int, new: int
) -> ClaimLost:
    """The error where a batch was not committed, as its checkpoints are not what its writer thought.

    Args:
        claims: what the writer holds, by projection.
        found: the checkpoints as they are; None where one is gone.
        old: where they were expected.
        new: where they were to go.
    """
    told = [_difference(claim, found.get(name), old) for name, claim in sorted(claims.items())]
    reasons = "; ".join(text for text in told if text) or "they are not all at one position"
    return ClaimLost(f"nothing was committed from position {old} to {new}: {reasons}")


def _difference(claim: Checkpoint, found: Checkpoint | None, old: int) -> str:
    name = repr(claim.projection)
    if found is None:
        return f"generation {claim.table!r} of {name} is gone"
    if found.role != "active":
        return f"generation {claim.table!r} of {name} is {found.role}"
    if found.owner != claim.owner:
        return f"{name} is run by {found.owner} now, at position {found.position}"
    if found.epoch != claim.epoch:
        return f"an order came for {name}: its epoch is {found.epoch}, not {claim.epoch}"
    return f"{name} is at position {found.position}" if found.position != old else ""


def epoch_moved(projection: str, expected: int, found: int | None) -> ClaimLost:
    """The error where an order was decided on what has changed since."""
    now = "it has no active generation" if found is None else f"its epoch is {found}"
    return ClaimLost(
        f"projection {projection!r} has changed since it was read at epoch {expected}: {now}; nothing was written, try again"
    )


def letters_came(projection: str, key: str) -> ClaimLost:
    """The error where a quarantine was to be lifted, and events were parked meanwhile."""
    return ClaimLost(
        f"projection {projection!r}: dead letters of view {key!r} came since they were read; nothing was written, try again"
    )


def not_claimed(projection: str) -> StoreError:
    """The error where a projection was not claimed."""
    return StoreError(f"projection {projection!r} is not claimed here: take it first")


def highest_seen(seen: Iterable[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    """Each aggregate once, with its highest version."""
    highest: dict[tuple[str, str], int] = {}
    for kind, aggregate, version in seen:
        key = (kind, aggregate)
        highest[key] = max(version, highest.get(key, version))
    return highest


def _time(time: datetime | None) -> str:
    return "an unknown time" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
