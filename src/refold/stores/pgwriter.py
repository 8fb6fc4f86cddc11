"""Writes generations into PostgreSQL: COPY into a fresh table, and one transaction to put it in place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import psycopg
from psycopg import pq, sql
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from refold.errors import RowRefused, StoreError
from refold.ports.views import GenerationWriter, SeenRow
from refold.stores.catalog import seen_rows
from refold.stores.conditions import askable
from refold.stores.names import SEEN
from refold.stores.pgcatalog import PostgresCatalog
from refold.stores.sql import first_refused
from refold.stores.threads import Worker
from refold.view import Kind, Row, ViewSchema

if TYPE_CHECKING:
    from refold.stores.postgresql import PostgresStore

__all__ = ["PostgresGenerationWriter"]

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

_TYPES: Final[Mapping[Kind, str]] = {
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


_COPIED: Final = 1_000
"""Rows that are given to COPY at once."""

_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER: Final = b"\xff\xff"


def _copy_statement(table: sql.Composable, columns: sql.Composable) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT BINARY)").format(table, columns)


class _Unusual(Exception):
    """A row has a value that the quick way does not know."""


class _JsonText(Dumper):
    """JSON that is text already, as binary JSONB: a version byte and the text."""

    oid = psycopg.adapters.types["jsonb"].oid
    format = pq.Format.BINARY

    def dump(self, obj: str) -> Buffer:
        return b"\x01" + obj.encode()


class _Bytes(Dumper):
    """Bytes as they are."""

    oid = psycopg.adapters.types["bytea"].oid
    format = pq.Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        return obj


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
        # COPY asks for dumpers by column type; a class of its own keeps those of str and bytes parameters as they are.
        connection.adapters.register_dumper(_JsonText, _JsonText)
        connection.adapters.register_dumper(_Bytes, _Bytes)
        self._store = store
        self._connection = connection
        self._schema = schema
        self._catalog = PostgresCatalog(connection, store.location, app=app, name=name, version=version)
        self._worker: Worker | None = Worker("refold-generation", interrupt=connection.cancel_safe)
        self._table = ""
        self._keyed = False
        self._published = False
        self._unusual = False
        self._types = [_TYPES[column.kind] for column in schema.columns]
        self._columns = sql.SQL(", ").join(map(sql.Identifier, schema.names))

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
            await self._run(self._put, rows, self._insert)

    async def upsert(self, rows: Sequence[Row], deleted: Sequence[str] = ()) -> None:
        asked = askable(deleted)
        if rows or asked:
            await self._run(self._put, rows, lambda some: self._upsert(some, asked))

    async def load(self, keys: Collection[str]) -> dict[str, Row]:
        asked = askable(keys)
        return await self._run(self._load, asked) if asked else {}

    async def publish(
        self, *, stream: str, created: str, position: int, fingerprint: str, seen: Sequence[SeenRow] = ()
    ) -> None:
        checkpoint = {"stream": stream, "stream_created": created, "position": position, "fingerprint": fingerprint}
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
        except _Unusual:
            self._unusual = True
            try:
                self._attempt(rows, write, undo=undo)
            finally:
                self._unusual = False
        except (OverflowError, UnicodeEncodeError) as error:
            raise RowRefused(str(error)) from error

    def _insert(self, rows: Sequence[Row]) -> None:
        self._copy_views(self._name, rows)

    def _upsert(self, rows: Sequence[Row], deleted: Sequence[str]) -> None:
        self._ensure_key()
        if rows:
            pending = sql.Identifier("refold_pending")
            self._execute(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {} (LIKE {}) ON COMMIT DELETE ROWS", pending, self._name
            )
            self._copy_views(pending, rows)
            changes = sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in self._schema.names[1:]
            )
            self._execute(
                "INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT (id) DO UPDATE SET {}",
                *(self._name, self._columns, self._columns, pending, changes),
            )
        if deleted:
            self._connection.execute(sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._name), [list(deleted)])

    def _load(self, keys: Sequence[str]) -> dict[str, Row]:
        self._ensure_key()
        cells = sql.SQL(", ").join(
            sql.SQL("{}::text" if column.kind is Kind.JSON else "{}").format(sql.Identifier(column.name))
            for column in self._schema.columns
        )
        query = sql.SQL("SELECT {} FROM {} WHERE id = ANY(%s)").format(cells, self._name)
        with self._connection.cursor(binary=True) as cursor:
            return {row[0]: row for row in cursor.execute(query, [list(keys)])}

    def _publish(self, checkpoint: Mapping[str, Any], seen: Sequence[SeenRow]) -> None:
        self._ensure_key()
        with self._connection.transaction():
            for index in self._described.indexes:
                self._execute_ddl(CreateIndex(index, if_not_exists=True))
            self._catalog.forget_seen()
            columns = "app, projection, projection_version, generation, aggregate_type, aggregate_id, version"
            types = ["text", "text", "int8", "int8", "text", "text", "int8"]
            self._copy(sql.Identifier(SEEN), sql.SQL(columns), types, seen_rows(self._catalog.key, seen))
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

    def _copy_views(self, table: sql.Composable, rows: Sequence[Row]) -> None:
        codec = self._schema.codec
        if codec is None or not isinstance(rows, list) or self._unusual:
            self._copy(table, self._columns, self._types, rows)
            return
        with self._connection.cursor() as cursor, cursor.copy(_copy_statement(table, self._columns)) as copy:
            copy.write(_COPY_HEADER)
            for start in range(0, len(rows), _COPIED):  # the database takes some in while the next are made
                body = codec.copy(rows[start : start + _COPIED])
                if body is None:
                    raise _Unusual
                copy.write(body)
            copy.write(_COPY_TRAILER)

    def _copy(
        self, table: sql.Composable, columns: sql.Composable, types: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        with self._connection.cursor() as cursor, cursor.copy(_copy_statement(table, columns)) as copy:
            copy.set_types(types)
            write = copy.write_row
            for row in rows:
                write(row)

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
