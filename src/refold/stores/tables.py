"""The type table: a view's columns, and refold's own tables, as SQLAlchemy describes them for each database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from refold.stores.catalog import is_required
from refold.stores.names import CHECKPOINTS, LETTERS, QUARANTINED, SEEN, index_name
from refold.view import Kind, ViewSchema

__all__ = ["DECIMAL_COLLATION", "POSTGRESQL", "SQLITE", "Catalog", "Dialect", "timestamp_text"]

DECIMAL_COLLATION: Final = "refold_decimal"
"""Compares decimals kept as text by value. Only queries name it: tables stay readable for tools that do not know it."""

_UTC: Final = dt.UTC


def timestamp_text(value: dt.datetime) -> str:
    """A time as SQLite keeps it: UTC, fixed width, so that the order of texts is that of times."""
    text = value.astimezone(_UTC).replace(tzinfo=None).isoformat("T", "microseconds")
    return f"{text}Z"


class _SqliteTimestamp(TypeDecorator[dt.datetime]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else timestamp_text(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> dt.datetime | None:
        return None if value is None else dt.datetime.fromisoformat(value)


class _SqliteDate(TypeDecorator[dt.date]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: dt.date | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.isoformat()

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> dt.date | None:
        return None if value is None else dt.date.fromisoformat(value)


class _SqliteDecimal(TypeDecorator[Decimal]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class _SqliteUuid(TypeDecorator[UUID]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: UUID | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> UUID | None:
        return None if value is None else UUID(value)


class _SqliteBoolean(TypeDecorator[bool]):
    impl = sa.Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> bool | None:
        return None if value is None else bool(value)


class _Jsonb(UserDefinedType[str]):
    """JSONB that is written and read as text: views are encoded and decoded by their schema, not by the driver."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSONB"

    def bind_expression(self, bindvalue: sa.BindParameter[str]) -> sa.ColumnElement[str]:
        return sa.type_coerce(sa.cast(sa.type_coerce(bindvalue, sa.Text()), postgresql.JSONB(none_as_null=True)), self)

    def column_expression(self, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:  # pyright: ignore[reportIncompatibleMethodOverride]  # as SQLAlchemy documents it
        return sa.cast(column, sa.Text())


class Catalog(NamedTuple):
    """Refold's own tables.

    Attributes:
        checkpoints: ``refold_checkpoints``, a row for every generation; its `state` is the generation's role.
        seen: ``refold_seen``, highest handled versions that no row tells.
        letters: ``refold_dead_letters``.
        quarantined: ``refold_quarantined``.
    """

    checkpoints: sa.Table
    seen: sa.Table
    letters: sa.Table
    quarantined: sa.Table


class Dialect(msgspec.Struct, frozen=True):
    """What differs between databases when tables are described.

    Attributes:
        types: column type by kind.
        options: dialect options of every table.
    """

    types: Mapping[Kind, TypeEngine[Any]]
    options: Mapping[str, Any] = {}

    def table(self, schema: ViewSchema[Any], name: str, *, keyed: bool = True) -> sa.Table:
        """The table of a view class.

        Args:
            schema: of the view class.
            name: of the table.
            keyed: with its primary key; False where that is added after the rows.
        """
        columns = [
            sa.Column(
                column.name,
                self.types[column.kind],
                primary_key=keyed and column.name == "id",
                nullable=not is_required(column),
                autoincrement=False,
            )
            for column in schema.columns
        ]
        table = sa.Table(name, sa.MetaData(), *columns, **self.options)
        for column in schema.columns:
            if column.indexed:
                sa.Index(index_name(name, column.name), table.c[column.name])
        return table

    def catalog(self) -> Catalog:
        """Refold's own tables."""
        metadata = sa.MetaData()
        text, integer, time, blob = (self.types[kind] for kind in (Kind.TEXT, Kind.INTEGER, Kind.TIMESTAMP, Kind.BYTES))

        def table(name: str, keys: Mapping[str, TypeEngine[Any]], *columns: sa.Column[Any]) -> sa.Table:
            key = [sa.Column(c, t, primary_key=True, nullable=False, autoincrement=False) for c, t in keys.items()]
            return sa.Table(name, metadata, *key, *columns, **self.options)

        def required(name: str, kind: TypeEngine[Any]) -> sa.Column[Any]:
            return sa.Column(name, kind, nullable=False)

        generation = {"app": text, "projection": text, "version": integer, "generation": integer}
        checkpoints = table(
            CHECKPOINTS,
            {**generation, "partition": integer},
            required("table_name", text),
            required("columns", text),
            sa.Column("fingerprint", text),
            sa.Column("stream", text),
            sa.Column("stream_created", text),
            required("position", integer),
            sa.Column("anchor", text),
            sa.Column("owner", text),
            required("epoch", integer),
            required("state", text),
            required("since", time),
            required("renewed", time),
            # Databases of older versions get these when they are opened, so they are nullable.
            sa.Column("status", text),
            sa.Column("status_since", time),
            sa.Column("reason", text),
            sa.Column("wanted", text),
            sa.Column("skip", integer),
        )
        aggregate = {"aggregate_type": text, "aggregate_id": text}
        seen_key = {"app": text, "projection": text, "projection_version": integer, "generation": integer}
        seen = table(SEEN, {**seen_key, **aggregate}, required("version", integer))
        letters = table(
            LETTERS,
            {**generation, "position": integer, "key": text},
            required("kind", text),
            required("reason", text),
            required("subject", text),
            sa.Column("headers", blob),
            required("body", blob),
            required("recorded", time),
        )
        quarantined = table(
            QUARANTINED, {**generation, "key": text}, required("position", integer), required("reason", text)
        )
        return Catalog(checkpoints, seen, letters, quarantined)


POSTGRESQL: Final = Dialect(
    {
        Kind.TEXT: sa.Text(collation="C"),
        Kind.INTEGER: sa.BigInteger(),
        Kind.FLOAT: sa.Double(),
        Kind.BOOLEAN: sa.Boolean(),
        Kind.DECIMAL: sa.Numeric(),
        Kind.TIMESTAMP: sa.TIMESTAMP(timezone=True),
        Kind.DATE: sa.Date(),
        Kind.UUID: sa.Uuid(),
        Kind.BYTES: sa.LargeBinary(),
        Kind.JSON: _Jsonb(),
    }
)

SQLITE: Final = Dialect(
    {
        Kind.TEXT: sa.Text(),
        Kind.INTEGER: sa.Integer(),
        Kind.FLOAT: sa.REAL(),
        Kind.BOOLEAN: _SqliteBoolean(),
        Kind.DECIMAL: _SqliteDecimal(),
        Kind.TIMESTAMP: _SqliteTimestamp(),
        Kind.DATE: _SqliteDate(),
        Kind.UUID: _SqliteUuid(),
        Kind.BYTES: sa.LargeBinary(),
        Kind.JSON: sa.Text(),
    },
    {"sqlite_strict": True},
)
