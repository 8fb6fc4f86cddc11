"""Dead letters taken up again: applied in order, all or none, or discarded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from refold.cells import check
from refold.engine.dispatch import Dispatcher
from refold.engine.fold import Fold
from refold.engine.projector import Projector
from refold.errors import ClaimLost, HandlerError, RowRefused, StoreError, told
from refold.event import DomainEvent
from refold.ports import Checkpoint, Codec, Database, DeadLetter, LetterKind, RawBatch, SeenRow
from refold.subjects import SubjectScheme
from refold.view import Row, View

__all__ = ["discard", "retry"]

_ATTEMPTS = 10
"""How often letters are read again because more came in between."""


class _Unseen(dict[tuple[str, str], int]):
    """Remembers nothing: of a keyed projection, the letter itself says that its event was not applied to its view."""

    def __setitem__(self, aggregate: tuple[str, str], version: int) -> None:
        pass


class _LetterFold(Fold[Any]):
    """A fold of one view's letters, in which nothing may fail."""

    def unreadable(self, position: int, subject: str, reason: str, cause: Exception | None = None) -> None:
        del subject
        raise _fails(self.spec.name, position, None, reason) from cause

    def _failed(self, key: str, event: DomainEvent[Any], error: Exception) -> None:
        raise _fails(self.spec.name, event.position, key, told(error)) from error


def _fails(projection: str, position: int, key: str | None, reason: str) -> HandlerError:
    return HandlerError(
        f"{projection}: position {position}: it fails again, and nothing was changed: {reason}; mend the projector, or discard "
        "this letter",
        projection=projection,
        key=key,
        position=position,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """What letters come to."""

    rows: Sequence[Row]
    deleted: Sequence[str]
    seen: Sequence[SeenRow]


async def retry(
    store: Database, app: str, projector: Projector[Any], codec: Codec, scheme: SubjectScheme, key: str
) -> int:
    """Applies the dead letters of one quarantined view in order, writes its row, removes them, and lifts the quarantine.

    Whoever runs the projection notices, and goes on with the view as it is then.

    Returns:
        How many events were applied.

    Raises:
        HandlerError: one of them fails again, and nothing was changed; it names position and reason.
        StoreError: there are none, they cannot be applied, or the database cannot be asked.
    """
    spec = projector.spec
    for _ in range(_ATTEMPTS):
        active = await _active(store, app, spec.name)
        letters = await store.letters(app, spec.name, key=key)
        _check(letters, spec.name, key)
        view = await store.repository(spec.schema, spec.name).find_by_id(key)
        outcome = _apply(projector, codec, scheme, view, key, letters)
        try:
            await store.resolve(
                app,
                spec.name,
                letters,
                lifted=[key],
                rows=outcome.rows,
                deleted=outcome.deleted,
                seen=outcome.seen,
                schema=spec.schema,
                epoch=active.epoch,
            )
        except ClaimLost:
            continue  # something was ordered, or more letters came
        return len(letters)
    raise StoreError(
        f"{spec.name}: the dead letters of {key!r} change all the time: pause the projection, and try again"
    )


async def discard(
    store: Database, app: str, projection: str, *, key: str | None = None, position: int | None = None
) -> int:
    """Removes dead letters for good; a view without any left is quarantined no more, and lacks their events.

    Args:
        store: where they are.
        app: the application.
        projection: the projection.
        key: of this view only.
        position: of this event only.

    Returns:
        How many were removed.

    Raises:
        StoreError: the database cannot be asked.
    """
    for _ in range(_ATTEMPTS):
        active = await _active(store, app, projection)
        every = await store.letters(app, projection, key=key)
        gone = [letter for letter in every if position in (None, letter.position)]
        left = {letter.key for letter in every if position not in (None, letter.position)}
        if not gone:
            return 0
        lifted = sorted({letter.key for letter in gone if letter.key} - left)
        try:
            await store.resolve(app, projection, gone, lifted=lifted, epoch=active.epoch)
        except ClaimLost:
            continue
        return len(gone)
    raise StoreError(f"{projection}: its dead letters change all the time: pause the projection, and try again")


async def _active(store: Database, app: str, projection: str) -> Checkpoint:
    for checkpoint in await store.generations(app, projection):
        if checkpoint.role == "active":
            return checkpoint
    raise StoreError(
        f"{projection} has no views yet, and so no dead letters: refold run, or refold rebuild {projection}"
    )


def _check(letters: Sequence[DeadLetter], name: str, key: str) -> None:
    if not letters:
        raise StoreError(f"{name} has no dead letters of view {key!r}: see refold dead-letters list")
    for letter in letters:
        if letter.kind is LetterKind.SKIPPED:
            raise StoreError(
                f"{name}: position {letter.position} was passed over, and later events of view {key!r} were applied, so that it "
                f"cannot be applied in order: build the views anew (refold reset {name}), or discard it"
            )
        if not letter.body:
            raise StoreError(
                f"{name}: the event at position {letter.position} was not kept; build the views anew: refold reset {name}"
            )


def _apply(
    projector: Projector[Any],
    codec: Codec,
    scheme: SubjectScheme,
    view: View | None,
    key: str,
    letters: Sequence[DeadLetter],
) -> _Outcome:
    keyed, schema = projector.spec.keyed, projector.spec.schema
    fold = _LetterFold(projector, only={key}, seen=_Unseen() if keyed else {})
    if view is not None:
        fold.cache.put(key, view)
    dispatcher = Dispatcher([fold], codec, scheme)
    for letter in letters:
        kind, aggregate_id, name = letter.subject.split(".")
        message = (kind, aggregate_id, name, letter.position, letter.headers, letter.body)
        dispatcher.apply(RawBatch([message], letter.position))
    changed = fold.cache.get(key)
    seen = [] if keyed else [(*aggregate, version) for aggregate, version in fold.seen.items()]
    if changed is None:
        return _Outcome([], [key], seen)
    try:
        (row,) = schema.freeze_all([(key, changed)])
        check(schema, row)
    except RowRefused as error:
        raise _fails(projector.spec.name, letters[-1].position, key, str(error)) from error
    return _Outcome([row], [], seen)
