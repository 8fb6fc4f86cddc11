"""Rows of one table in SQLite: cells as it keeps them, and the statements that write them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from refold.stores.queries import any_of
from refold.stores.tables import Dialect, timestamp_text
from refold.view import Kind, Row, ViewSchema

__all__ = ["SqliteRows"]


class SqliteRows:
    """The rows of a view's table; its statements are made once.

    Args:
        dialect: of the store.
        schema: of the rows.
        table: the table's name, which needs no quotes.

    Attributes:
        described: the table, without its primary key.
    """

    def __init__(self, dialect: Dialect, schema: ViewSchema[Any], table: str) -> None:
        self._schema = schema
        self.described = dialect.table(schema, table, keyed=False)
        columns = ", ".join(f'"{column}"' for column in schema.names)
        values = ", ".join("?" * len(schema.names))
        changes = ", ".join(f'"{column}" = excluded."{column}"' for column in schema.names[1:])
        self._coded = [(i, _CELLS[c.kind]) for i, c in enumerate(schema.columns) if c.kind in _CELLS]
        self._insert = f"INSERT INTO {table} ({columns}) VALUES ({values})"
        self._upsert = f"{self._insert} ON CONFLICT (id) DO UPDATE SET {changes}"
        self._delete = f"DELETE FROM {table} WHERE id = ?"

    def insert(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Adds rows that are not there."""
        if rows:
            connection.exec_driver_sql(self._insert, self._cells(rows))

    def upsert(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Adds or replaces rows."""
        if rows:
            connection.exec_driver_sql(self._upsert, self._cells(rows))

    def delete(self, connection: sa.Connection, keys: Sequence[str]) -> None:
        """Removes rows."""
        if keys:
            connection.exec_driver_sql(self._delete, [(key,) for key in keys])

    def load(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, Row]:
        """Rows by key."""
        query = sa.select(self.described).where(any_of(self.described.c.id, Kind.TEXT, keys, sqlite=True))
        return {row[0]: tuple(row) for row in connection.execute(query)}

    def _cells(self, rows: Sequence[Row]) -> list[Row]:
        """Rows as SQLite keeps them."""
        codec = self._schema.codec
        made: list[Row] | None = codec.sqlite(rows) if codec is not None and isinstance(rows, list) else None
        return self._cells_by_column(rows) if made is None else made

    def _cells_by_column(self, rows: Sequence[Row]) -> list[Row]:
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
        for i, encode in self._coded:
            column = columns[i]
            columns[i] = _with_nulls(encode, column) if type(None) in set(map(type, column)) else encode(column)
        return list(zip(*columns, strict=True))


# -- Cells, a column at a time ------------------------------------------------------------------------

_JSON: Final = msgspec.json.Encoder()


def _times(column: Sequence[dt.datetime]) -> list[str]:
    if set(map(attrgetter("tzinfo"), column)) != {dt.UTC}:
        return list(map(timestamp_text, column))
    # Six times as fast as isoformat; it leaves out a fraction of zero.
    texts = _JSON.encode(column)[2:-2].decode().split('","')
    return [text if len(text) == 27 else f"{text[:19]}.000000Z" for text in texts]


def _texts(column: Sequence[Any]) -> list[str]:
    return list(map(str, column))


def _with_nulls(encode: Callable[[Sequence[Any]], list[str]], column: Sequence[Any]) -> list[str | None]:
    texts = iter(encode(given) if (given := [cell for cell in column if cell is not None]) else ())
    return [None if cell is None else next(texts) for cell in column]


_CELLS: Final[Mapping[Kind, Callable[[Sequence[Any]], list[str]]]] = {
    Kind.TIMESTAMP: _times,
    Kind.DECIMAL: _texts,
    Kind.DATE: _texts,
    Kind.UUID: _texts,
}
