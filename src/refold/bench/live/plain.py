"""Plain connections to the database, as any reader's, to look at views from outside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

__all__ = ["Reader"]

_SQLITE = "sqlite:///"


class Reader:
    """A connection by the plain driver, every SELECT a transaction of its own; see `opened`."""

    def __init__(self, connection: Any, mark: str) -> None:
        self._connection = connection
        self._mark = mark

    @classmethod
    @contextmanager
    def opened(cls, database_url: str) -> Iterator[Reader]:
        """Connects, and closes on leaving.

        Args:
            database_url: ``postgresql://…`` or ``sqlite:///file``.
        """
        if database_url.startswith(_SQLITE):
            path = database_url.removeprefix(_SQLITE)
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as connection:
                yield cls(connection, "?")
        else:
            import psycopg

            with psycopg.connect(database_url, autocommit=True, prepare_threshold=0) as connected:
                yield cls(connected, "%s")

    def visible(self, view: str, keys: Sequence[str]) -> list[str]:
        """Those of some keys that a view has."""
        marks = ", ".join([self._mark] * len(keys))
        rows = self._connection.execute(f"SELECT id FROM {view} WHERE id IN ({marks})", list(keys)).fetchall()
        return [key for (key,) in rows]

    def total(self, view: str, column: str) -> tuple[int, int]:
        """How many rows a view has, and the sum of a column."""
        rows, total = self._connection.execute(f"SELECT count(*), sum({column}) FROM {view}").fetchone()
        return int(rows), int(total or 0)
