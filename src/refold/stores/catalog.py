"""What every store says of generations in the same words: who writes one, and whether its columns still fit."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from refold.errors import SchemaMismatch, StoreError
from refold.ports.views import SeenRow
from refold.stores.letters import storable
from refold.view import Column, ViewSchema

__all__ = [
    "compare_columns",
    "describe",
    "is_required",
    "lost",
    "owner",
    "seen_rows",
    "stranger",
    "taken",
]


def is_required(column: Column) -> bool:
    """Whether the column is NOT NULL."""
    return not column.nullable and column.name not in ("created_at", "updated_at")


def describe(schema: ViewSchema[Any]) -> str:
    """What the catalog keeps of a view class, as JSON: kind by column, with a ``?`` where it may be null."""
    return json.dumps({c.name: c.kind.value + ("" if is_required(c) else "?") for c in schema.columns})


def compare_columns(stored: str, schema: ViewSchema[Any], table: str) -> None:
    """Makes sure that a generation's columns, as `describe` gave them, are those of a view class.

    Raises:
        SchemaMismatch: the first column that differs.
    """
    found, expected = json.loads(stored), json.loads(describe(schema))
    for column in [*expected, *(name for name in found if name not in expected)]:
        if found.get(column) != expected.get(column):
            raise SchemaMismatch(
                f"column {column!r} is {found.get(column, 'not there')} in {table!r}, and "
                f"{expected.get(column, 'not there')} in {schema.view.__name__}; raise the projector's version= so that "
                "both can stand beside each other",
                table=table,
                column=column,
            )


def seen_rows(key: tuple[str, str, int, int], seen: Sequence[SeenRow]) -> list[tuple[Any, ...]]:
    """Rows of ``refold_seen``.

    Args:
        key: app, projection, version and generation.
        seen: what it has seen.
    """
    return [(*key, kind, storable(aggregate), version) for kind, aggregate, version in seen]


def owner() -> str:
    """This process, for people: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def stranger(name: str, app: str, location: str) -> StoreError:
    """The error where another app has a projection of the same name."""
    return StoreError(
        f"projection {name!r} of app {app!r} is in {location} already; rename the projection, or use another database"
    )


def taken(name: str, location: str) -> StoreError:
    """The error where the plain name is that of a table, or of an SQL view that refold did not make."""
    return StoreError(
        f"{location} has a table or SQL view {name!r} that is no generation of the projection; rename or drop it, or "
        "rename the projection"
    )


def lost(table: str) -> StoreError:
    """The error where a generation was dropped under its writer."""
    return StoreError(
        f"generation {table!r} was dropped by another rebuild, which took this one for dead: rebuild again"
    )
