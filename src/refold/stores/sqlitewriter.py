"""Writes generations into an SQLite file: rows in bulk, and one transaction to put them in place."""

from __future__ import annotations

import contextlib
import glob
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from refold.errors import RowRefused, StoreError
from refold.ports.letters import DeadLetter
from refold.ports.views import GenerationWriter, SeenRow
from refold.stores.catalog import compare_columns, describe, lost, owner, seen_rows, stranger, taken
from refold.stores.conditions import askable
from refold.stores.names import LETTERS, QUARANTINED, generation_table, index_name
from refold.stores.sql import create_statements, first_refused
from refold.stores.sqlitelives import take_life
from refold.stores.sqliterows import SqliteRows
from refold.view import Row, ViewSchema

if TYPE_CHECKING:
    from refold.stores.sqlite import SqliteStore

__all__ = ["SqliteGenerationWriter"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_NOW: Final = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
_KEY: Final = "app = ? AND projection = ? AND version = ? AND generation = ?"
_SEEN_KEY: Final = "app = ? AND projection = ? AND projection_version = ? AND generation = ?"


class SqliteGenerationWriter(GenerationWriter):
    """A generation that is being written, through its store's writing thread; make one with `begin`.

    Args:
        store: where it lies.
        schema: of its rows.
        app: whose projection it is.
        name: of the projection.
        version: of the projection.
    """

    def __init__(self, store: SqliteStore, schema: ViewSchema[Any], *, app: str, name: str, version: int) -> None:
        self._store = store
        self._schema = schema
        self._key: tuple[str, str, int, int] = (app, name, version, 0)
        self._table = ""
        self._life: sqlite3.Connection | None = None
        self._keyed = False

    @staticmethod
    async def begin(
        store: SqliteStore, schema: ViewSchema[Any], *, app: str, name: str, version: int
    ) -> SqliteGenerationWriter:
        """Makes the table of a new generation, and its writer; see `ViewStore.begin_generation`."""
        writer = SqliteGenerationWriter(store, schema, app=app, name=name, version=version)
        try:
            await store.write(writer._begin)
        except BaseException:
            writer._end_life()
            raise
        return writer

    @property
    def table(self) -> str:
        return self._table

    async def insert(self, rows: Sequence[Row]) -> None:
        if rows:
            await self._put(rows, self._rows.insert)

    async def upsert(self, rows: Sequence[Row], deleted: Sequence[str] = ()) -> None:
        keys = askable(deleted)

        def write(connection: sa.Connection, some: Sequence[Row]) -> None:
            self._rows.upsert(connection, some)
            self._rows.delete(connection, keys)

        if rows or keys:
            await self._ensure_key()
            await self._put(rows, write)

    async def load(self, keys: Collection[str]) -> dict[str, Row]:
        self._refuse_closed()
        asked = askable(keys)
        if not asked:
            return {}
        await self._ensure_key()
        return await self._store.read(lambda connection: self._rows.load(connection, asked))

    async def record(self, letters: Sequence[DeadLetter]) -> None:
        self._refuse_closed()
        await self._store.write(lambda connection: self._store.live.record(connection, [(self._key, letters)]))

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
        self._refuse_closed()
        checkpoint = (stream, created, position, fingerprint, anchor)
        await self._ensure_key()
        await self._store.write(lambda connection: self._publish(connection, checkpoint, seen))
        self._end_life()

    async def abandon(self) -> None:
        if self._life is None:
            return
        try:
            await self._store.write(lambda connection: _drop(connection, self._key, "rebuilding"))
        except StoreError:
            # The next rebuild drops it: nobody holds its lock.
            _log.warning("a generation could not be dropped", extra={"table": self._table}, exc_info=True)
        finally:
            self._end_life()

    # -- Rows ----------------------------------------------------------------------------------------------------------

    async def _put(self, rows: Sequence[Row], write: Callable[[sa.Connection, Sequence[Row]], None]) -> None:
        self._refuse_closed()
        try:
            await self._store.write(lambda connection: write(connection, rows))
            return
        except RowRefused as refused:
            reason = refused
        if not rows:
            raise reason

        def find(connection: sa.Connection) -> RowRefused:
            def attempt(some: Sequence[Row]) -> None:
                savepoint = connection.begin_nested()
                try:
                    with self._store.translating():
                        write(connection, some)
                finally:
                    savepoint.rollback()

            return first_refused(rows, attempt, reason)

        raise await self._store.write(find) from reason

    async def _ensure_key(self) -> None:
        """The key's index is cheapest built after the bulk of the rows, and needed before any is looked up."""
        if not self._keyed:
            self._refuse_closed()
            index = f"CREATE UNIQUE INDEX {index_name(self._table, 'id')} ON {self._table} (id)"
            await self._store.write(lambda connection: connection.exec_driver_sql(index))
            self._keyed = True

    def _refuse_closed(self) -> None:
        if self._life is None:
            raise StoreError(f"generation {self._table!r} is closed: begin another")

    # -- Beginning and ending ------------------------------------------------------------------------------------------

    def _begin(self, connection: sa.Connection) -> None:
        app, name, version, _ = self._key
        self._drop_dead(connection)
        other = connection.exec_driver_sql(
            "SELECT min(app) FROM refold_checkpoints WHERE projection = ? AND app <> ?", (name, app)
        ).scalar()
        if other is not None:
            raise stranger(name, other, self._store.location)
        mine = "FROM refold_checkpoints WHERE app = ? AND projection = ? AND version = ?"
        for table, columns in connection.exec_driver_sql(
            f"SELECT table_name, columns {mine} AND state = 'active'", (app, name, version)
        ):
            compare_columns(columns, self._schema, table)
        last = connection.exec_driver_sql(f"SELECT max(generation) {mine}", (app, name, version)).scalar() or 0
        self._key = (app, name, version, last + 1)
        self._table = generation_table(name, version, last + 1)
        self._life = take_life(_life_path(self._store.path, self._table))
        if self._life is None:
            raise StoreError(f"another rebuild holds {self._table!r}: try again")
        connection.exec_driver_sql(
            "INSERT INTO refold_checkpoints (app, projection, version, generation, partition, table_name, columns, "
            f"position, owner, epoch, state, since, renewed, status, status_since) "
            f"VALUES (?, ?, ?, ?, 0, ?, ?, 0, ?, 0, 'rebuilding', {_NOW}, {_NOW}, 'rebuilding', {_NOW})",
            (*self._key, self._table, describe(self._schema), owner()),
        )
        self._rows = SqliteRows(self._store.dialect, self._schema, self._table)
        for statement in create_statements(self._rows.described, indexes=False):
            connection.execute(statement)

    def _drop_dead(self, connection: sa.Connection) -> None:
        unpublished = {
            _life_path(self._store.path, generation_table(*key[1:])): key
            for key in _generations(connection, self._key, "state = 'rebuilding'")
        }
        # One that was killed just after it was published left its lock alone.
        pattern = f"{glob.escape(self._store.path.name)}-{self._key[1]}__v*g*.lock"
        for path in {*unpublished, *self._store.path.parent.glob(pattern)}:
            life = take_life(path)
            if life is not None:
                if path in unpublished:
                    _drop(connection, unpublished[path], "rebuilding")
                life.close()
                path.unlink(missing_ok=True)

    def _publish(self, connection: sa.Connection, checkpoint: tuple[Any, ...], seen: Sequence[SeenRow]) -> None:
        app, name, *_ = self._key
        for statement in create_statements(self._rows.described)[1:]:
            connection.execute(statement)
        if seen:
            connection.exec_driver_sql(
                "INSERT INTO refold_seen (app, projection, projection_version, generation, aggregate_type, aggregate_id, "
                "version) VALUES (?, ?, ?, ?, ?, ?, ?)",
                seen_rows(self._key, seen),
            )
        active = "app = ? AND projection = ? AND state = 'active'"
        query = f"SELECT wanted, epoch FROM refold_checkpoints WHERE {active}"
        former = connection.exec_driver_sql(query, (app, name)).all()
        connection.exec_driver_sql(
            f"UPDATE refold_checkpoints SET state = 'retired', since = {_NOW}, status = 'stopped', status_since = {_NOW}, "
            f"reason = NULL WHERE {active}",
            (app, name),
        )
        # An order to pause stays; one to rebuild is met.
        wanted = "pause" if any(row[0] == "pause" for row in former) else "run"
        # No order, and no resolution, of the former generation is taken for one of this.
        epoch = 1 + max((row[1] for row in former), default=-1)
        mine = connection.exec_driver_sql(
            "UPDATE refold_checkpoints SET state = 'active', stream = ?, stream_created = ?, position = ?, "
            f"fingerprint = ?, anchor = ?, since = {_NOW}, renewed = {_NOW}, status = 'stopped', status_since = {_NOW}, "
            f"reason = NULL, wanted = ?, epoch = ? WHERE {_KEY} AND state = 'rebuilding'",
            (*checkpoint, wanted, epoch, *self._key),
        )
        if mine.rowcount != 1:
            raise lost(self._table)
        self._show(connection, has_former=bool(former))
        order = "state = 'retired' ORDER BY since DESC, version DESC, generation DESC LIMIT -1 OFFSET 1"
        for key in _generations(connection, self._key, order):
            _drop(connection, key, "retired")

    def _show(self, connection: sa.Connection, *, has_former: bool) -> None:
        """Makes the SQL view under the plain name anew; triggers on it, and views on top of it, go on working."""
        name = self._key[1]
        kind = connection.exec_driver_sql(
            "SELECT type FROM sqlite_master WHERE name = ? AND type IN ('table', 'view')", (name,)
        ).scalar()
        if kind is not None and (kind != "view" or not has_former):
            raise taken(name, self._store.location)
        triggers = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (name,)
        ).scalars()
        kept, broken = list(triggers), _broken_views(connection)
        columns = ", ".join(f'"{column}"' for column in self._schema.names)
        connection.exec_driver_sql(f'DROP VIEW IF EXISTS "{name}"')
        connection.exec_driver_sql(f'CREATE VIEW "{name}" AS SELECT {columns} FROM {self._table}')
        for trigger in kept:
            connection.exec_driver_sql(trigger)
        newly = sorted(_broken_views(connection) - broken)
        if newly:
            raise StoreError(
                f"version {self._key[2]} changes columns of {name!r} in {self._store.location}, on which others stand: "
                f"{', '.join(newly)}; drop them, rebuild, and make them again"
            )

    def _end_life(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.close()
            with contextlib.suppress(OSError):
                _life_path(self._store.path, self._table).unlink(missing_ok=True)


# -- The catalog ---------------------------------------------------------------------------------------------------------


def _generations(
    connection: sa.Connection, key: tuple[str, str, int, int], condition: str
) -> list[tuple[str, str, int, int]]:
    rows = connection.exec_driver_sql(
        "SELECT app, projection, version, generation FROM refold_checkpoints "
        f"WHERE app = ? AND projection = ? AND {condition}",
        key[:2],
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def _drop(connection: sa.Connection, key: tuple[str, str, int, int], state: str) -> None:
    gone = connection.exec_driver_sql(f"DELETE FROM refold_checkpoints WHERE {_KEY} AND state = ?", (*key, state))
    if gone.rowcount:
        connection.exec_driver_sql(f"DELETE FROM refold_seen WHERE {_SEEN_KEY}", key)
        for kept in (LETTERS, QUARANTINED):
            connection.exec_driver_sql(f"DELETE FROM {kept} WHERE {_KEY}", key)
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {generation_table(*key[1:])}")


def _broken_views(connection: sa.Connection) -> set[str]:
    """SQL views that cannot be queried: SQLite finds out only when one asks."""
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'view'").scalars().all()
    broken: set[str] = set()
    for name in names:
        quoted = name.replace('"', '""')
        try:
            connection.exec_driver_sql(f'EXPLAIN SELECT * FROM "{quoted}"').close()
        except exc.OperationalError:
            broken.add(name)
    return broken


def _life_path(path: Path, table: str) -> Path:
    return path.with_name(f"{path.name}-{table}.lock")
