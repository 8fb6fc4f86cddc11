"""The store in an SQLite file."""

from __future__ import annotations

import contextlib
import decimal
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects import sqlite

from refold.errors import RefoldError, RowRefused, StoreBusy, StoreError, StoreUnavailable
from refold.ports.live import Claims
from refold.ports.views import GenerationWriter
from refold.stores.live import LiveCatalog
from refold.stores.names import generation_table
from refold.stores.sql import Columns
from refold.stores.sqlitelive import SqliteClaims
from refold.stores.sqlitewriter import SqliteGenerationWriter
from refold.stores.sqllive import SqlLiveStore
from refold.stores.tables import DECIMAL_COLLATION, SQLITE, Dialect
from refold.stores.threads import Worker
from refold.view import ViewSchema

__all__ = ["SqliteStore"]

_BUSY_SECONDS: Final = 30.0
_COLUMNS: Final = sa.text("SELECT name, type FROM pragma_table_info(:name)")
_REASONS: Final = {
    "SQLITE_BUSY": "another process writes for too long",
    "SQLITE_LOCKED": "another connection holds a lock",
    "SQLITE_READONLY": "the file or its folder cannot be written",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_NOTADB": "the file is no SQLite database",
    "SQLITE_CORRUPT": "the file is damaged",
    "SQLITE_IOERR": "the file cannot be read or written",
    "SQLITE_CANTOPEN": "the file cannot be opened",
}
_KINDS: Final[Mapping[str, type[StoreError]]] = {
    "SQLITE_BUSY": StoreBusy,
    "SQLITE_LOCKED": StoreBusy,
    "SQLITE_CANTOPEN": StoreUnavailable,
}


class SqliteStore(SqlLiveStore):
    """Views in an SQLite file (in WAL mode): one thread writes, others read what was committed.

    Beside the file, a generation that is being written has a ``.lock`` file, whose lock is its sign of life.

    Args:
        path: the file; made where it is not there.
        busy_seconds: how long to wait for another process that writes.
    """

    # STRICT tables came with 3.37; before it, the checks of frozen rows alone keep types right.
    dialect = SQLITE if sqlite3.sqlite_version_info >= (3, 37) else Dialect(SQLITE.types)
    is_sqlite = True
    catalog = dialect.catalog()
    live = LiveCatalog(catalog, is_sqlite=True)

    def __init__(self, path: str | Path, *, busy_seconds: float = _BUSY_SECONDS) -> None:
        self.path = Path(path).resolve()
        self._busy_seconds = busy_seconds
        self._writing: sqlite3.Connection | None = None
        self._engine = sa.create_engine(
            "sqlite+pysqlite://", creator=self._connect, poolclass=sa.QueuePool, pool_size=3, max_overflow=16
        )
        event.listen(self._engine, "begin", _begin)
        self._readers = Worker("refold-sqlite-read", 2)
        self._writers = Worker("refold-sqlite-write", interrupt=self._interrupt)

    @property
    def location(self) -> str:
        return f"sqlite {self.path}"

    async def __aenter__(self) -> Self:
        try:
            await self.write(self.prepare_catalog)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._readers.close()
        await self._writers.close()
        self._engine.dispose()

    async def begin_generation(self, schema: ViewSchema[Any], *, app: str, name: str, version: int) -> GenerationWriter:
        generation_table(name, version, 1)  # refused before anything is asked of the database
        return await SqliteGenerationWriter.begin(self, schema, app=app, name=name, version=version)

    @contextlib.asynccontextmanager
    async def claims(self, app: str, *, lease: float = 15.0) -> AsyncIterator[Claims]:
        async with SqliteClaims(self, app, lease) as claims:
            yield claims

    def snapshot_transaction(self) -> contextlib.AbstractContextManager[sa.Connection]:
        return self.transaction(write=False)

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        with self._engine.connect().execution_options(refold_writes=write) as connection:
            driver = connection.connection.driver_connection
            try:
                if write:
                    self._writing = driver
                with connection.begin():
                    yield connection
            finally:
                if write:
                    self._writing = None

    def translated(self, error: Exception) -> RefoldError | None:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        if isinstance(cause, (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError)):
            return RowRefused(str(cause))
        if isinstance(cause, sqlite3.Error):
            name = getattr(cause, "sqlite_errorname", None) or ""
            if name == "SQLITE_TOOBIG":
                return RowRefused("a value is larger than SQLite takes")
            reason = next((text for code, text in _REASONS.items() if name.startswith(code)), str(cause))
            kind = next((kind for code, kind in _KINDS.items() if name.startswith(code)), StoreError)
            return kind(f"{self.location}: {reason}")
        return StoreError(f"{self.location}: {error}") if isinstance(error, exc.SQLAlchemyError) else None

    def columns_of(self, connection: sa.Connection, name: str) -> Columns:
        return {row[0]: row[1] for row in connection.execute(_COLUMNS, {"name": name})}

    def expected_columns(self, table: sa.Table) -> Columns:
        dialect = sqlite.dialect()
        return {column.name: column.type.compile(dialect) for column in table.columns}

    def _connect(self) -> sqlite3.Connection:
        # Waiting mends neither, so that they are no StoreUnavailable.
        if not self.path.parent.is_dir():
            raise StoreError(
                f"{self.location}: there is no folder {self.path.parent}; make it, or change the database URL"
            )
        if self.path.is_dir():
            raise StoreError(f"{self.location} is a folder; name a file in it in the database URL")
        # Transactions are begun by hand: the driver opens none for DDL, and none of the kind that a writer needs.
        connection = sqlite3.connect(
            self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -65536")
            # Pages, 32 MiB: with the 4 MiB of the default, a rebuild waits for the disk every other chunk of rows.
            connection.execute("PRAGMA wal_autocheckpoint = 8192")
            connection.create_collation(DECIMAL_COLLATION, _compare_decimals)
        except BaseException:
            connection.close()
            raise
        return connection

    def _interrupt(self) -> None:
        writing = self._writing
        if writing is not None:
            writing.interrupt()


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("refold_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _compare_decimals(left: str, right: str) -> int:
    """By value; what is no decimal comes last, by its text, since a collation may not raise."""
    try:
        a, b = decimal.Decimal(left), decimal.Decimal(right)
    except decimal.InvalidOperation:
        return (left > right) - (left < right)
    return (a > b) - (a < b)
