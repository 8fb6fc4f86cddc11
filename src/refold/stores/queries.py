"""Checked conditions and orders as SQLAlchemy expressions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from refold.stores.conditions import Test
from refold.stores.tables import DECIMAL_COLLATION, timestamp_text
from refold.view import Column, Kind

__all__ = ["any_of", "ordering", "where"]

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "=": lambda cell, value: cell == value,
    "!=": lambda cell, value: cell != value,
    "<": lambda cell, value: cell < value,
    "<=": lambda cell, value: cell <= value,
    ">": lambda cell, value: cell > value,
    ">=": lambda cell, value: cell >= value,
}


def where(table: sa.Table, tests: Sequence[Test], *, sqlite: bool) -> list[sa.ColumnElement[bool]]:
    """What a row has to meet, condition by condition."""
    return [_meets(table.c[test.column.name], test, sqlite=sqlite) for test in tests]


def ordering(table: sa.Table, keys: Sequence[tuple[Column, bool]], *, sqlite: bool) -> list[sa.ColumnElement[Any]]:
    """Sort keys; nulls come last in either direction."""
    found: list[sa.ColumnElement[Any]] = []
    for column, descending in keys:
        cell = _comparable(table.c[column.name], column.kind, sqlite=sqlite)
        direction = cell.desc() if descending else cell.asc()
        # Named only where nulls can be: an index serves the plain order.
        found.append(direction.nulls_last() if table.c[column.name].nullable else direction)
    return found


def any_of(cell: sa.Column[Any], kind: Kind, values: Sequence[Any], *, sqlite: bool) -> sa.ColumnElement[bool]:
    """Whether a cell is one of many values: one parameter for all of them, however many."""
    if not sqlite:
        return cell == sa.any_(sa.bindparam(None, list(values), type_=postgresql.ARRAY(cell.type)))
    comparable = _comparable(cell, kind, sqlite=True)
    if kind in (Kind.FLOAT, Kind.BYTES):  # JSON would round the one, and cannot say the other
        return comparable.in_(values)
    listed = sa.func.json_each(json.dumps([_plain(value) for value in values])).table_valued("value")
    return comparable.in_(sa.select(sa.type_coerce(listed.c.value, cell.type)))


def _meets(cell: sa.Column[Any], test: Test, *, sqlite: bool) -> sa.ColumnElement[bool]:
    if test.operator == "is null":
        return cell.is_(None)
    if test.operator == "is not null":
        return cell.is_not(None)
    if test.value is None:
        return sa.false()
    if test.operator == "in":
        return any_of(cell, test.column.kind, test.value, sqlite=sqlite)
    value = sa.bindparam(None, test.value, type_=cell.type)
    met: sa.ColumnElement[bool] = _OPERATORS[test.operator](_comparable(cell, test.column.kind, sqlite=sqlite), value)
    return met


def _comparable(cell: sa.Column[Any], kind: Kind, *, sqlite: bool) -> sa.ColumnElement[Any]:
    return sa.collate(cell, DECIMAL_COLLATION) if sqlite and kind is Kind.DECIMAL else cell


def _plain(value: Any) -> Any:
    """A cell as SQLite keeps it."""
    if isinstance(value, datetime):
        return timestamp_text(value)
    if isinstance(value, date):
        return value.isoformat()
    return value if isinstance(value, (str, int)) else str(value)
