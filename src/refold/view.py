"""Views: rows of a read model, as typed classes, and the table that each class describes."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

import refold.speedups as speedups
from refold.errors import DefinitionError, RowRefused

__all__ = ["MAX_KEY_BYTES", "MAY_BE_NONE", "Column", "Index", "Kind", "Row", "View", "ViewSchema"]

Row = tuple[Any, ...]
"""A view as stored: one plain value a column, in the schema's order; nested values as JSON text."""


class Index(msgspec.Struct, frozen=True):
    """Marks a view's field for an index: ``customer: Annotated[str, Index()] = ""``."""


class View(msgspec.Struct, gc=False):
    """Base of every view: a row of a read model. Every field needs a default, and becomes a column.

    Views are left out of the cyclic garbage collector, which makes folding about twice as fast: do not build reference
    cycles in them.

    Attributes:
        id: the view's key, the primary key of its table.
        created_at: timestamp of the first event applied to it; None until then.
        updated_at: timestamp of the last.
        version: version of the last event applied, where the key is the aggregate; else the number of events applied.
        position: stream sequence of the last event applied.
    """

    id: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    version: int = 0
    position: int = 0


V = TypeVar("V", bound=View)


class Kind(enum.Enum):
    """What a column holds: the rows of the type table. Every store maps each to one column type of its own."""

    TEXT = "text"
    """str and enums of str; no NUL, no lone surrogate; compared by code point."""
    INTEGER = "integer"
    """int of up to 64 bit, signed; bool is not one."""
    FLOAT = "float"
    """float; NaN and the infinities are refused."""
    BOOLEAN = "boolean"
    DECIMAL = "decimal"
    """Decimal, exact; NaN and the infinities are refused; compared by value."""
    TIMESTAMP = "timestamp"
    """Aware datetime, kept as UTC in microseconds; naive ones are refused."""
    DATE = "date"
    UUID = "uuid"
    BYTES = "bytes"
    JSON = "json"
    """Anything else that msgspec encodes as JSON: structs, dataclasses, lists, dicts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of a view's table.

    Attributes:
        name: the field's and the column's name.
        kind: what it holds.
        type: the field's Python type, without ``| None``.
        nullable: whether it may be None.
        indexed: whether it has an index of its own.
    """

    name: str
    kind: Kind
    type: Any
    nullable: bool = False
    indexed: bool = False


class ViewSchema(Generic[V]):
    """What a view class says of its table, and the ways between views and rows.

    Make one with `ViewSchema.of`, which keeps the schemas of classes seen lately.

    Attributes:
        view: the class.
        columns: its columns; the five of `View` come first.
        names: their names.
        decoders: for columns whose cells are not the fields' values themselves, the column's number and what makes a value
            of a cell; it raises where the cell is no such value.
    """

    __slots__ = ("_codec", "_encoders", "_get", "_positional", "columns", "decoders", "names", "view")

    STANDARD: Final = ("id", "created_at", "updated_at", "version", "position")

    def __init__(self, view: type[V]) -> None:
        self.view = view
        self.columns = _columns(view)
        self.names = tuple(column.name for column in self.columns)
        self._get: Callable[[V], Row] = attrgetter(*self.names)
        coders = [(i, *_coder(column)) for i, column in enumerate(self.columns) if _is_coded(column)]
        self._encoders = tuple((i, encode) for i, encode, _ in coders)
        self.decoders: tuple[tuple[int, Callable[[Any], Any]], ...] = tuple((i, decode) for i, _, decode in coders)
        self._codec = _codec(view, self.columns)
        parameters = inspect.signature(view).parameters.values()
        # Some fields may be given by name alone.
        self._positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == list(self.names)

    @property
    def codec(self) -> Any:
        """A `refold.speedups.RowCodec`, which does for many rows at once what is said here; None where it was not built."""
        return None if speedups.RowCodec is None else self._codec

    @staticmethod
    def of(view: type[V]) -> ViewSchema[V]:
        """The schema of a view class.

        Raises:
            DefinitionError: a field has no default, or a name or type that no column can have.
        """
        return _schema(view)

    def freeze(self, view: V) -> Row:
        """The row of a view, which later changes of the view leave as it is. Values are not checked: see `refold.cells.refusals`.

        Raises:
            RowRefused: a field was deleted, or a nested value cannot be encoded as JSON.
        """
        try:
            row = self._get(view)
        except AttributeError as error:
            raise RowRefused(f"view {view.id!r} has lost a field: {error}", key=view.id) from error
        if not self._encoders:
            return row
        cells = list(row)
        for i, encode in self._encoders:
            if cells[i] is not None:
                try:
                    cells[i] = encode(cells[i])
                except Exception as error:
                    column, value = self.columns[i], type(cells[i]).__name__
                    raise RowRefused(
                        f"column {column.name!r} ({column.kind.value}) cannot hold this {value}: {error}", key=view.id
                    ) from error
        return tuple(cells)

    def freeze_all(self, items: list[tuple[str, V]]) -> list[Row]:
        """The rows of many views, each under the key given with it; otherwise as `freeze`."""
        if self.codec is not None and not self._encoders:
            with suppress(TypeError):  # a field was deleted, which the other way tells
                rows: list[Row] = self.codec.freeze(items)
                return rows
        return [(key, *self.freeze(view)[1:]) for key, view in items]

    def thaw(self, row: Sequence[Any]) -> V:
        """The view that a row came from, equal to it in every field."""
        cells = list(row) if self.decoders else row
        for i, decode in self.decoders:
            if row[i] is not None:
                cells[i] = decode(row[i])  # type: ignore[index]  # a list, if there are any
        if self._positional:
            return self.view(*cells)
        return self.view(**dict(zip(self.names, cells, strict=True)))


@lru_cache(maxsize=1024)
def _schema(view: type[V]) -> ViewSchema[V]:
    return ViewSchema(view)


# -- From annotations to columns ------------------------------------------------------------------------------------

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_KINDS: Final[Mapping[type, Kind]] = {
    str: Kind.TEXT,
    int: Kind.INTEGER,
    float: Kind.FLOAT,
    bool: Kind.BOOLEAN,
    Decimal: Kind.DECIMAL,
    datetime: Kind.TIMESTAMP,
    date: Kind.DATE,
    UUID: Kind.UUID,
    bytes: Kind.BYTES,
}


def _columns(view: type[View]) -> tuple[Column, ...]:
    if not (isinstance(view, type) and issubclass(view, View)):
        raise DefinitionError(f"{view!r} is no view: derive it from refold.View")
    try:
        hints = get_type_hints(view, include_extras=True)
    except NameError as error:
        raise DefinitionError(f"view {view.__name__}: {error}; define or import the name at module level") from error
    return tuple(_column(view, field, hints[field.name]) for field in msgspec.structs.fields(view))


def _column(view: type[View], field: msgspec.structs.FieldInfo, hint: Any) -> Column:
    where = f"view {view.__name__}, field {field.name!r}"
    if field.required:
        raise DefinitionError(f"{where} has no default; a new view starts from defaults, so give it one")
    if not _NAME.fullmatch(field.name):
        raise DefinitionError(f"{where} is no column name; use up to 63 of a-z, 0-9 and _, no digit first")
    indexed = False
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        indexed = any(isinstance(mark, Index) or mark is Index for mark in marks)
    nullable = False
    if get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        nullable = len(rest) < len(get_args(hint))
        hint = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007 (built from a list)
    kind = _kind(hint)
    if kind is None:
        raise DefinitionError(
            f"{where}: no column holds {hint!r}; use str, int, float, bool, Decimal, datetime, date, UUID, bytes, an enum "
            "of str, or a struct, list or dict of these (JSON)"
        )
    if indexed and kind is Kind.JSON:
        raise DefinitionError(f"{where} is JSON, which Index() does not index; take the value out into its own field")
    return Column(field.name, kind, hint, nullable, indexed)


def _kind(hint: Any) -> Kind | None:
    if isinstance(hint, type) and hint in _KINDS:
        return _KINDS[hint]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return Kind.TEXT if issubclass(hint, str) else None
    if get_origin(hint) is Literal:
        return Kind.TEXT if all(isinstance(arg, str) for arg in get_args(hint)) else None
    try:
        msgspec.json.Decoder(hint)
        msgspec.json.schema(hint)  # refuses types that only a hook could decode
    except (TypeError, RecursionError):
        return None
    return Kind.JSON


# -- Many rows at once -----------------------------------------------------------------------------------------------

MAX_KEY_BYTES: Final = 2000
"""Longest key or indexed text, in UTF-8 bytes: what a PostgreSQL B-tree takes for certain."""

MAY_BE_NONE: Final = frozenset({"created_at", "updated_at"})
"""Columns that are nullable though their fields' types do not say so everywhere: a view that nothing was applied to."""

_LETTERS: Final[Mapping[Kind, str]] = {
    Kind.TEXT: "t",
    Kind.INTEGER: "i",
    Kind.FLOAT: "f",
    Kind.BOOLEAN: "b",
    Kind.DECIMAL: "d",
    Kind.TIMESTAMP: "T",
    Kind.DATE: "D",
    Kind.UUID: "u",
    Kind.BYTES: "B",
    Kind.JSON: "j",
}


def _codec(view: type[View], columns: Sequence[Column]) -> Any:
    if speedups.RowCodec is None:
        return None
    flags = [
        (column.nullable or column.name in MAY_BE_NONE)
        | (column.indexed or column.name == "id") << 1
        | (column.name == "id") << 2
        for column in columns
    ]
    letters = "".join(_LETTERS[column.kind] for column in columns).encode()
    try:
        return speedups.RowCodec(
            view, tuple(c.name for c in columns), letters, bytes(flags), MAX_KEY_BYTES, Decimal, UUID
        )
    except (TypeError, ValueError):  # too many columns, or a class whose fields are no plain slots
        return None


# -- Between fields and cells ---------------------------------------------------------------------------------------

# Decimals stay exact as text, so that a nested one comes back as it was.
_JSON: Final = msgspec.json.Encoder(decimal_format="string", order="deterministic")


def _is_coded(column: Column) -> bool:
    return column.kind is Kind.JSON or (isinstance(column.type, type) and issubclass(column.type, enum.Enum))


def _coder(column: Column) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Field to cell, and back."""
    if column.kind is Kind.JSON:
        return (lambda value: _JSON.encode(value).decode()), msgspec.json.Decoder(column.type).decode
    return (lambda value: getattr(value, "value", value)), column.type
