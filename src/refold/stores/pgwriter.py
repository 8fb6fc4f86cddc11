"""Writes generations into PostgreSQL: COPY into a fresh table, and one transaction to put it in place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import psycopg
from psycopg import sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from refold.errors import RowRefused, StoreError
from refold.ports.letters import DeadLetter
from refold.ports.views import GenerationWriter, SeenRow
from refold.stores.catalog import seen_rows
from refold.stores.conditions import askable
from refold.stores.names import SEEN
from refold.stores.pgcatalog import PostgresCatalog
from refold.stores.pgletters import record_letters
from refold.stores.pgrows import PostgresRows, Unusual, copy_rows
from refold.stores.sql import first_refused
from refold.stores.threads import Worker
from refold.view import Row, ViewSchema

if TYPE_CHECKING:
    from refold.stores.postgresql import PostgresStore

__all__ = ["PostgresGenerationWriter"]

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)


class PostgresGenerationWriter(GenerationWriter):
    """A generation that is being written, on a connection and a thread of its own; make one with `begin`.

    Args:
        store: where it lies.
        connection: its own, in autocommit mode.
        schema: of its rows.
        app: whose projection it is.
        name: of the projection.
        version: of the projection.
    """

    def __init__(
        self,
        store: PostgresStore,
        connection: psycopg.Connection[Any],
        schema: ViewSchema[Any],
        *,
        app: str,
        name: str,
        version: int,
    ) -> None:
        self._store = store
        self._connection = connection
        self._schema = schema
        self._catalog = PostgresCatalog(connection, store.location, app=app, name=name, version=version)
        self._worker: Worker | None = Worker("refold-generation", interrupt=connection.cancel_safe)
        self._table = ""
        self._keyed = False
        self._published = False

    @staticmethod
    async def begin(
        store: PostgresStore, schema: ViewSchema[Any], *, app: str, name: str, version: int
    ) -> PostgresGenerationWriter:
        """Makes the table of a new generation, and its writer; see `ViewStore.begin_generation`."""
        connection = await store.connect_in_thread()
        writer = PostgresGenerationWriter(store, connection, schema, app=app, name=name, version=version)
        try:
            await writer._run(writer._begin)
        except BaseException:
            await writer._close()
            raise
        return writer

    @property
    def table(self) -> str:
        return self._table

    async def insert(self, rows: Sequence[Row]) -> None:
        if rows:
            await self._run(self._put, rows, self._rows.insert)

    async def upsert(self, rows: Sequence[Row], deleted: Sequence[str] = ()) -> None:
        asked = askable(deleted)
        if rows or asked:
            await self._run(self._put, rows, lambda some: self._upsert(some, asked))

    async def load(self, keys: Collection[str]) -> dict[str, Row]:
        asked = askable(keys)
        return await self._run(self._load, asked) if asked else {}

    async def record(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            await self._run(self._record, letters)

    async def publish(
        self,
        *,
        stream: str,
        created: str,
        position: int,
        fingerprint: str,
        seen: Sequence[SeenRow] = (),
        anchor: str | None = None,
    ) -> None:
        checkpoint = {
            "stream": stream,
            "stream_created": created,
            "position": position,
            "fingerprint": fingerprint,
            "anchor": anchor,
        }
        await self._run(self._publish, checkpoint, seen)
        self._published = True

    async def abandon(self) -> None:
        if self._worker is None:
            return
        try:
            await self._call(self._settle if self._published else self._catalog.abandon)
        except StoreError:
            # The next rebuild drops what is left: the lock that says that this one lives ends with the session.
            what = "tidied up after" if self._published else "dropped"
            _log.warning(f"a generation could not be {what}", extra={"table": self._table}, exc_info=True)
        finally:
            await self._close()

    # -- In the thread -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        # Nobody reads a generation before its switch, whose commit waits for the disk and brings all earlier ones there.
        self._execute("SET synchronous_commit = off")
        self._catalog.drop_dead()
        self._table = self._catalog.begin(self._schema, self._make_table)

    def _make_table(self, table: str) -> None:
        self._described = self._store.dialect.table(self._schema, table, keyed=False)
        self._name = sql.Identifier(table)
        self._rows = PostgresRows(self._connection, self._schema, table)
        self._execute_ddl(CreateTable(self._described))

    def _put(self, rows: Sequence[Row], write: Callable[[Sequence[Row]], None]) -> None:
        try:
            self._attempt(rows, write, undo=False)
        except RowRefused as refused:
            if not rows:
                raise
            found = first_refused(rows, lambda some: self._attempt(some, write, undo=True), refused)
            raise found from refused

    def _attempt(self, rows: Sequence[Row], write: Callable[[Sequence[Row]], None], *, undo: bool) -> None:
        try:
            with self._store.translating(), self._connection.transaction(force_rollback=undo):
                write(rows)
        except Unusual:
            self._rows.unusual = True
            try:
                self._attempt(rows, write, undo=undo)
            finally:
                self._rows.unusual = False
        except (OverflowError, UnicodeEncodeError) as error:
            raise RowRefused(str(error)) from error

    def _upsert(self, rows: Sequence[Row], deleted: Sequence[str]) -> None:
        self._ensure_key()
        if rows:
            self._rows.upsert(rows)
        if deleted:
            self._rows.delete(deleted)

    def _load(self, keys: Sequence[str]) -> dict[str, Row]:
        self._ensure_key()
        return self._rows.load(keys)

    def _record(self, letters: Sequence[DeadLetter]) -> None:
        with self._connection.transaction():
            record_letters(self._connection, [(self._catalog.key, letters)])

    def _publish(self, checkpoint: Mapping[str, Any], seen: Sequence[SeenRow]) -> None:
        self._ensure_key()
        with self._connection.transaction():
            for index in self._described.indexes:
                self._execute_ddl(CreateIndex(index, if_not_exists=True))
            self._catalog.forget_seen()
            columns = "app, projection, projection_version, generation, aggregate_type, aggregate_id, version"
            types = ["text", "text", "int8", "int8", "text", "text", "int8"]
            copied = seen_rows(self._catalog.key, seen)
            copy_rows(self._connection, sql.Identifier(SEEN), sql.SQL(columns), types, copied)
        try:
            self._catalog.switch(self._schema.names, checkpoint, attempts=self._store.switch_attempts)
        except psycopg.OperationalError as error:
            if not self._connection.closed or not self._was_published():
                raise
            _log.info("the cutover was committed before the connection was lost", extra={"reason": str(error)})

    def _settle(self) -> None:
        """What readers of the new generation need not wait for."""
        self._execute("ANALYZE {}", self._name)
        self._catalog.drop_former()

    def _was_published(self) -> bool:
        """Whether a commit of unknown outcome did happen: the row is locked until the lost session has ended."""
        with self._store.connect() as connection:
            return self._catalog.on(connection).state() == "active"

    def _ensure_key(self) -> None:
        """The primary key is cheapest built after the bulk of the rows, and needed before any is looked up."""
        if not self._keyed:
            self._execute("ALTER TABLE {} ADD PRIMARY KEY (id)", self._name)
            self._keyed = True

    def _execute(self, statement: str, *parts: sql.Composable) -> None:
        self._connection.execute(sql.SQL(statement).format(*parts))  # pyright: ignore[reportArgumentType]  # constant text, names are composed

    def _execute_ddl(self, statement: CreateTable | CreateIndex) -> None:
        self._connection.execute(str(statement.compile(dialect=postgresql.psycopg.dialect())).encode())  # type: ignore[no-untyped-call]

    # -- Between thread and event loop ---------------------------------------------------------------------------------

    async def _run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._published:
            raise StoreError(f"generation {self._table!r} is published: begin another")
        return await self._call(call, *args, **kwargs)

    async def _call(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._worker is None:
            raise StoreError(f"generation {self._table!r} is closed: begin another")

        def translated() -> T:
            with self._store.translating():
                return call(*args, **kwargs)

        return await self._worker.run(translated)

    async def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()
            self._connection.close()
