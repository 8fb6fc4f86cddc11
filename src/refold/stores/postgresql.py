"""The store on PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import psycopg
import psycopg.conninfo
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql

from refold.errors import ConfigurationError, RefoldError, RowRefused, StoreBusy, StoreError, StoreUnavailable
from refold.ports.live import Claims
from refold.ports.views import GenerationWriter
from refold.stores.live import LiveCatalog
from refold.stores.names import generation_table
from refold.stores.pgclaims import PostgresClaims
from refold.stores.pgwriter import PostgresGenerationWriter
from refold.stores.sql import Columns
from refold.stores.sqllive import SqlLiveStore
from refold.stores.tables import POSTGRESQL
from refold.stores.threads import Worker
from refold.view import ViewSchema

__all__ = ["PostgresStore"]

_SETTINGS: Final = (
    "-c timezone=UTC -c client_encoding=UTF8 -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"
)
# A server that is gone without a word is noticed in half a minute, and not in hours.
_CONNECTION: Final[Mapping[str, Any]] = {
    "connect_timeout": 10,
    "application_name": "refold",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_REFUSALS: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,  # JSON nested deeper than its stack
)
_ENDED: Final = (
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.IdleSessionTimeout,
)
_COLUMNS: Final = sa.text(
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a "
    "WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)


class PostgresStore(SqlLiveStore):
    """Views in PostgreSQL.

    Connections are SQLAlchemy's for repositories, and one of its own for every generation that is written: that one holds
    a session lock as its sign of life, so it cannot go through a pooler that shares sessions.

    Args:
        url: ``postgresql://user:password@host:port/database``, with libpq's parameters.
        switch_attempts: how often a cutover asks for its lock, a second each, while readers hold the SQL view.
    """

    dialect = POSTGRESQL
    is_sqlite = False
    catalog = POSTGRESQL.catalog()
    live = LiveCatalog(catalog, is_sqlite=False)

    def __init__(self, url: str, *, switch_attempts: int = 5) -> None:
        try:
            given = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error as error:
            # libpq repeats the URL, with its password, in some of its messages.
            raise ConfigurationError(
                "the PostgreSQL URL cannot be read: use postgresql://user@host:5432/database"
            ) from error
        if any(port and not port.isdecimal() for port in str(given.get("port") or "").split(",")):
            raise ConfigurationError(
                "the port in the PostgreSQL URL is no number: use postgresql://user@host:5432/database"
            )
        options = f"{given.pop('options', None) or ''} {_SETTINGS}".strip()
        settings: dict[str, Any] = {**_CONNECTION, **given, "options": options}
        self.conninfo = psycopg.conninfo.make_conninfo(**settings)
        self.switch_attempts = switch_attempts
        shown = {name: str(given[name]) for name in ("host", "port", "dbname", "user") if given.get(name)}
        self._location = "postgresql " + (
            " ".join(f"{name}={value}" for name, value in shown.items()) or "(libpq's defaults)"
        )
        self._engine = sa.create_engine(
            "postgresql+psycopg://", creator=self.connect, pool_size=4, max_overflow=16, pool_pre_ping=True
        )
        self._readers = self._writers = Worker("refold-postgresql", 4)

    @property
    def location(self) -> str:
        return self._location

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        """A new connection of the driver.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """
        try:
            return psycopg.connect(self.conninfo, autocommit=autocommit)
        except psycopg.Error as error:
            raise StoreUnavailable(f"no connection to {self.location}: {_reason(error)}") from error

    async def connect_in_thread(self) -> psycopg.Connection[Any]:
        """A new connection in autocommit mode, made off the event loop."""
        return await self._readers.run(self.connect, autocommit=True)

    async def __aenter__(self) -> Self:
        def prepare(connection: sa.Connection) -> None:
            encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
            if encoding != "UTF8":
                raise StoreError(f"{self.location} keeps text as {encoding}; use a database with encoding UTF8")
            # Two first starts at once would both create the catalog.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('refold catalog', 0))"))
            self.prepare_catalog(connection)

        try:
            await self.write(prepare)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._readers.close()
        self._engine.dispose()

    async def begin_generation(self, schema: ViewSchema[Any], *, app: str, name: str, version: int) -> GenerationWriter:
        generation_table(name, version, 1)  # refused before anything is asked of the database
        return await PostgresGenerationWriter.begin(self, schema, app=app, name=name, version=version)

    @contextlib.asynccontextmanager
    async def claims(self, app: str, *, lease: float = 15.0) -> AsyncIterator[Claims]:
        async with PostgresClaims(self, app, lease) as claims:
            yield claims

    @contextlib.contextmanager
    def snapshot_transaction(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            options: Any = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            connection = connection.execution_options(**options)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            if not write:
                connection = connection.execution_options(postgresql_readonly=True)
            with connection.begin():
                yield connection

    def translated(self, error: Exception) -> RefoldError | None:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        if isinstance(cause, _REFUSALS):
            return RowRefused(_reason(cause))
        if isinstance(cause, psycopg.errors.LockNotAvailable):
            return StoreBusy(f"{self.location}: another session holds a lock for too long: {_reason(cause)}")
        if isinstance(cause, (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)):
            return StoreBusy(f"{self.location} put the transaction off, try again: {_reason(cause)}")
        if isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)) and not _sqlstate(cause):
            return StoreUnavailable(f"the connection to {self.location} is lost: {_reason(cause)}")
        if isinstance(cause, _ENDED):
            return StoreUnavailable(f"{self.location} ended the session: {_reason(cause)}")
        if isinstance(cause, psycopg.Error):
            return StoreError(f"{self.location}: {_reason(cause)}")
        if isinstance(error, exc.TimeoutError):
            return StoreError(f"{self.location}: every connection is busy")
        return StoreError(f"{self.location}: {error}") if isinstance(error, exc.SQLAlchemyError) else None

    def columns_of(self, connection: sa.Connection, name: str) -> Columns:
        return {row[0]: row[1] for row in connection.execute(_COLUMNS, {"name": name})}

    def expected_columns(self, table: sa.Table) -> Columns:
        dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
        return {c.name: c.type.compile(dialect).removesuffix(' COLLATE "C"').lower() for c in table.columns}


def _sqlstate(error: psycopg.Error) -> str | None:
    return error.sqlstate


def _reason(error: psycopg.Error) -> str:
    """What the server or libpq says, on one line; neither repeats a password."""
    primary = error.diag.message_primary
    if primary:
        return ": ".join(part for part in (primary, error.diag.message_detail) if part)
    return " ".join(str(error).split())
