"""What a column refuses: the same on every store, found column by column at the speed of C."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from refold.errors import RowRefused
from refold.view import MAX_KEY_BYTES, MAY_BE_NONE, Column, Kind, Row, ViewSchema

__all__ = ["check", "refusals"]

_CELL_TYPES: Final[Mapping[Kind, type[Any]]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.FLOAT: float,
    Kind.BOOLEAN: bool,
    Kind.DECIMAL: Decimal,
    Kind.TIMESTAMP: datetime,
    Kind.DATE: date,
    Kind.UUID: UUID,
    Kind.BYTES: bytes,
    Kind.JSON: str,
}
_JSON_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def refusals(schema: ViewSchema[Any], rows: list[Row]) -> list[RowRefused]:
    """The rows that no store may take, each as an error with its key; empty where all is well.

    Args:
        schema: what the rows are of.
        rows: frozen rows.
    """
    if not rows:
        return []
    if _are_plain(schema, rows) and all(_come_back(rows, i, decode) for i, decode in schema.decoders):
        return []
    found: list[RowRefused] = []
    for row in rows:
        try:
            check(schema, row)
        except RowRefused as error:
            found.append(error)
    return found


def check(schema: ViewSchema[Any], row: Row) -> None:
    """Makes sure that every store takes a frozen row, and gives it back as it was.

    Raises:
        RowRefused: a value that its column cannot hold, with column, value and reason.
    """
    for column, value in zip(schema.columns, row, strict=True):
        reason = _reason(column, value)
        if reason:
            raise _refused(row, column, value, reason)
    for i, decode in schema.decoders:
        if row[i] is not None:
            try:
                decode(row[i])
            except Exception as error:
                raise _refused(row, schema.columns[i], row[i], f"it is none of the field's values: {error}") from error


def _refused(row: Row, column: Column, value: Any, reason: str) -> RowRefused:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    key = row[0] if isinstance(row[0], str) else None
    return RowRefused(f"column {column.name!r} ({column.kind.value}) cannot hold {shown}: {reason}", key=key)


# -- A column at a time: True where every cell is certain to be well, False where a closer look is due -----------------


def _is_plain(column: Column, cells: Sequence[Any]) -> bool:
    kinds = set(map(type, cells))
    if type(None) in kinds:
        if not (column.nullable or column.name in MAY_BE_NONE):
            return False
        kinds.discard(type(None))
        cells = [cell for cell in cells if cell is not None]
    if not cells:
        return True
    return kinds == {_CELL_TYPES[column.kind]} and _PLAIN.get(column.kind, _always)(column, cells)


def _are_plain(schema: ViewSchema[Any], rows: list[Row]) -> bool:
    if schema.codec is not None and schema.codec.are_good(rows):
        return True
    return all(map(_is_plain, schema.columns, zip(*rows, strict=True)))


def _come_back(rows: list[Row], at: int, decode: Callable[[Any], Any]) -> bool:
    """Whether readers can make values of all cells: nothing else keeps a list of texts from holding numbers."""
    try:
        for row in rows:
            if row[at] is not None:
                decode(row[at])
    except Exception:  # noqa: BLE001 (told in full by the closer look)
        return False
    return True


def _always(column: Column, cells: Sequence[Any]) -> bool:
    return True


def _plain_text(column: Column, cells: Sequence[str]) -> bool:
    joined = "".join(cells)
    if not joined.isascii():
        try:
            joined.encode()
        except UnicodeEncodeError:
            return False
    if "\0" in joined or (column.kind is Kind.JSON and "\\u0000" in joined):
        return False
    is_key = column.name == "id"
    return not (is_key or column.indexed) or (
        max(map(len, cells)) <= MAX_KEY_BYTES // 4 and not (is_key and min(map(len, cells)) == 0)
    )


_PLAIN: Final[Mapping[Kind, Callable[[Column, Sequence[Any]], bool]]] = {
    Kind.TEXT: _plain_text,
    Kind.JSON: _plain_text,
    Kind.INTEGER: lambda _, cells: min(cells) >= -(2**63) and max(cells) < 2**63,
    Kind.FLOAT: lambda _, cells: all(map(math.isfinite, cells)),
    # A short text of digits is certain to fit; everything else (NaN, huge exponents) is looked at closely.
    Kind.DECIMAL: lambda _, cells: (
        all(map(Decimal.is_finite, cells))
        and max(map(abs, map(Decimal.adjusted, cells))) < 1000
        and max(map(len, map(str, cells))) < 3000
    ),
    Kind.TIMESTAMP: lambda _, cells: set(map(attrgetter("tzinfo"), cells)) == {UTC},
}


# -- A cell at a time --------------------------------------------------------------------------------------------------


def _reason(column: Column, value: Any) -> str | None:
    if value is None:
        return None if column.nullable or column.name in MAY_BE_NONE else "it may not be None"
    expected: Any = _CELL_TYPES[column.kind]
    if not isinstance(value, expected) or (type(value) is not expected and isinstance(value, (bool, datetime))):
        return f"it is {type(value).__name__}, not {expected.__name__}"
    if isinstance(value, str):
        return _text_reason(column, value)
    if column.kind is Kind.INTEGER and not -(2**63) <= value < 2**63:
        return "it needs more than 64 bit"
    if column.kind is Kind.FLOAT and not math.isfinite(value):
        return "it is no finite number"
    if column.kind is Kind.DECIMAL:
        return _decimal_reason(value)
    if column.kind is Kind.TIMESTAMP:
        return _time_reason(value)
    return None


def _text_reason(column: Column, value: str) -> str | None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "it has a lone surrogate, which is no Unicode text"
    if "\0" in value or (column.kind is Kind.JSON and _JSON_NUL.search(value)):
        return "it has a NUL character"
    if column.name == "id" and not value:
        return "a key may not be empty"
    if (column.name == "id" or column.indexed) and size > MAX_KEY_BYTES:
        return f"it is {size} bytes long, and a key or indexed value may have {MAX_KEY_BYTES}"
    return None


def _time_reason(value: datetime) -> str | None:
    if value.utcoffset() is None:
        return "it has no time zone; use aware datetimes"
    try:
        value.astimezone(UTC)
    except OverflowError:
        return "it is outside of the years 1 to 9999 in UTC"
    return None


def _decimal_reason(value: Decimal) -> str | None:
    if not value.is_finite():
        return "it is no finite number"
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent < -16383 or len(digits) + exponent > 131072:
        return "it has more digits than NUMERIC holds"
    return None
