"""Conditions and orders, checked against a view class and made plain, so that every store answers them alike."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, get_args
from uuid import UUID

from refold.errors import DefinitionError
from refold.ports.views import Condition, Operator, Order
from refold.view import Column, Kind, ViewSchema

__all__ = ["Test", "askable", "check_paging", "orders", "tests"]


@dataclasses.dataclass(frozen=True, slots=True)
class Test:
    """A checked condition.

    Attributes:
        column: what is compared.
        operator: how.
        value: a cell of the column's kind, or a list of them for ``in``; None is never equal, less or more.
    """

    column: Column
    operator: Operator
    value: Any


def tests(schema: ViewSchema[Any], conditions: Iterable[Condition]) -> list[Test]:
    """Conditions as they are to be tested.

    Raises:
        DefinitionError: no such field or operator, or a value that the field cannot be compared with.
    """
    return [_test(schema, condition) for condition in conditions]


def orders(schema: ViewSchema[Any], order_by: Sequence[Order]) -> list[tuple[Column, bool]]:
    """Sort keys as columns and whether they descend; the id comes last, so that the order is always whole.

    Raises:
        DefinitionError: no such field, or a JSON one.
    """
    keys: list[tuple[Column, bool]] = []
    for order in order_by:
        column = _column(schema, order.field)
        if column.kind is Kind.JSON:
            raise DefinitionError(f"{_where(schema, column)} is JSON, which has no order")
        keys.append((column, order.descending))
    if all(column.name != "id" for column, _ in keys):
        keys.append((schema.columns[0], False))
    return keys


def check_paging(limit: int | None, offset: int) -> None:
    """Makes sure that limit and offset make sense.

    Raises:
        DefinitionError: one is negative.
    """
    if (limit is not None and limit < 0) or offset < 0:
        raise DefinitionError(f"limit is {limit} and offset {offset}: neither may be negative")


def askable(keys: Collection[str]) -> list[str]:
    """Those of the keys that a database can be asked for; none holds a view of another, so nothing is missed."""
    return [key for key in keys if _is_text(key)]


def _test(schema: ViewSchema[Any], condition: Condition) -> Test:
    column = _column(schema, condition.field)
    operator = condition.operator
    if operator not in get_args(Operator):
        raise DefinitionError(f"{operator!r} is no operator; use one of {', '.join(get_args(Operator))}")
    if operator in ("is null", "is not null"):
        return Test(column, operator, None)
    if column.kind is Kind.JSON:
        raise DefinitionError(f"{_where(schema, column)} is JSON: only 'is null' and 'is not null' go with it")
    if operator != "in":
        return Test(column, operator, _cell(schema, column, condition.value))
    if isinstance(condition.value, (str, bytes)) or not isinstance(condition.value, Collection):
        raise DefinitionError(f"{_where(schema, column)}: 'in' needs a collection, not {condition.value!r}")
    cells = [_cell(schema, column, value) for value in condition.value]
    return Test(column, operator, [cell for cell in cells if cell is not None])


def _column(schema: ViewSchema[Any], field: str) -> Column:
    for column in schema.columns:
        if column.name == field:
            return column
    raise DefinitionError(f"view {schema.view.__name__} has no field {field!r}; it has {', '.join(schema.names)}")


def _where(schema: ViewSchema[Any], column: Column) -> str:
    return f"view {schema.view.__name__}, field {column.name!r}"


def _cell(schema: ViewSchema[Any], column: Column, value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and column.kind in (Kind.FLOAT, Kind.DECIMAL):
        value = float(value) if column.kind is Kind.FLOAT else Decimal(value)
    if not _COMPARABLE[column.kind](value):
        raise DefinitionError(f"{_where(schema, column)} ({column.kind.value}) cannot be compared with {value!r}")
    return value


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_time(value: Any) -> bool:
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        return False
    try:
        value.astimezone(dt.UTC)
    except OverflowError:
        return False
    return True


_COMPARABLE: Final[Mapping[Kind, Callable[[Any], bool]]] = {
    Kind.TEXT: _is_text,
    Kind.INTEGER: lambda value: type(value) is int and -(2**63) <= value < 2**63,
    Kind.FLOAT: lambda value: isinstance(value, float) and math.isfinite(value),
    Kind.BOOLEAN: lambda value: isinstance(value, bool),
    Kind.DECIMAL: lambda value: isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 10_000,
    Kind.TIMESTAMP: _is_time,
    Kind.DATE: lambda value: isinstance(value, dt.date) and not isinstance(value, dt.datetime),
    Kind.UUID: lambda value: isinstance(value, UUID),
    Kind.BYTES: lambda value: isinstance(value, bytes),
}
