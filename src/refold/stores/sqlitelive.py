"""Live running in an SQLite file: claims with lock files, and batches in the store's writing thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from refold.errors import ClaimLost, ProjectionStoreError, RowRefused, StoreBusy, StoreError, StoreUnavailable
from refold.ports.live import BatchWriter, Changes, Checkpoint
from refold.stores.claiming import claim_lost, not_claimed, stands_at
from refold.stores.conditions import askable
from refold.stores.letters import storable
from refold.stores.live import key_of
from refold.stores.sql import first_refused
from refold.stores.sqlclaims import SqlClaims
from refold.stores.sqlitelives import is_living, take_life
from refold.stores.sqliterows import SqliteRows
from refold.stores.sqllive import undone
from refold.view import Row, ViewSchema

if TYPE_CHECKING:
    from refold.stores.sqlite import SqliteStore

__all__ = ["SqliteBatchWriter", "SqliteClaims"]

T = TypeVar("T")

_NOW: Final = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
_SEEN: Final = (
    "SELECT version FROM refold_seen WHERE app = ? AND projection = ? AND projection_version = ? AND generation = ? "
    "AND aggregate_type = ? AND aggregate_id = ?"
)
_KEEPS_SEEN: Final = (
    "SELECT EXISTS (SELECT 1 FROM refold_seen "
    "WHERE app = ? AND projection = ? AND projection_version = ? AND generation = ?)"
)


class _NotMovedError(ClaimLost):
    """The transaction is rolled back, and it is to be seen why."""


class SqliteClaims(SqlClaims):
    """Claims with a lock file each beside the database.

    Args:
        store: the database.
        app: whose projections.
        lease: seconds for which a claim holds without being renewed.
    """

    def __init__(self, store: SqliteStore, app: str, lease: float) -> None:
        super().__init__(store, app, lease)
        self._sqlite = store
        self._living: dict[str, sqlite3.Connection] = {}

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            for projection in list(self._living):
                self._end(projection)

    async def _run(self, call: Callable[[sa.Connection], T]) -> T:
        return await self._sqlite.write(call)

    def _begin_life(self, connection: sa.Connection, projection: str) -> None:
        if projection not in self._living:
            life = take_life(self._path(projection, self._owner))
            if life is None:
                raise StoreError(f"{self._sqlite.location}: another holds the lock file of {projection!r}: try again")
            self._living[projection] = life

    def _end_life(self, connection: sa.Connection, projection: str) -> None:
        self._end(projection)

    def _lives(self, connection: sa.Connection, found: Checkpoint) -> bool:
        return is_living(self._path(found.projection, found.owner or ""))

    def _end_former(self, connection: sa.Connection, found: Checkpoint) -> None:
        """Whoever writes holds the file's lock only as long as it runs; the system takes it from the dead."""
        if not self._lives(connection, found):
            self._path(found.projection, found.owner or "").unlink(missing_ok=True)

    def _make_writer(self, claims: Mapping[str, Checkpoint], schemas: Mapping[str, ViewSchema[Any]]) -> BatchWriter:
        return SqliteBatchWriter(self._sqlite, claims, schemas)

    def _end(self, projection: str) -> None:
        life = self._living.pop(projection, None)
        if life is not None:
            life.close()
            with contextlib.suppress(OSError):
                self._path(projection, self._owner).unlink(missing_ok=True)

    def _path(self, projection: str, owner: str) -> Path:
        mark = owner.rpartition(":")[2]
        return self._sqlite.path.with_name(f"{self._sqlite.path.name}-{projection}-{mark}.lock")


class SqliteBatchWriter(BatchWriter):
    """Commits batches in the store's writing thread, where they and the chunks of a rebuild come one after another.

    Args:
        store: the database.
        claims: what is written, by projection.
        schemas: of the rows, by projection.
    """

    def __init__(
        self, store: SqliteStore, claims: Mapping[str, Checkpoint], schemas: Mapping[str, ViewSchema[Any]]
    ) -> None:
        self._store = store
        self._claims = dict(claims)
        self._keys = {name: key_of(claim) for name, claim in claims.items()}
        self._rows = {name: SqliteRows(store.dialect, schemas[name], claim.table) for name, claim in claims.items()}
        self._keeps_seen: dict[str, bool] = {}
        held = list(claims.values())
        self._whose = (held[0].app, held[0].owner)
        self._held = [cell for c in held for cell in (c.projection, c.version, c.generation, c.epoch)]
        self._move = (
            f"UPDATE refold_checkpoints SET position = ?, anchor = coalesce(?, anchor), renewed = {_NOW}, "
            "skip = CASE WHEN skip <= ? THEN NULL ELSE skip END "
            "WHERE app = ? AND owner = ? AND partition = 0 AND state = 'active' AND position = ? "
            f"AND (projection, version, generation, epoch) IN (VALUES {', '.join(['(?, ?, ?, ?)'] * len(held))})"
        )

    async def load(self, projection: str, keys: Collection[str]) -> dict[str, Row]:
        self._check(projection)
        asked = askable(keys)
        if not asked:
            return {}
        with self._part_of(projection):
            return await self._store.read(lambda connection: self._rows[projection].load(connection, asked))

    async def load_seen(self, projection: str, aggregates: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        self._check(projection)
        key = self._keys[projection]

        def load(connection: sa.Connection) -> dict[tuple[str, str], int]:
            if projection not in self._keeps_seen:
                self._keeps_seen[projection] = bool(connection.exec_driver_sql(_KEEPS_SEEN, key).scalar())
            if not self._keeps_seen[projection]:
                return {}  # as with most projections whose rows tell it: nobody else can have written any since
            found = {
                (kind, name): connection.exec_driver_sql(_SEEN, (*key, kind, storable(name))).scalar()
                for kind, name in aggregates
            }
            return {aggregate: version for aggregate, version in found.items() if version is not None}

        return await self._store.read(load) if aggregates else {}

    async def commit(self, changes: Mapping[str, Changes], *, old: int, new: int, anchor: str | None) -> None:
        for name in changes:
            self._check(name)

        def write(connection: sa.Connection) -> None:
            self._move_checkpoints(connection, old, new, anchor)
            for name, change in changes.items():
                self._rows[name].upsert(connection, change.rows)
            self._write_rest(connection, changes)

        def write_in_steps(connection: sa.Connection) -> None:
            self._move_checkpoints(connection, old, new, anchor)
            for name, change in changes.items():
                with self._part_of(name), self._store.translating():
                    self._write_rows(connection, name, change.rows)
                    self._write_rest(connection, {name: change})

        try:
            try:
                await self._store.write(write)
            except (ClaimLost, StoreBusy, StoreUnavailable):
                raise
            except (StoreError, RowRefused) as error:
                if isinstance(error, StoreError) and not _is_of_one(error):
                    raise
                # Once more, a step at a time: whose fault is it?
                await self._store.write(write_in_steps)
        except _NotMovedError:
            await self._look(old, new)

    async def _look(self, old: int, new: int) -> None:
        """Makes sure that a batch was committed before, in a transaction whose outcome was not known."""
        keys = [key_of(claim) for claim in self._claims.values()]
        found = await self._store.read(lambda connection: self._store.live.of(connection, keys))
        if not all(stands_at(claim, found.get(name), new) for name, claim in self._claims.items()):
            raise claim_lost(self._claims, found, old, new)

    async def close(self) -> None:
        """There is no connection of its own."""

    # -- In the thread ---------------------------------------------------------------------------------------------------

    def _move_checkpoints(self, connection: sa.Connection, old: int, new: int, anchor: str | None) -> None:
        parameters = (new, anchor, new, *self._whose, old, *self._held)
        if connection.exec_driver_sql(self._move, parameters).rowcount != len(self._claims):
            raise _NotMovedError("the checkpoints are not where they were expected")

    def _write_rest(self, connection: sa.Connection, changes: Mapping[str, Changes]) -> None:
        for name, change in changes.items():
            self._rows[name].delete(connection, askable(change.deleted))
            if change.seen:
                self._keeps_seen[name] = True
        live, keys = self._store.live, self._keys
        live.keep_seen(connection, [(keys[name], change.seen) for name, change in changes.items()])
        live.record(connection, [(keys[name], change.letters) for name, change in changes.items()])

    def _write_rows(self, connection: sa.Connection, name: str, rows: Sequence[Row]) -> None:
        def attempt(some: Sequence[Row]) -> None:
            with self._store.translating(), undone(connection):
                self._rows[name].upsert(connection, some)

        try:
            attempt(rows)
        except RowRefused as refused:
            found = first_refused(rows, attempt, refused)
            raise RowRefused(str(found), projection=name, key=found.key) from refused
        self._rows[name].upsert(connection, rows)

    @contextlib.contextmanager
    def _part_of(self, projection: str) -> Iterator[None]:
        """Names the projection in what fails for it alone."""
        try:
            yield
        except (StoreBusy, StoreUnavailable):
            raise
        except RowRefused as error:
            if error.projection:
                raise
            raise ProjectionStoreError(str(error), projection=projection) from error
        except StoreError as error:
            if _is_of_one(error):
                raise ProjectionStoreError(str(error), projection=projection) from error
            raise

    def _check(self, projection: str) -> None:
        if projection not in self._claims:
            raise not_claimed(projection)


def _is_of_one(error: StoreError) -> bool:
    """Whether an error may be one projection's own: a table that is gone, and not a disk that is full."""
    cause = error.__cause__
    driver = cause.orig if isinstance(cause, exc.DBAPIError) else cause
    return getattr(driver, "sqlite_errorname", None) in (None, "SQLITE_ERROR")
