"""Claims in PostgreSQL: checkpoints, and a session lock for each as its sign of life."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from refold.ports.live import BatchWriter, Checkpoint
from refold.stores.pgbatches import PostgresBatchWriter
from refold.stores.pgsessions import end_sessions, is_held, life_key, writer_key
from refold.stores.sqlclaims import SqlClaims
from refold.stores.threads import Worker
from refold.view import ViewSchema

if TYPE_CHECKING:
    from refold.stores.postgresql import PostgresStore

__all__ = ["PostgresClaims"]

T = TypeVar("T")


class PostgresClaims(SqlClaims):
    """Claims on a session of their own, whose locks tell a dead holder from a slow one at once.

    Args:
        store: the database.
        app: whose projections.
        lease: seconds for which a claim holds without being renewed.
    """

    def __init__(self, store: PostgresStore, app: str, lease: float) -> None:
        super().__init__(store, app, lease)
        self._postgres = store
        self._worker = Worker("refold-claims", interrupt=self._interrupt)
        self._engine = sa.create_engine("postgresql+psycopg://", creator=store.connect, poolclass=sa.NullPool)
        self._connection: sa.Connection | None = None
        self._living: set[str] = set()

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await self._worker.run(self._disconnect)
            await self._worker.close()

    # -- The session -----------------------------------------------------------------------------------------------------

    async def _run(self, call: Callable[[sa.Connection], T]) -> T:
        def run() -> T:
            with self._postgres.translating():
                try:
                    return self._attempt(call)
                except (exc.DBAPIError, psycopg.Error):
                    if self._connection is not None:
                        raise
                # The session was lost. Every call may be made again, and a session that was idle ends unnoticed.
                return self._attempt(call)

        return await self._worker.run(run)

    def _attempt(self, call: Callable[[sa.Connection], T]) -> T:
        try:
            connection = self._connected()
            result = call(connection)
            connection.commit()
        except BaseException:
            self._recover()
            raise
        return result

    def _connected(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            for projection in self._living:
                self._lock(self._connection, projection)
        return self._connection

    def _recover(self) -> None:
        """After a failure: the session can be used again, or it is let go of, and the next call makes another."""
        connection = self._connection
        if connection is None:
            return
        if connection.invalidated or _driver(connection).closed:
            self._disconnect()
        else:
            connection.rollback()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None and not connection.invalidated:
            with contextlib.suppress(psycopg.Error):
                _driver(connection).cancel_safe()

    # -- Signs of life ---------------------------------------------------------------------------------------------------

    def _begin_life(self, connection: sa.Connection, projection: str) -> None:
        if projection not in self._living:
            self._lock(connection, projection)
            self._living.add(projection)

    def _end_life(self, connection: sa.Connection, projection: str) -> None:
        if projection in self._living:
            self._living.discard(projection)
            key = life_key(self._app, projection, self._owner)
            connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))

    def _lives(self, connection: sa.Connection, found: Checkpoint) -> bool:
        return is_held(_driver(connection), life_key(self._app, found.projection, found.owner or ""))

    def _end_former(self, connection: sa.Connection, found: Checkpoint) -> None:
        owner = found.owner or ""
        keys = [key(self._app, found.projection, owner) for key in (life_key, writer_key)]
        end_sessions(_driver(connection), keys)

    def _lock(self, connection: sa.Connection, projection: str) -> None:
        key = life_key(self._app, projection, self._owner)
        connection.execute(sa.select(sa.func.pg_advisory_lock(key)))

    def _make_writer(self, claims: Mapping[str, Checkpoint], schemas: Mapping[str, ViewSchema[Any]]) -> BatchWriter:
        return PostgresBatchWriter(self._postgres, claims, schemas)


def _driver(connection: sa.Connection) -> psycopg.Connection[Any]:
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    return driver
