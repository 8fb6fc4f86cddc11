"""Columns of cells as binary PostgreSQL arrays: one parameter, whatever the number of rows, and always of one type."""

from __future__ import annotations

import dataclasses
import datetime as dt
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.abc import Buffer, DumperKey
from psycopg.adapt import Dumper, PyFormat
from psycopg.types.datetime import DateBinaryDumper, DatetimeBinaryDumper
from psycopg.types.numeric import DecimalBinaryDumper

from refold.view import Kind, Row

__all__ = ["TYPES", "Cells", "columns_of", "register"]

TYPES: Final[Mapping[Kind, str]] = {
    Kind.TEXT: "text",
    Kind.INTEGER: "int8",
    Kind.FLOAT: "float8",
    Kind.BOOLEAN: "bool",
    Kind.DECIMAL: "numeric",
    Kind.TIMESTAMP: "timestamptz",
    Kind.DATE: "date",
    Kind.UUID: "uuid",
    Kind.BYTES: "bytea",
    Kind.JSON: "jsonb",
}
"""PostgreSQL's name of a column's type, by kind."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cells:
    """A column of cells, as a parameter.

    Attributes:
        type: PostgreSQL's name of the cells' type, one of `TYPES`.
        cells: the cells.
    """

    type: str
    cells: Sequence[Any]


def columns_of(types: Sequence[str], rows: Sequence[Row]) -> list[Cells]:
    """Rows as parameters, a column each."""
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else ((),) * len(types)
    return [Cells(name, column) for name, column in zip(types, columns, strict=True)]


def register(connection: psycopg.Connection[Any]) -> None:
    """Makes a connection take `Cells` as parameters."""
    connection.adapters.register_dumper(Cells, _CellsDumper)


_NULL: Final = b"\xff\xff\xff\xff"
_INTEGER: Final = struct.Struct("!q").pack
_FLOAT: Final = struct.Struct("!d").pack
_SIZE: Final = struct.Struct("!i").pack
_HEAD: Final = struct.Struct("!iiIii").pack
_NOTHING: Final = struct.Struct("!iiI").pack

# Each gives what PostgreSQL's binary protocol holds of a cell.
_ENCODERS: Final[Mapping[str, Callable[[Any], Buffer | None]]] = {
    "text": str.encode,
    "int8": _INTEGER,
    "float8": _FLOAT,
    "bool": lambda cell: b"\1" if cell else b"\0",
    "numeric": DecimalBinaryDumper(Decimal).dump,
    "timestamptz": DatetimeBinaryDumper(dt.datetime).dump,
    "date": DateBinaryDumper(dt.date).dump,
    "uuid": attrgetter("bytes"),
    "bytea": lambda cell: cell,
    "jsonb": lambda cell: b"\1" + cell.encode(),
}


_MARKS: Final[Mapping[str, type]] = {name: type(name, (), {}) for name in _ENCODERS}
"""psycopg keeps dumpers by class, so that a type needs one."""


class _CellsDumper(Dumper):
    format = pq.Format.BINARY

    def get_key(self, obj: Cells, format: PyFormat) -> DumperKey:  # noqa: A002 (psycopg's name)
        return self.cls, _MARKS[obj.type]

    def upgrade(self, obj: Cells, format: PyFormat) -> Dumper:  # noqa: A002 (psycopg's name)
        return _DUMPERS[obj.type]

    def dump(self, obj: Cells) -> Buffer:
        raise NotImplementedError("upgraded before")


class _TypedDumper(Dumper):
    format = pq.Format.BINARY

    def __init__(self, cls: type, name: str) -> None:
        super().__init__(cls)
        found = psycopg.adapters.types[name]
        self.oid = found.array_oid
        self._cell_oid = found.oid
        self._encode = _ENCODERS[name]

    def get_key(self, obj: Cells, format: PyFormat) -> DumperKey:  # noqa: A002 (psycopg's name)
        return self.cls, _MARKS[obj.type]

    def dump(self, obj: Cells) -> Buffer:
        if not obj.cells:
            return _NOTHING(0, 0, self._cell_oid)
        parts: list[Buffer] = [b""]
        encode, has_nulls = self._encode, False
        for cell in obj.cells:
            if cell is None:
                parts.append(_NULL)
                has_nulls = True
            else:
                encoded = encode(cell) or b""
                parts += (_SIZE(len(encoded)), encoded)
        parts[0] = _HEAD(1, has_nulls, self._cell_oid, len(obj.cells), 1)
        return b"".join(parts)


_DUMPERS: Final[Mapping[str, Dumper]] = {name: _TypedDumper(Cells, name) for name in _ENCODERS}
