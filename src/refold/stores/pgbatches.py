"""Batches in PostgreSQL: one transaction each, whose first statement moves the checkpoints."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import psycopg
from psycopg.types.numeric import Int8

from refold.errors import ProjectionStoreError, RowRefused, StoreBusy, StoreError, StoreUnavailable
from refold.ports.live import BatchWriter, Changes, Checkpoint
from refold.stores.claiming import claim_lost, not_claimed, stands_at
from refold.stores.conditions import askable
from refold.stores.letters import storable
from refold.stores.live import key_of
from refold.stores.pgarrays import Cells, register
from refold.stores.pgletters import keep_seen, record_letters
from refold.stores.pgrows import PostgresRows, Unusual
from refold.stores.pgsessions import end_sessions, writer_key
from refold.stores.sql import first_refused
from refold.stores.threads import Worker
from refold.view import Row, ViewSchema

if TYPE_CHECKING:
    from refold.stores.postgresql import PostgresStore

__all__ = ["PostgresBatchWriter"]

P = ParamSpec("P")
T = TypeVar("T")

_MANY: Final = 500
"""Rows of one projection from which on COPY is quicker than one statement."""

_MOVE: Final = b"""
    UPDATE refold_checkpoints c
    SET position = %s::int8, anchor = coalesce(%s::text, c.anchor), renewed = clock_timestamp(),
        skip = CASE WHEN c.skip <= %s::int8 THEN NULL ELSE c.skip END
    FROM unnest(%s::text[], %s::int8[], %s::int8[], %s::int8[]) m (projection, version, generation, epoch)
    WHERE c.app = %s::text AND c.projection = m.projection AND c.version = m.version AND c.generation = m.generation
        AND c.partition = 0 AND c.position = %s::int8 AND c.epoch = m.epoch AND c.owner = %s::text AND c.state = 'active'
"""
# OFFSET 0: one look into the index for each aggregate, whatever the planner thinks of the table's size.
_SEEN: Final = b"""
    SELECT a.number, s.version FROM unnest(%s::int8[], %s::text[], %s::text[]) a (number, aggregate_type, aggregate_id),
    LATERAL (
        SELECT version FROM refold_seen WHERE app = %s::text AND projection = %s::text
            AND projection_version = %s::int8 AND generation = %s::int8
            AND aggregate_type = a.aggregate_type AND aggregate_id = a.aggregate_id OFFSET 0
    ) s
"""
_KEEPS_SEEN: Final = b"""
    SELECT EXISTS (SELECT FROM refold_seen WHERE app = %s::text AND projection = %s::text AND projection_version = %s::int8
        AND generation = %s::int8)
"""
# Waits for a session that was lost within its transaction.
_STANDING: Final = b"""
    SELECT projection, version, generation, table_name, state, owner, epoch, position FROM refold_checkpoints
    WHERE app = %s::text AND partition = 0 AND (projection, version, generation) IN (
        SELECT * FROM unnest(%s::text[], %s::int8[], %s::int8[])
    ) FOR UPDATE
"""
_TRANSIENT: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.QueryCanceled,  # its caller went away
)
_OF_THE_SERVER: Final = ("08", "25", "40", "53", "57", "58")
"""Classes of errors that are no projection's own: connections, transactions, resources, operators, the system."""

_UNWRITABLE: Final = (OverflowError, UnicodeEncodeError, struct.error, AttributeError, TypeError)
"""What the driver raises for cells that it cannot write."""


class PostgresBatchWriter(BatchWriter):
    """Commits batches on a session and a thread of its own.

    A batch takes two round trips, of which the second is the commit: everything that is not large goes out at once.

    Args:
        store: the database.
        claims: what is written, by projection.
        schemas: of the rows, by projection.
    """

    def __init__(
        self, store: PostgresStore, claims: Mapping[str, Checkpoint], schemas: Mapping[str, ViewSchema[Any]]
    ) -> None:
        self._store = store
        self._claims = dict(claims)
        self._keys = {name: key_of(claim) for name, claim in claims.items()}
        self._schemas = schemas
        self._worker = Worker("refold-writer", interrupt=self._interrupt)
        self._connection: psycopg.Connection[Any] | None = None
        self._rows: dict[str, PostgresRows] = {}
        self._keeps_seen: dict[str, bool] = {}
        self._was_connected = False
        held = list(claims.values())
        self._app, self._owner = held[0].app, held[0].owner or ""
        self._moved = [
            Cells("text", [claim.projection for claim in held]),
            *(Cells("int8", [getattr(c, name) for c in held]) for name in ("version", "generation", "epoch")),
        ]

    async def load(self, projection: str, keys: Collection[str]) -> dict[str, Row]:
        self._check(projection)
        asked = askable(keys)
        return await self._run(self._load, projection, asked) if asked else {}

    async def load_seen(self, projection: str, aggregates: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        self._check(projection)
        return await self._run(self._load_seen, projection, list(aggregates)) if aggregates else {}

    async def commit(self, changes: Mapping[str, Changes], *, old: int, new: int, anchor: str | None) -> None:
        for name in changes:
            self._check(name)
        await self._run(self._commit, {name: c for name, c in changes.items() if c}, old, new, anchor)

    async def close(self) -> None:
        try:
            await self._worker.run(self._disconnect)
        finally:  # a caller that is cancelled here may not have got as far as that
            await self._worker.close()
            self._disconnect()

    # -- In the thread: reading ------------------------------------------------------------------------------------------

    def _load(self, projection: str, keys: Sequence[str]) -> dict[str, Row]:
        self._connected()
        with self._part_of(projection):
            return self._rows[projection].load(keys)

    def _load_seen(self, projection: str, aggregates: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        kinds, names = zip(*aggregates, strict=True)
        asked = [Cells("int8", range(len(aggregates))), Cells("text", kinds), Cells("text", list(map(storable, names)))]
        app, name, version, generation = self._keys[projection]
        whose = [app, name, Int8(version), Int8(generation)]
        connection = self._connected()
        if projection not in self._keeps_seen:
            (self._keeps_seen[projection],) = connection.execute(_KEEPS_SEEN, whose).fetchone() or (True,)
        if not self._keeps_seen[projection]:
            return {}  # as with most projections whose rows tell it: nobody else can have written any since
        found = connection.execute(_SEEN, [*asked, *whose], prepare=True, binary=True)
        return {aggregates[number]: seen for number, seen in found}

    # -- In the thread: a commit -----------------------------------------------------------------------------------------

    def _commit(self, changes: Mapping[str, Changes], old: int, new: int, anchor: str | None) -> None:
        connection = self._connected()
        try:
            self._write_at_once(connection, changes, old, new, anchor)
        except (StoreError, *_TRANSIENT):
            raise
        except Exception:
            if connection.closed:
                raise
            connection.rollback()
            # Once more, a step at a time: whose fault is it?
            self._write_in_steps(connection, changes, old, new, anchor)
        finally:
            if not connection.closed:
                connection.rollback()

    def _write_at_once(
        self,
        connection: psycopg.Connection[Any],
        changes: Mapping[str, Changes],
        old: int,
        new: int,
        anchor: str | None,
    ) -> None:
        with connection.pipeline():
            connection.execute(b"BEGIN")
            moved = self._move(connection, old, new, anchor)
            self._write_rest(connection, changes)
            for name, change in changes.items():
                if 0 < len(change.rows) <= _MANY:
                    self._rows[name].put(change.rows)
        if self._has_moved(connection, moved, old, new):
            for name, change in changes.items():
                if len(change.rows) > _MANY:
                    self._rows[name].upsert(change.rows)
            connection.commit()

    def _write_in_steps(
        self,
        connection: psycopg.Connection[Any],
        changes: Mapping[str, Changes],
        old: int,
        new: int,
        anchor: str | None,
    ) -> None:
        connection.execute(b"BEGIN")
        if not self._has_moved(connection, self._move(connection, old, new, anchor), old, new):
            return
        for name, change in changes.items():
            with self._part_of(name):
                self._write_rest(connection, {name: change})
                self._write_rows(connection, name, change.rows)
        connection.commit()

    def _move(self, connection: psycopg.Connection[Any], old: int, new: int, anchor: str | None) -> psycopg.Cursor[Any]:
        to = Int8(new)
        parameters = [to, anchor, to, *self._moved, self._app, Int8(old), self._owner]
        return connection.execute(_MOVE, parameters, prepare=True)

    def _has_moved(self, connection: psycopg.Connection[Any], moved: psycopg.Cursor[Any], old: int, new: int) -> bool:
        """Whether the checkpoints moved with this transaction; False where they had before, with one of unknown outcome."""
        if moved.rowcount == len(self._claims):
            return True
        connection.rollback()
        found = self._standing(connection)
        if all(stands_at(claim, found.get(name), new) for name, claim in self._claims.items()):
            return False
        raise claim_lost(self._claims, found, old, new)

    def _standing(self, connection: psycopg.Connection[Any]) -> dict[str, Checkpoint]:
        return {
            row[0]: Checkpoint(
                app=self._app,
                projection=row[0],
                version=row[1],
                generation=row[2],
                table=row[3],
                role=row[4],
                owner=row[5],
                epoch=row[6],
                position=row[7],
            )
            for row in connection.execute(_STANDING, [self._app, *self._moved[:3]])
        }

    def _write_rest(self, connection: psycopg.Connection[Any], changes: Mapping[str, Changes]) -> None:
        for name, change in changes.items():
            deleted = askable(change.deleted)
            if deleted:
                self._rows[name].delete(deleted)
            if change.seen:
                self._keeps_seen[name] = True
        keep_seen(connection, [(self._keys[name], change.seen) for name, change in changes.items()])
        record_letters(connection, [(self._keys[name], change.letters) for name, change in changes.items()])

    def _write_rows(self, connection: psycopg.Connection[Any], name: str, rows: Sequence[Row]) -> None:
        def attempt(some: Sequence[Row], *, undo: bool = True) -> None:
            try:
                with self._store.translating(), connection.transaction(force_rollback=undo):
                    self._put(connection, name, some)
            except _UNWRITABLE as error:
                raise RowRefused(str(error)) from error

        if not rows:
            return
        try:
            attempt(rows, undo=False)
        except RowRefused as refused:
            found = first_refused(rows, attempt, refused)
            raise RowRefused(str(found), projection=name, key=found.key) from refused

    def _put(self, connection: psycopg.Connection[Any], name: str, rows: Sequence[Row]) -> None:
        writer = self._rows[name]
        if len(rows) <= _MANY:
            writer.put(rows)
            return
        try:
            with connection.transaction():
                writer.upsert(rows)
        except Unusual:
            writer.unusual = True
            try:
                writer.upsert(rows)
            finally:
                writer.unusual = False

    @contextlib.contextmanager
    def _part_of(self, projection: str) -> Iterator[None]:
        """Names the projection in what fails for it alone."""
        try:
            with self._store.translating():
                yield
        except (StoreBusy, StoreUnavailable) as error:
            if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise ProjectionStoreError(str(error), projection=projection) from error
            raise
        except RowRefused as error:
            if not error.projection:  # it is no row of a view
                raise ProjectionStoreError(str(error), projection=projection) from error
            raise
        except StoreError as error:
            state: str = getattr(error.__cause__, "sqlstate", None) or ""
            if state.startswith(_OF_THE_SERVER):
                raise
            raise ProjectionStoreError(str(error), projection=projection) from error

    # -- The session -----------------------------------------------------------------------------------------------------

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._disconnect()
            connection = self._store.connect(autocommit=True)
            try:
                self._begin_session(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _begin_session(self, connection: psycopg.Connection[Any]) -> None:
        connection.prepared_max = 10_000  # several for each projection, and all are used again
        connection.execute("SET lock_timeout = '3s'")
        register(connection)
        keys = [writer_key(self._app, name, self._owner) for name in self._claims]
        if self._was_connected:
            end_sessions(connection, keys)
        connection.execute("SELECT pg_advisory_lock_shared(key) FROM unnest(%s::int8[]) key", [keys])
        self._keeps_seen.clear()
        self._rows = {
            name: PostgresRows(connection, self._schemas[name], claim.table, f"refold_pending_{i}")
            for i, (name, claim) in enumerate(self._claims.items())
        }
        self._was_connected = True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe()

    def _check(self, projection: str) -> None:
        if projection not in self._claims:
            raise not_claimed(projection)

    async def _run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        def translated() -> T:
            with self._store.translating():
                return call(*args, **kwargs)

        return await self._worker.run(translated)
