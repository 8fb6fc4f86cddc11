"""What a generation keeps beside its rows in PostgreSQL, on a connection of the driver: letters, quarantines, seen versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from refold.ports.letters import DeadLetter
from refold.ports.views import SeenRow
from refold.stores.catalog import seen_rows
from refold.stores.claiming import highest_seen
from refold.stores.letters import letter_rows, quarantined_rows
from refold.stores.live import GenerationKey
from refold.stores.pgarrays import columns_of

__all__ = ["keep_seen", "record_letters"]

_KEY: Final = ("text", "text", "int8", "int8")
_LETTER: Final = (*_KEY, "int8", "text", "text", "text", "text", "bytea", "bytea")
_QUARANTINED: Final = (*_KEY, "text", "int8", "text")
_SEEN: Final = (*_KEY, "text", "text", "int8")


def _arrays(types: Sequence[str]) -> str:
    return ", ".join(f"%s::{name}[]" for name in types)


_ADD_LETTERS: Final = (
    "INSERT INTO refold_dead_letters (app, projection, version, generation, position, key, kind, reason, subject, headers, "
    f"body, recorded) SELECT *, clock_timestamp() FROM unnest({_arrays(_LETTER)}) ON CONFLICT DO NOTHING"
).encode()
_ADD_QUARANTINED: Final = (
    "INSERT INTO refold_quarantined (app, projection, version, generation, key, position, reason) "
    f"SELECT * FROM unnest({_arrays(_QUARANTINED)}) ON CONFLICT DO NOTHING"
).encode()
_KEEP_SEEN: Final = (
    "INSERT INTO refold_seen AS s (app, projection, projection_version, generation, aggregate_type, aggregate_id, version) "
    f"SELECT * FROM unnest({_arrays(_SEEN)}) "
    "ON CONFLICT (app, projection, projection_version, generation, aggregate_type, aggregate_id) "
    "DO UPDATE SET version = greatest(s.version, excluded.version)"
).encode()


def record_letters(
    connection: psycopg.Connection[Any], letters: Sequence[tuple[GenerationKey, Sequence[DeadLetter]]]
) -> None:
    """Adds dead letters of generations, and the quarantines that come of them; those that are there stay.

    On a connection that takes `Cells`; within a pipeline, if need be.
    """
    rows = [row for key, some in letters for row in letter_rows(key, some)]
    if rows:
        connection.execute(_ADD_LETTERS, columns_of(_LETTER, rows), prepare=True)
    quarantined = [row for key, some in letters for row in quarantined_rows(key, some)]
    if quarantined:
        connection.execute(_ADD_QUARANTINED, columns_of(_QUARANTINED, quarantined), prepare=True)


def keep_seen(connection: psycopg.Connection[Any], seen: Sequence[tuple[GenerationKey, Sequence[SeenRow]]]) -> None:
    """Keeps highest handled versions of generations; higher ones that are there stay.

    On a connection that takes `Cells`; within a pipeline, if need be.
    """
    rows: list[tuple[Any, ...]] = []
    for key, some in seen:
        if some:
            rows += seen_rows(key, [(*aggregate, version) for aggregate, version in highest_seen(some).items()])
    if rows:
        connection.execute(_KEEP_SEEN, columns_of(_SEEN, rows), prepare=True)
