"""Views in this process's memory: for tests and trials. It keeps the contract of the databases, and nothing else."""

from __future__ import annotations

import dataclasses
import datetime as dt
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from refold.errors import RowRefused, StoreError
from refold.ports.views import Condition, GenerationWriter, Order, SeenRow, ViewRepository, ViewStore
from refold.stores import conditions as asked
from refold.stores.catalog import compare_columns, describe, owner
from refold.stores.freezing import frozen
from refold.stores.names import check_name, generation_table
from refold.view import Column, Kind, Row, View, ViewSchema

__all__ = ["MemoryStore"]

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


@dataclasses.dataclass(slots=True)
class _Table:
    """Rows by key, and what columns they have."""

    columns: str
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)


class MemoryStore(ViewStore):
    """A `ViewStore` that forgets everything with the process. For one event loop."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}
        self._shown: dict[str, str] = {}
        self._catalog: dict[str, dict[str, Any]] = {}

    @property
    def location(self) -> str:
        """Where the data lies."""
        return "memory"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def repository(self, schema: ViewSchema[V], name: str) -> ViewRepository[V]:
        """The views under a name."""
        return _MemoryRepository(self, schema, check_name(name))

    async def create_table(self, schema: ViewSchema[Any], name: str) -> None:
        """Makes a plain table, unless it is there."""
        table = self._tables.setdefault(check_name(name), _Table(describe(schema)))
        compare_columns(table.columns, schema, name)

    async def begin_generation(self, schema: ViewSchema[Any], *, app: str, name: str, version: int) -> GenerationWriter:
        """Makes the table of a new generation."""
        if check_name(name) in self._tables:
            raise StoreError(f"memory has a table {name!r} already; rename it or the projection")
        shown = self._shown.get(name)
        if shown is not None and self._catalog[shown]["version"] == version:
            compare_columns(self._tables[shown].columns, schema, shown)
        generation = 1 + max((r["generation"] for r in self._rows_of(name) if r["version"] == version), default=0)
        table = generation_table(name, version, generation)
        self._tables[table] = _Table(describe(schema))
        self._catalog[table] = {
            "app": app,
            "projection": name,
            "version": version,
            "generation": generation,
            "partition": 0,
            "table_name": table,
            "owner": owner(),
            "state": "rebuilding",
            "position": 0,
            "since": dt.datetime.now(dt.UTC),
        }
        return _MemoryWriter(self, table)

    async def checkpoints(self, app: str) -> Sequence[Mapping[str, Any]]:
        """Checkpoints of an app."""
        rows = [dict(row) for row in self._catalog.values() if row["app"] == app]
        return sorted(rows, key=lambda row: (row["projection"], row["version"], row["generation"]))

    def find(self, name: str, schema: ViewSchema[Any]) -> dict[str, Row]:
        """The rows under a name."""
        table = self._tables.get(self._shown.get(name, name))
        if table is None:
            raise StoreError(f"memory has no views {name!r}; rebuild the projection first")
        compare_columns(table.columns, schema, name)
        return table.rows

    def rows(self, table: str) -> dict[str, Row]:
        """The rows of a physical table."""
        return self._tables[table].rows

    def show(self, table: str, checkpoint: Mapping[str, Any]) -> None:
        """Puts a generation in place, and drops all earlier ones but the last."""
        name = self._catalog[table]["projection"]
        former = self._shown.get(name)
        for other in [row["table_name"] for row in self._rows_of(name) if row["state"] == "retired"]:
            self.drop(other)
        if former is not None:
            self._catalog[former]["state"] = "retired"
        self._catalog[table] |= {**checkpoint, "state": "active"}
        self._shown[name] = table

    def drop(self, table: str) -> None:
        """Drops a generation."""
        self._tables.pop(table, None)
        self._catalog.pop(table, None)

    def _rows_of(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self._catalog.values() if row["projection"] == name]


class _MemoryWriter(GenerationWriter):
    def __init__(self, store: MemoryStore, table: str) -> None:
        self._store = store
        self._table = table
        self._published = False

    @property
    def table(self) -> str:
        return self._table

    async def insert(self, rows: Sequence[Row]) -> None:
        table = self._store.rows(self._table)
        for row in rows:
            if row[0] in table:
                raise RowRefused(f"key {row[0]!r} is there already", key=row[0])
        table.update((row[0], row) for row in rows)

    async def upsert(self, rows: Sequence[Row], deleted: Sequence[str] = ()) -> None:
        table = self._store.rows(self._table)
        for key in deleted:
            table.pop(key, None)
        table.update((row[0], row) for row in rows)

    async def load(self, keys: Collection[str]) -> dict[str, Row]:
        table = self._store.rows(self._table)
        return {key: table[key] for key in keys if key in table}

    async def publish(
        self, *, stream: str, created: str, position: int, fingerprint: str, seen: Sequence[SeenRow] = ()
    ) -> None:
        checkpoint = {"stream": stream, "stream_created": created, "position": position, "fingerprint": fingerprint}
        self._store.show(self._table, checkpoint)
        self._published = True

    async def abandon(self) -> None:
        if not self._published:
            self._store.drop(self._table)


class _MemoryRepository(ViewRepository[V]):
    def __init__(self, store: MemoryStore, schema: ViewSchema[V], name: str) -> None:
        self._store = store
        self._schema = schema
        self._name = name

    async def save(self, view: V) -> None:
        await self.save_batch([view])

    async def save_batch(self, views: Sequence[V]) -> None:
        table = self._store.find(self._name, self._schema)
        rows = {view.id: frozen(self._schema, view) for view in views}
        table.update(rows)

    async def find_by_id(self, key: str) -> V | None:
        return (await self.find_by_ids([key])).get(key)

    async def find_by_ids(self, keys: Collection[str]) -> dict[str, V]:
        table = self._store.find(self._name, self._schema)
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
        table = self._store.find(self._name, self._schema)
        return sum(table.pop(key, None) is not None for key in set(keys))

    def _matching(self, conditions: Sequence[Condition]) -> list[Row]:
        table = self._store.find(self._name, self._schema)
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
