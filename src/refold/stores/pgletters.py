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
from refold.stores.pgarrays import columns_of, register

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
    connection: psycopg.Connection[Any], key: tuple[str, str, int, int], letters: Sequence[DeadLetter]
) -> None:
    """Adds dead letters of a generation, and the quarantines that come of them; those that are there stay.

    Within a pipeline, if need be.
    """
    register(connection)
    if letters:
        connection.execute(_ADD_LETTERS, columns_of(_LETTER, letter_rows(key, letters)), prepare=True)
    quarantined = quarantined_rows(key, letters)
    if quarantined:
        connection.execute(_ADD_QUARANTINED, columns_of(_QUARANTINED, quarantined), prepare=True)


def keep_seen(connection: psycopg.Connection[Any], key: tuple[str, str, int, int], seen: Sequence[SeenRow]) -> None:
    """Keeps highest handled versions of a generation; a higher one that is there stays. Within a pipeline, if need be."""
    register(connection)
    highest = [(*aggregate, version) for aggregate, version in highest_seen(seen).items()]
    if highest:
        connection.execute(_KEEP_SEEN, columns_of(_SEEN, seen_rows(key, highest)), prepare=True)
