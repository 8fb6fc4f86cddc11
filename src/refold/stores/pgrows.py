"""Rows of one table in PostgreSQL, the fast ways: COPY for many, one statement with arrays for a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import pq, sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper

from refold.stores.pgarrays import TYPES, Cells, columns_of, register
from refold.view import Kind, Row, ViewSchema

__all__ = ["PostgresRows", "Unusual", "copy_rows"]

_COPIED: Final = 1_000
"""Rows that are given to COPY at once."""

_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER: Final = b"\xff\xff"


class Unusual(Exception):
    """A row has a value that the quick way does not know: the transaction is to be done again with `unusual` set."""


class _JsonText(Dumper):
    """JSON that is text already, as binary JSONB: a version byte and the text."""

    oid = psycopg.adapters.types["jsonb"].oid
    format = pq.Format.BINARY

    def dump(self, obj: str) -> Buffer:
        return b"\x01" + obj.encode()


class _Bytes(Dumper):
    """Bytes as they are."""

    oid = psycopg.adapters.types["bytea"].oid
    format = pq.Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        return obj


def _copy_statement(table: sql.Composable, columns: sql.Composable) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT BINARY)").format(table, columns)


def copy_rows(
    connection: psycopg.Connection[Any],
    table: sql.Composable,
    columns: sql.Composable,
    types: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Adds rows by COPY, cell by cell."""
    with connection.cursor() as cursor, cursor.copy(_copy_statement(table, columns)) as copy:
        copy.set_types(types)
        write = copy.write_row
        for row in rows:
            write(row)


class PostgresRows:
    """The rows of a view's table, on one connection. Its statements are made once, and prepared by the server.

    Args:
        connection: of the driver.
        schema: of the rows.
        table: the table's name.
        pending: name of a temporary table of the session for rows on their way.

    Attributes:
        unusual: whether rows hold values that only the slow way knows.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], schema: ViewSchema[Any], table: str, pending: str = "refold_pending"
    ) -> None:
        # COPY asks for dumpers by column type; a class of its own keeps those of str and bytes parameters as they are.
        connection.adapters.register_dumper(_JsonText, _JsonText)
        connection.adapters.register_dumper(_Bytes, _Bytes)
        register(connection)
        self.unusual = False
        self._connection = connection
        self._schema = schema
        self._types = [TYPES[column.kind] for column in schema.columns]
        self._name = sql.Identifier(table)
        self._pending = sql.Identifier(pending)
        self._columns = sql.SQL(", ").join(map(sql.Identifier, schema.names))
        changes = sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in schema.names[1:]
        )
        cells = sql.SQL(", ").join(
            sql.SQL("{}::text" if column.kind is Kind.JSON else "{}").format(sql.Identifier(column.name))
            for column in schema.columns
        )
        arrays = sql.SQL(", ").join(sql.SQL(f"%s::{name}[]") for name in self._types)  # pyright: ignore[reportArgumentType]  # of TYPES
        into = sql.SQL("INSERT INTO {} ({}) ").format(self._name, self._columns)
        conflict = sql.SQL(" ON CONFLICT (id) DO UPDATE SET {}").format(changes)
        self._put = self._rendered(into + sql.SQL("SELECT * FROM unnest({})").format(arrays) + conflict)
        self._move = self._rendered(into + sql.SQL("SELECT {} FROM {}").format(self._columns, self._pending) + conflict)
        self._delete = self._rendered(sql.SQL("DELETE FROM {} WHERE id = ANY(%s::text[])").format(self._name))
        self._select = self._rendered(sql.SQL("SELECT {} FROM {} WHERE id = ANY(%s::text[])").format(cells, self._name))

    def insert(self, rows: Sequence[Row]) -> None:
        """Adds rows that are not there, by COPY.

        Raises:
            Unusual: see there.
        """
        self._copy(self._name, rows)

    def upsert(self, rows: Sequence[Row]) -> None:
        """Adds or replaces many rows, by COPY; within a transaction.

        Raises:
            Unusual: see there.
        """
        self._connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DELETE ROWS").format(
                self._pending, self._name
            )
        )
        self._copy(self._pending, rows)
        self._connection.execute(self._move)

    def put(self, rows: Sequence[Row]) -> None:
        """Adds or replaces a few rows, by one statement; within a pipeline, if need be."""
        self._connection.execute(self._put, columns_of(self._types, rows), prepare=True)

    def delete(self, keys: Sequence[str]) -> None:
        """Removes rows; within a pipeline, if need be."""
        self._connection.execute(self._delete, [Cells("text", keys)], prepare=True)

    def load(self, keys: Sequence[str]) -> dict[str, Row]:
        """Rows by key."""
        with self._connection.cursor(binary=True) as cursor:
            return {row[0]: row for row in cursor.execute(self._select, [Cells("text", keys)], prepare=True)}

    def _copy(self, table: sql.Composable, rows: Sequence[Row]) -> None:
        codec = self._schema.codec
        if codec is None or not isinstance(rows, list) or self.unusual:
            copy_rows(self._connection, table, self._columns, self._types, rows)
            return
        with self._connection.cursor() as cursor, cursor.copy(_copy_statement(table, self._columns)) as copy:
            copy.write(_COPY_HEADER)
            for start in range(0, len(rows), _COPIED):  # the database takes some in while the next are made
                body = codec.copy(rows[start : start + _COPIED])
                if body is None:
                    raise Unusual
                copy.write(body)
            copy.write(_COPY_TRAILER)

    def _rendered(self, statement: sql.Composable) -> bytes:
        return statement.as_bytes(self._connection)
