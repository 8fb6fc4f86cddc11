"""The table that peers write: one upsert an event or a view, by the plain driver, committed at once unless told so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import psycopg
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from refold.bench.model import OrderPaid, OrderPlaced, OrderSummary
from refold.errors import ConfigurationError, StoreUnavailable
from refold.event import DomainEvent
from refold.view import Kind, ViewSchema

__all__ = ["Dialect", "Table"]

_SCHEMA: Final = ViewSchema.of(OrderSummary)
_SQLITE: Final = {Kind.TEXT: "TEXT", Kind.INTEGER: "INTEGER", Kind.DECIMAL: "TEXT", Kind.TIMESTAMP: "TEXT"}
_POSTGRES: Final = {Kind.TEXT: "text", Kind.INTEGER: "bigint", Kind.DECIMAL: "numeric", Kind.TIMESTAMP: "timestamptz"}


class Dialect:
    """The statements for one table on one database.

    Args:
        table: name of the table.
        database_url: see `refold.bench.peers.run_peer`.

    Attributes:
        path: of the SQLite database; None for PostgreSQL.
        conninfo: for psycopg.
        create, save: statements that make the table anew, and that insert or replace one view.

    Raises:
        ConfigurationError: the URL is of another kind.
    """

    def __init__(self, table: str, database_url: str) -> None:
        try:
            url = make_url(database_url)
        except ArgumentError as error:
            raise ConfigurationError("the peers need a database URL: postgresql://… or sqlite:///file") from error
        backend = url.get_backend_name()
        if backend not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"the peers write to PostgreSQL and SQLite, not to {backend!r}")
        self.path = (url.database or f"file:{uuid4().hex}?mode=memory&cache=shared") if backend == "sqlite" else None
        self.conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._mark = "?" if self.path else "%s"
        self._table = table
        types = _SQLITE if self.path else _POSTGRES
        columns = ", ".join(
            f"{c.name} {types[c.kind]}{' PRIMARY KEY' if c.name == 'id' else ''}" for c in _SCHEMA.columns
        )
        indexes = [f"CREATE INDEX {table}_{c.name} ON {table} ({c.name})" for c in _SCHEMA.columns if c.indexed]
        self.create = [f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} ({columns})", *indexes]
        self.save = self._upsert(_SCHEMA.names, [name for name in _SCHEMA.names if name != "id"])
        self._events: dict[tuple[str, ...], str] = {}

    def row(self, view: OrderSummary) -> Sequence[Any]:
        """The parameters of `save`."""
        return self._cells(_SCHEMA.freeze(view))

    def event(self, event: DomainEvent[Any]) -> tuple[str, Sequence[Any]]:
        """The statement that does to the table what the projector's handler does to a view, and its parameters.

        Like the fold, it passes over an event whose version its row has already.
        """
        values = {
            "id": event.aggregate_id,
            "created_at": event.timestamp,
            "updated_at": event.timestamp,
            "version": event.version,
            "position": event.position,
            **_changes(event.payload),
        }
        full = {name: getattr(_BLANK, name) for name in _SCHEMA.names} | values
        names = tuple(values)
        statement = self._events.get(names)
        if statement is None:
            changed = [name for name in names if name not in ("id", "created_at")]
            fresh = f" WHERE {self._table}.version < excluded.version"
            statement = self._events[names] = self._upsert(_SCHEMA.names, changed) + fresh
        return statement, self._cells(tuple(full.values()))

    def views(self, rows: Sequence[Sequence[Any]]) -> dict[str, OrderSummary]:
        """Rows of the whole table as views by id."""
        cells = [[_read(c.kind, cell) for c, cell in zip(_SCHEMA.columns, row, strict=True)] for row in rows]
        return {row[0]: _SCHEMA.thaw(row) for row in cells}

    @property
    def select(self) -> str:
        """The statement that reads the whole table."""
        return f"SELECT {', '.join(_SCHEMA.names)} FROM {self._table}"

    def _upsert(self, names: Sequence[str], changed: Sequence[str]) -> str:
        marks = ", ".join([self._mark] * len(names))
        changes = ", ".join(f"{name} = excluded.{name}" for name in changed)
        return (
            f"INSERT INTO {self._table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {changes}"
        )

    def _cells(self, row: Sequence[Any]) -> Sequence[Any]:
        return row if self.path is None else [_written(cell) for cell in row]


class Table:
    """The table with a blocking connection of its own; see `opened`."""

    def __init__(self, dialect: Dialect, connection: Any) -> None:
        self.dialect = dialect
        self._connection = connection

    @classmethod
    @contextmanager
    def opened(cls, name: str, database_url: str, *, fresh: bool = True) -> Iterator[Table]:
        """Connects, and makes the table anew unless told not to.

        Raises:
            ConfigurationError: the URL is of another kind.
            StoreUnavailable: the database cannot be reached.
        """
        dialect = Dialect(name, database_url)
        with closing(_connect(dialect)) as connection:
            for statement in dialect.create if fresh else ():
                connection.execute(statement)
            yield cls(dialect, connection)

    def save(self, view: OrderSummary) -> None:
        """Writes one view in a transaction of its own."""
        self._connection.execute(self.dialect.save, self.dialect.row(view))

    def apply(self, events: Sequence[DomainEvent[Any]]) -> None:
        """Writes events, one upsert each, in one transaction."""
        execute, statement = self._connection.execute, self.dialect.event
        execute("BEGIN")
        for event in events:
            execute(*statement(event))
        execute("COMMIT")

    def drop(self, table: str) -> None:
        """Drops another table, if it is there."""
        self._connection.execute(f"DROP TABLE IF EXISTS {table}")

    def views(self) -> dict[str, OrderSummary]:
        """Every view by id."""
        return self.dialect.views(self._connection.execute(self.dialect.select).fetchall())


_BLANK: Final = OrderSummary()


def _changes(payload: Any) -> dict[str, Any]:
    if isinstance(payload, OrderPlaced):
        return {"status": "placed", "customer": payload.customer, "total": payload.total}
    if isinstance(payload, OrderPaid):
        return {"status": "paid", "paid": payload.amount}
    return {"status": "shipped", "carrier": payload.carrier, "city": payload.address.city}


def _connect(dialect: Dialect) -> Any:
    try:
        if dialect.path is None:
            return psycopg.connect(dialect.conninfo, autocommit=True)
        connection = sqlite3.connect(dialect.path, isolation_level=None, uri=dialect.path.startswith("file:"))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
    except (psycopg.OperationalError, sqlite3.OperationalError) as error:
        raise StoreUnavailable(
            f"no connection for the peers: {type(error).__name__}; check the database URL"
        ) from error


def _written(cell: Any) -> Any:
    if isinstance(cell, Decimal):
        return str(cell)
    return cell.isoformat() if isinstance(cell, datetime) else cell


def _read(kind: Kind, cell: Any) -> Any:
    if kind is Kind.DECIMAL and isinstance(cell, str):
        return Decimal(cell)
    if kind is Kind.TIMESTAMP and cell is not None:
        moment = datetime.fromisoformat(cell) if isinstance(cell, str) else cell
        return moment.astimezone(UTC)
    return cell
