"""What the SQL stores share: transactions in threads, translated errors, and the repository."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from refold.errors import RefoldError, RowRefused, SchemaMismatch, StoreError
from refold.ports.views import Condition, Order, ViewRepository, ViewStore
from refold.stores.catalog import compare_columns
from refold.stores.conditions import askable, check_paging, orders, tests
from refold.stores.freezing import frozen
from refold.stores.names import check_name
from refold.stores.queries import any_of, ordering, where
from refold.stores.tables import Dialect
from refold.stores.threads import Worker
from refold.view import Kind, Row, View, ViewSchema

__all__ = ["Columns", "SqlRepository", "SqlStore", "create_statements", "first_refused", "upsert_rows"]

T = TypeVar("T")
V = TypeVar("V", bound=View)

_ACTIVE: Final = sa.text(
    "SELECT table_name, columns FROM refold_checkpoints WHERE projection = :name AND state = 'active'"
)

Columns = Mapping[str, str]
"""Column types of a table as its database names them, by column; empty where there is no such table."""


class Transactions(Protocol):
    """What a repository needs of a store."""

    dialect: Dialect
    is_sqlite: bool

    async def read(self, call: Callable[[sa.Connection], T], /) -> T:
        """Calls within a transaction that only reads."""
        ...

    async def write(self, call: Callable[[sa.Connection], T], /) -> T:
        """Calls within a transaction that writes."""
        ...

    def translating(self) -> AbstractContextManager[None]:
        """Turns the driver's errors into refold's."""
        ...

    def compare(self, connection: sa.Connection, table: sa.Table, schema: ViewSchema[Any]) -> None:
        """Makes sure that a table is what its class says."""
        ...


class SqlStore(ViewStore, ABC):
    """A view store on an SQLAlchemy engine."""

    dialect: Dialect
    is_sqlite: bool
    _engine: sa.Engine
    _readers: Worker
    _writers: Worker

    # -- What each database does its own way ---------------------------------------------------------------------------

    @abstractmethod
    def transaction(self, *, write: bool) -> Any:
        """A context manager that gives an SQLAlchemy connection within a transaction."""

    @abstractmethod
    def translated(self, error: Exception) -> RefoldError | None:
        """A driver's error as one of refold's: `RowRefused` where a value is at fault; None where it is no driver's."""

    @abstractmethod
    def columns_of(self, connection: sa.Connection, name: str) -> Columns:
        """The columns of the table or SQL view of a name."""

    @abstractmethod
    def expected_columns(self, table: sa.Table) -> Columns:
        """The columns of a described table, in the same words."""

    # -- Calls in threads ----------------------------------------------------------------------------------------------

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turns the driver's errors into refold's, ``from`` their cause."""
        try:
            yield
        except RefoldError:
            raise
        except Exception as error:
            translated = self.translated(error)
            if translated is None:
                raise
            raise translated from error

    def transact(self, call: Callable[[sa.Connection], T], *, write: bool) -> T:
        """Calls within a transaction, in this thread."""
        with self.translating(), self.transaction(write=write) as connection:
            return call(connection)

    async def read(self, call: Callable[[sa.Connection], T]) -> T:
        """Calls within a transaction that only reads."""
        return await self._readers.run(self.transact, call, write=False)

    async def write(self, call: Callable[[sa.Connection], T]) -> T:
        """Calls within a transaction that writes."""
        return await self._writers.run(self.transact, call, write=True)

    # -- The port ------------------------------------------------------------------------------------------------------

    def repository(self, schema: ViewSchema[V], name: str) -> ViewRepository[V]:
        return SqlRepository(self, schema, check_name(name))

    async def create_table(self, schema: ViewSchema[Any], name: str) -> None:
        table = self.dialect.table(schema, check_name(name))

        def create(connection: sa.Connection) -> None:
            if not self.columns_of(connection, name):
                for statement in create_statements(table):
                    connection.execute(statement)
            self.compare(connection, table, schema)

        await self.write(create)

    async def checkpoints(self, app: str) -> Sequence[Mapping[str, Any]]:
        table = self.dialect.catalog().checkpoints
        query = sa.select(table).where(table.c.app == app)
        query = query.order_by(table.c.projection, table.c.version, table.c.generation, table.c.partition)
        return await self.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])

    def compare(self, connection: sa.Connection, table: sa.Table, schema: ViewSchema[Any]) -> None:
        """Makes sure that a table is what its class says.

        Raises:
            SchemaMismatch: it differs.
            StoreError: it is not there.
        """
        # Of a projection the catalog knows more than the database: SQLite has one type for text, decimals, times and JSON,
        # and an SQL view does not say what may be null.
        active = connection.execute(_ACTIVE, {"name": table.name}).one_or_none()
        if active is not None:
            compare_columns(active.columns, schema, active.table_name)
            return
        found = self.columns_of(connection, table.name)
        if not found:
            raise StoreError(
                f"there is no table or view {table.name!r} in {self.location}; rebuild the projection, or create the table"
            )
        expected = self.expected_columns(table)
        for name in [*expected, *(name for name in found if name not in expected)]:
            if expected.get(name) != found.get(name):
                raise SchemaMismatch(
                    f"table {table.name!r} has column {name!r} as {found.get(name, 'nothing')}, the view class as "
                    f"{expected.get(name, 'nothing')}; raise the projector's version= and rebuild, or alter the table",
                    table=table.name,
                    column=name,
                )


def create_statements(table: sa.Table, *, indexes: bool = True) -> list[sa.Executable]:
    """The statements that make a table and, unless told otherwise, its secondary indexes."""
    made: list[Any] = [CreateTable(table)]
    if indexes:
        made += [CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    return made


class SqlRepository(ViewRepository[V]):
    """The views of one table or SQL view."""

    def __init__(self, store: Transactions, schema: ViewSchema[V], name: str) -> None:
        self._store = store
        self._schema = schema
        self._table = store.dialect.table(schema, name)

    async def save(self, view: V) -> None:
        await self.save_batch([view])

    async def save_batch(self, views: Sequence[V]) -> None:
        rows = list({view.id: frozen(self._schema, view) for view in views}.values())
        if not rows:
            return
        try:
            await self._run(lambda connection: upsert_rows(connection, self._table, rows), write=True)
        except RowRefused as error:
            refused = error
            found = await self._store.write(lambda connection: self._find_refused(connection, rows, refused))
            raise found from error

    async def find_by_id(self, key: str) -> V | None:
        return (await self.find_by_ids([key])).get(key)

    async def find_by_ids(self, keys: Collection[str]) -> dict[str, V]:
        asked = askable(keys)
        if not asked:
            return {}
        query = sa.select(self._table).where(self._has_key(asked))
        return {view.id: view for view in await self._views(query)}

    async def find(
        self,
        *conditions: Condition,
        order_by: Sequence[Order] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[V]:
        check_paging(limit, offset)
        query = sa.select(self._table).where(*self._where(conditions))
        keys = orders(self._schema, order_by)
        query = query.order_by(*ordering(self._table, keys, sqlite=self._store.is_sqlite))
        return await self._views(query.limit(limit).offset(offset or None))

    async def count(self, *conditions: Condition) -> int:
        query = sa.select(sa.func.count()).select_from(self._table).where(*self._where(conditions))
        return await self._run(lambda connection: int(connection.execute(query).scalar_one()), write=False)

    async def delete(self, key: str) -> bool:
        return await self.delete_batch([key]) > 0

    async def delete_batch(self, keys: Collection[str]) -> int:
        asked = askable(keys)
        if not asked:
            return 0
        statement = sa.delete(self._table).where(self._has_key(asked))
        return await self._run(lambda connection: connection.execute(statement).rowcount, write=True)

    async def exists(self, key: str) -> bool:
        return bool(askable([key])) and await super().exists(key)

    def _where(self, conditions: Sequence[Condition]) -> list[sa.ColumnElement[bool]]:
        return where(self._table, tests(self._schema, conditions), sqlite=self._store.is_sqlite)

    def _has_key(self, keys: Sequence[str]) -> sa.ColumnElement[bool]:
        return any_of(self._table.c.id, Kind.TEXT, keys, sqlite=self._store.is_sqlite)

    async def _views(self, query: sa.Select[Any]) -> list[V]:
        thaw = self._schema.thaw

        def load(connection: sa.Connection) -> list[V]:
            try:
                return [thaw(row) for row in connection.execute(query)]
            except (ValueError, ArithmeticError, TypeError) as error:
                raise StoreError(
                    f"table {self._table.name!r} has a row that is no {self._schema.view.__name__}: {error}; raise the "
                    "projector's version= and rebuild, or mend the row"
                ) from error

        return await self._run(load, write=False)

    def _find_refused(self, connection: sa.Connection, rows: Sequence[Row], refused: RowRefused) -> RowRefused:
        def write(some: Sequence[Row]) -> None:
            savepoint = connection.begin_nested()
            try:
                with self._store.translating():
                    upsert_rows(connection, self._table, some)
            finally:
                savepoint.rollback()

        return first_refused(rows, write, refused)

    async def _run(self, call: Callable[[sa.Connection], T], *, write: bool) -> T:
        def compared(connection: sa.Connection) -> T:
            # Every time: a cutover to another version may have come in between.
            self._store.compare(connection, self._table, self._schema)
            return call(connection)

        return await (self._store.write if write else self._store.read)(compared)


def upsert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Inserts or replaces rows of a view's table."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(table)
    names = table.c.keys()
    rest = {name: statement.excluded[name] for name in names[1:]}
    statement = statement.on_conflict_do_update(index_elements=["id"], set_=rest)
    connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])


def first_refused(rows: Sequence[Row], write: Callable[[Sequence[Row]], None], refused: RowRefused) -> RowRefused:
    """Finds by halving the first row that a database refuses, and gives the error that names it.

    Args:
        rows: which it refused together.
        write: tries to write some of them, and undoes it.
        refused: why it did.
    """
    low, high = 0, len(rows)  # rows[:low] are well, and rows[low:high] hold a bad one
    while high - low > 1:
        middle = (low + high) // 2
        try:
            write(rows[low:middle])
        except RowRefused as error:
            refused, high = error, middle
        else:
            low = middle
    return RowRefused(f"the database refuses the view {rows[low][0]!r}: {refused}", key=rows[low][0])
