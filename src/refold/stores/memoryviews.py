"""Repositories of views in this process's memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from refold.errors import StoreError
from refold.ports.views import Condition, Order, ViewRepository
from refold.stores import conditions as asked
from refold.stores.freezing import frozen
from refold.view import Column, Kind, Row, View, ViewSchema

__all__ = ["MemoryRepository"]

V = TypeVar("V", bound=View)

_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda cell, cells: cell in cells,
}


class MemoryRepository(ViewRepository[V]):
    """Views in rows by key.

    Args:
        schema: of the views.
        find: gives the rows.
        writable: whether views may be saved and deleted.
    """

    def __init__(self, schema: ViewSchema[V], find: Callable[[], dict[str, Row]], *, writable: bool = True) -> None:
        self._schema = schema
        self._find = find
        self._writable = writable

    async def save(self, view: V) -> None:
        await self.save_batch([view])

    async def save_batch(self, views: Sequence[V]) -> None:
        table = self._find_to_write()
        rows = {view.id: frozen(self._schema, view) for view in views}
        table.update(rows)

    async def find_by_id(self, key: str) -> V | None:
        return (await self.find_by_ids([key])).get(key)

    async def find_by_ids(self, keys: Collection[str]) -> dict[str, V]:
        table = self._find()
        return {key: self._schema.thaw(table[key]) for key in keys if key in table}

    async def find(
        self, *conditions: Condition, order_by: Sequence[Order] = (), limit: int | None = None, offset: int = 0
    ) -> list[V]:
        asked.check_paging(limit, offset)
        rows = self._matching(conditions)
        for column, descending in reversed(asked.orders(self._schema, order_by)):
            rows = self._sorted(rows, column, descending)
        return [self._schema.thaw(row) for row in rows[offset : None if limit is None else offset + limit]]

    async def count(self, *conditions: Condition) -> int:
        return len(self._matching(conditions))

    async def delete(self, key: str) -> bool:
        return await self.delete_batch([key]) > 0

    async def delete_batch(self, keys: Collection[str]) -> int:
        table = self._find_to_write()
        return sum(table.pop(key, None) is not None for key in set(keys))

    def _find_to_write(self) -> dict[str, Row]:
        if not self._writable:
            raise StoreError("these views are a snapshot, which is for reading alone")
        return self._find()

    def _matching(self, conditions: Sequence[Condition]) -> list[Row]:
        table = self._find()
        checked = asked.tests(self._schema, conditions)
        return [row for row in table.values() if all(self._meets(row, test) for test in checked)]

    def _meets(self, row: Row, test: asked.Test) -> bool:
        cell = row[self._schema.names.index(test.column.name)]
        if test.operator in ("is null", "is not null"):
            return (cell is None) == (test.operator == "is null")
        return cell is not None and test.value is not None and _COMPARE[test.operator](cell, test.value)

    def _sorted(self, rows: list[Row], column: Column, descending: bool) -> list[Row]:
        at = self._schema.names.index(column.name)
        full = sorted((row for row in rows if row[at] is not None), key=_key(at, column), reverse=descending)
        return full + [row for row in rows if row[at] is None]


def _key(at: int, column: Column) -> Callable[[Row], Any]:
    if column.kind is Kind.UUID:
        return lambda row: row[at].bytes
    return operator.itemgetter(at)
