"""What the SQL stores offer for live running, off the hot path: the catalog, orders, dead letters and snapshots."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.schema import CreateColumn

from refold.errors import RowRefused, StoreError
from refold.ports.letters import DeadLetter
from refold.ports.live import Checkpoint, Claims, Database, Snapshot, Wanted
from refold.ports.views import SeenRow, ViewRepository
from refold.stores.catalog import compare_columns
from refold.stores.conditions import askable
from refold.stores.live import LiveCatalog, key_of, missing_columns
from refold.stores.sql import SqlRepository, SqlStore, first_refused, upsert_rows
from refold.stores.tables import Catalog, Dialect
from refold.stores.threads import Worker
from refold.view import Row, ViewSchema

__all__ = ["SqlLiveStore"]

T = TypeVar("T")


class SqlLiveStore(SqlStore, Database, ABC):
    """A database on an SQLAlchemy engine."""

    catalog: Catalog
    live: LiveCatalog

    # -- What each database does its own way -----------------------------------------------------------------------------

    @abstractmethod
    def claims(self, app: str, *, lease: float = 15.0) -> AbstractAsyncContextManager[Claims]: ...

    @abstractmethod
    def snapshot_transaction(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that sees the database as it is when it is first asked, and only reads."""

    # -- The catalog -----------------------------------------------------------------------------------------------------

    def prepare_catalog(self, connection: sa.Connection) -> None:
        """Makes refold's own tables, and gives those of an older version the columns that they lack."""
        for table in self.catalog:
            found = self.columns_of(connection, table.name)
            if not found:
                table.create(connection)
            for column in missing_columns(table, found) if found else ():
                described = str(CreateColumn(column).compile(dialect=connection.dialect))
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {described}")

    async def generations(self, app: str, projection: str | None = None) -> Sequence[Checkpoint]:
        return await self.read(lambda connection: self.live.checkpoints(connection, app, projection))

    async def positions(self, app: str, projections: Collection[str]) -> Mapping[str, int]:
        return await self.read(lambda connection: self.live.positions(connection, app, projections))

    async def order(self, app: str, projection: str, wanted: Wanted) -> Checkpoint | None:
        recover, values = wanted is Wanted.RUN, {"wanted": wanted.value}
        return await self.write(
            lambda connection: self.live.order(connection, app, projection, recover=recover, **values)
        )

    async def skip(self, app: str, projection: str, position: int) -> Checkpoint | None:
        return await self.write(
            lambda connection: self.live.order(connection, app, projection, recover=True, skip=position)
        )

    # -- Dead letters ----------------------------------------------------------------------------------------------------

    async def letters(
        self, app: str, projection: str | None = None, *, key: str | None = None, limit: int | None = None
    ) -> Sequence[DeadLetter]:
        return await self.read(lambda connection: self.live.letters(connection, app, projection, key, limit))

    async def letter_counts(self, app: str) -> Mapping[str, tuple[int, int]]:
        return await self.read(lambda connection: self.live.letter_counts(connection, app))

    async def resolve(
        self,
        app: str,
        projection: str,
        letters: Sequence[DeadLetter],
        *,
        lifted: Sequence[str] = (),
        rows: Sequence[Row] = (),
        deleted: Sequence[str] = (),
        seen: Sequence[SeenRow] = (),
        schema: ViewSchema[Any] | None = None,
        epoch: int,
    ) -> None:
        if rows and schema is None:
            raise StoreError("rows are given without their schema")
        keys = askable(deleted)

        def begin(connection: sa.Connection) -> Checkpoint:
            checkpoint = self.live.claim_epoch(connection, app, projection, epoch)
            if schema is not None:
                _, columns, _ = self.live.active(connection, app, [projection])[projection]
                compare_columns(columns, schema, checkpoint.table)
            return checkpoint

        def put(connection: sa.Connection, checkpoint: Checkpoint, some: Sequence[Row]) -> None:
            if some and schema is not None:
                upsert_rows(connection, self.dialect.table(schema, checkpoint.table), some)

        def write(connection: sa.Connection) -> None:
            checkpoint = begin(connection)
            put(connection, checkpoint, rows)
            delete_rows(connection, checkpoint.table, keys)
            self.live.resolve(connection, key_of(checkpoint), letters, lifted, seen)

        def find(connection: sa.Connection) -> None:
            checkpoint = begin(connection)

            def attempt(some: Sequence[Row]) -> None:
                with self.translating(), undone(connection):
                    put(connection, checkpoint, some)

            found = first_refused(rows, attempt, refused)
            raise RowRefused(str(found), projection=projection, key=found.key) from refused

        try:
            await self.write(write)
        except RowRefused as error:
            refused = error
            await self.write(find)
            raise

    # -- Snapshots -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def snapshot(self, app: str, projections: Sequence[str]) -> AsyncIterator[Snapshot]:
        worker = Worker("refold-snapshot")
        stack = contextlib.ExitStack()

        def begin() -> _SqlSnapshot:
            with self.translating():
                connection = stack.enter_context(self.snapshot_transaction())
                active = self.live.active(connection, app, projections)
            found = {name: (checkpoint, columns) for name, (checkpoint, columns, _) in active.items()}
            return _SqlSnapshot(self, worker, connection, found)

        try:
            yield await worker.run(begin)
        finally:
            await worker.run(stack.close)
            await worker.close()


class _SqlSnapshot(Snapshot):
    def __init__(
        self,
        store: SqlLiveStore,
        worker: Worker,
        connection: sa.Connection,
        found: Mapping[str, tuple[Checkpoint, str]],
    ) -> None:
        self._store = store
        self._worker = worker
        self._connection = connection
        self._found = found

    @property
    def positions(self) -> Mapping[str, int]:
        return {name: checkpoint.position for name, (checkpoint, _) in self._found.items()}

    def repository(self, schema: ViewSchema[Any], name: str) -> ViewRepository[Any]:
        if name not in self._found:
            raise StoreError(
                f"the snapshot has no views {name!r}: name the projection when it is taken, and rebuild it first"
            )
        # The physical table: by the plain name, PostgreSQL would show a generation that came later, and no row of it.
        checkpoint, columns = self._found[name]
        compare_columns(columns, schema, checkpoint.table)
        return SqlRepository(_Bound(self._store, self._worker, self._connection), schema, checkpoint.table)


class _Bound:
    """A store for a repository on one connection, for reading alone."""

    def __init__(self, store: SqlLiveStore, worker: Worker, connection: sa.Connection) -> None:
        self._store = store
        self._worker = worker
        self._connection = connection
        self.dialect: Dialect = store.dialect
        self.is_sqlite: bool = store.is_sqlite

    async def read(self, call: Callable[[sa.Connection], T]) -> T:
        def translated() -> T:
            with self._store.translating():
                return call(self._connection)

        return await self._worker.run(translated)

    async def write(self, call: Callable[[sa.Connection], T]) -> T:
        raise StoreError("these views are a snapshot, which is for reading alone")

    def translating(self) -> contextlib.AbstractContextManager[None]:
        return self._store.translating()

    def compare(self, connection: sa.Connection, table: sa.Table, schema: ViewSchema[Any]) -> None:
        """It was compared when the repository was made, and cannot change within a snapshot."""


def delete_rows(connection: sa.Connection, table: str, keys: Sequence[str]) -> None:
    """Removes rows of a view's table."""
    if keys:
        views = sa.table(table, sa.column("id"))
        connection.execute(sa.delete(views).where(views.c.id == sa.bindparam("key")), [{"key": key} for key in keys])


@contextlib.contextmanager
def undone(connection: sa.Connection) -> Iterator[None]:
    """A savepoint to which the transaction returns in any case."""
    savepoint = connection.begin_nested()
    try:
        yield
    except BaseException:
        with contextlib.suppress(exc.DBAPIError):  # SQLite ends the whole transaction where its disk is full
            savepoint.rollback()
        raise
    savepoint.rollback()
