"""The catalog of generations in PostgreSQL: locks, checkpoints, and the SQL view under a projection's plain name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, LiteralString

import psycopg
import stamina
from psycopg import sql

from refold.errors import StoreError
from refold.stores.catalog import compare_columns, describe, lost, owner, stranger, taken
from refold.stores.names import LETTERS, QUARANTINED, generation_table
from refold.stores.pgsessions import lock_key
from refold.view import ViewSchema

__all__ = ["PostgresCatalog"]

_log = logging.getLogger(__name__)

_KEY: Final = "app = %s AND projection = %s AND version = %s AND generation = %s"

_SEEN_KEY: Final = "app = %s AND projection = %s AND projection_version = %s AND generation = %s"

_RELATION: Final = """
    SELECT oid, relkind, reloptions, obj_description(oid, 'pg_class') FROM pg_class
    WHERE relname = %s AND relnamespace = current_schema()::regnamespace
"""
# What an SQL view, and its columns, had granted.
_GRANTS: Final = """
    SELECT a.privilege_type, NULL, a.grantee, pg_get_userbyid(a.grantee), a.is_grantable
    FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = %(oid)s
    UNION ALL
    SELECT a.privilege_type, t.attname, a.grantee, pg_get_userbyid(a.grantee), a.is_grantable
    FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = %(oid)s AND NOT t.attisdropped
"""


class PostgresCatalog:
    """One generation's part of the catalog, on its writer's connection (in autocommit mode).

    A session lock, held as long as the writer lives, tells a dead generation from a slow one at once. A transaction lock
    makes beginnings and cutovers of one projection follow one another.

    Args:
        connection: the writer's.
        location: for messages.
        app: whose projection it is.
        name: of the projection.
        version: of the projection.
        generation: its number, once it has one.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        location: str,
        *,
        app: str,
        name: str,
        version: int,
        generation: int = 0,
    ) -> None:
        self._connection = connection
        self._location = location
        self._app = app
        self._name = name
        self._version = version
        self._generation = generation

    def on(self, connection: psycopg.Connection[Any]) -> PostgresCatalog:
        """The same on another connection."""
        app, name, version, generation = self.key
        return PostgresCatalog(connection, self._location, app=app, name=name, version=version, generation=generation)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """App, projection, version and generation."""
        return self._app, self._name, self._version, self._generation

    @property
    def table(self) -> str:
        """Name of the physical table."""
        return generation_table(self._name, self._version, self._generation)

    # -- Beginning -----------------------------------------------------------------------------------------------------

    def begin(self, schema: ViewSchema[Any], make_table: Callable[[str], None]) -> str:
        """Takes the next generation's number and has its table made; gives the table's name."""
        with self._connection.transaction():
            self._lock_projection("10s")
            self._refuse_stranger()
            self._refuse_other_columns(schema)
            self._generation = 1 + self._value(
                "SELECT coalesce(max(generation), 0) FROM refold_checkpoints "
                "WHERE app = %s AND projection = %s AND version = %s",
                *self.key[:3],
            )
            self._value("SELECT pg_advisory_lock(%s)", lock_key(self.key))
            self._connection.execute(
                "INSERT INTO refold_checkpoints (app, projection, version, generation, partition, table_name, columns, "
                "position, owner, epoch, state, since, renewed, status, status_since) "
                "VALUES (%s, %s, %s, %s, 0, %s, %s, 0, %s, 0, 'rebuilding', now(), now(), 'rebuilding', now())",
                [*self.key, self.table, describe(schema), owner()],
            )
            make_table(self.table)
        return self.table

    def drop_dead(self) -> None:
        """Drops generations whose writer is gone: nobody holds their lock."""
        for key in self._generations("state = 'rebuilding'"):
            lock = lock_key(key)
            if self._value("SELECT pg_try_advisory_lock(%s)", lock):
                try:
                    self._drop(key, "rebuilding")
                finally:
                    self._value("SELECT pg_advisory_unlock(%s)", lock)

    def _refuse_stranger(self) -> None:
        other = self._value(
            "SELECT min(app) FROM refold_checkpoints WHERE projection = %s AND app <> %s", self._name, self._app
        )
        if other is not None:
            raise stranger(self._name, other, self._location)

    def _refuse_other_columns(self, schema: ViewSchema[Any]) -> None:
        rows = self._connection.execute(
            "SELECT table_name, columns FROM refold_checkpoints "
            "WHERE app = %s AND projection = %s AND version = %s AND state = 'active'",
            self.key[:3],
        )
        for table, columns in rows:
            compare_columns(columns, schema, table)

    # -- Ending --------------------------------------------------------------------------------------------------------

    def state(self) -> str | None:
        """The generation's state; waits for a transaction that is changing it. None where it is gone."""
        found: str | None = self._value(f"SELECT state FROM refold_checkpoints WHERE {_KEY} FOR UPDATE", *self.key)
        return found

    def abandon(self) -> None:
        """Drops the generation, unless it was published."""
        if self._generation:
            self._drop(self.key, "rebuilding")

    def forget_seen(self) -> None:
        """Removes what the generation has seen."""
        self._connection.execute(f"DELETE FROM refold_seen WHERE {_SEEN_KEY}", self.key)

    def drop_former(self) -> None:
        """Drops earlier generations but the last. What is in use, or stands under others' views, waits for the next time."""
        for key in self._generations("state = 'retired' ORDER BY since DESC, version DESC, generation DESC OFFSET 1"):
            self._drop(key, "retired")

    def _generations(self, condition: LiteralString) -> list[tuple[str, str, int, int]]:
        return self._connection.execute(
            "SELECT app, projection, version, generation FROM refold_checkpoints "
            f"WHERE app = %s AND projection = %s AND {condition}",
            self.key[:2],
        ).fetchall()

    def _drop(self, key: tuple[str, str, int, int], state: str) -> None:
        table = generation_table(*key[1:])
        try:
            with self._connection.transaction():
                self._lock_projection("2s")
                gone = self._connection.execute(
                    f"DELETE FROM refold_checkpoints WHERE {_KEY} AND state = %s", [*key, state]
                )
                if gone.rowcount:
                    self._connection.execute(f"DELETE FROM refold_seen WHERE {_SEEN_KEY}", key)
                    for kept in (LETTERS, QUARANTINED):
                        self._connection.execute(f"DELETE FROM {kept} WHERE {_KEY}".encode(), key)
                    self._connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)))
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DependentObjectsStillExist) as error:
            _log.warning("a former generation stays for now", extra={"table": table, "reason": str(error)})

    # -- Cutover -------------------------------------------------------------------------------------------------------

    def switch(self, columns: Sequence[str], checkpoint: Mapping[str, Any], *, attempts: int) -> None:
        """Makes this generation the active one: its checkpoint and the SQL view in one transaction.

        Each attempt waits a second at most, since new readers queue up behind it.
        """
        try:
            for attempt in stamina.retry_context(
                on=psycopg.errors.LockNotAvailable, attempts=attempts, timeout=None, wait_initial=0.2, wait_max=2.0
            ):
                with attempt, self._connection.transaction():
                    self._switch(columns, checkpoint)
        except psycopg.errors.LockNotAvailable as error:
            raise StoreError(
                f"readers hold {self._name!r} in {self._location} for too long, so that {self.table!r} could not be put in "
                "place; end their transactions (pg_stat_activity) and rebuild again"
            ) from error

    def _switch(self, columns: Sequence[str], checkpoint: Mapping[str, Any]) -> None:
        self._connection.execute("SET LOCAL synchronous_commit TO DEFAULT")
        self._lock_projection("1s")
        former = self._connection.execute(
            "UPDATE refold_checkpoints SET state = 'retired', since = clock_timestamp(), status = 'stopped', "
            "status_since = clock_timestamp(), reason = NULL "
            "WHERE app = %s AND projection = %s AND state = 'active' RETURNING wanted, epoch",
            self.key[:2],
        ).fetchall()
        # An order to pause stays; one to rebuild is met.
        wanted = "pause" if any(row[0] == "pause" for row in former) else "run"
        # No order, and no resolution, of the former generation is taken for one of this.
        epoch = 1 + max((row[1] for row in former), default=-1)
        mine = self._connection.execute(
            "UPDATE refold_checkpoints SET state = 'active', stream = %s, stream_created = %s, position = %s, "
            "fingerprint = %s, anchor = %s, since = clock_timestamp(), renewed = clock_timestamp(), status = 'stopped', "
            f"status_since = clock_timestamp(), reason = NULL, wanted = %s, epoch = %s WHERE {_KEY} AND state = 'rebuilding'",
            [
                *(checkpoint[name] for name in ("stream", "stream_created", "position", "fingerprint", "anchor")),
                *(wanted, epoch, *self.key),
            ],
        )
        if mine.rowcount != 1:
            raise lost(self.table)
        self._show(columns, has_former=bool(former))

    def _show(self, columns: Sequence[str], *, has_former: bool) -> None:
        found = self._connection.execute(_RELATION, [self._name]).fetchone()
        if found is not None and (found[1] != "v" or not has_former):
            raise taken(self._name, self._location)
        options = sql.SQL("WITH ({})").format(sql.SQL(", ".join(found[2]))) if found and found[2] else sql.SQL("")  # pyright: ignore[reportArgumentType]  # no user text: compiled by SQLAlchemy
        view = sql.SQL("VIEW {} {} AS SELECT {} FROM {}").format(
            sql.Identifier(self._name),
            options,
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.Identifier(self.table),
        )
        try:
            with self._connection.transaction():
                self._connection.execute(sql.SQL("CREATE OR REPLACE ") + view)
        except psycopg.errors.InvalidTableDefinition:  # columns went, or changed their place or type
            if found is None:
                raise
            self._replace(found[0], found[3], view, columns)

    def _replace(self, oid: int, comment: str | None, view: sql.Composed, columns: Sequence[str]) -> None:
        """Drops the SQL view and makes it anew, with its grants and its comment."""
        name = sql.Identifier(self._name)
        grants = self._connection.execute(_GRANTS, {"oid": oid}).fetchall()
        try:
            with self._connection.transaction():
                self._connection.execute(sql.SQL("DROP VIEW {}").format(name))
        except psycopg.errors.DependentObjectsStillExist as error:
            raise StoreError(
                f"version {self._version} changes columns of {self._name!r} in {self._location}, on which others stand: "
                f"{error.diag.message_detail}; drop them, rebuild, and make them again"
            ) from error
        self._connection.execute(sql.SQL("CREATE ") + view)
        for privilege, column, grantee, role, grantable in grants:
            if column is not None and column not in columns:
                continue
            self._connection.execute(
                sql.SQL("GRANT {}{} ON {} TO {}{}").format(
                    sql.SQL(privilege),
                    sql.SQL("" if column is None else " ({})").format(sql.Identifier(column or "")),
                    name,
                    sql.SQL("PUBLIC") if grantee == 0 else sql.Identifier(role),
                    sql.SQL(" WITH GRANT OPTION" if grantable and grantee else ""),
                )
            )
        if comment:
            self._connection.execute(sql.SQL("COMMENT ON VIEW {} IS {}").format(name, sql.Literal(comment)))

    # -- Helpers -------------------------------------------------------------------------------------------------------

    def _lock_projection(self, patience: str) -> None:
        self._value("SELECT set_config('lock_timeout', %s, true)", patience)
        self._value("SELECT pg_advisory_xact_lock(%s)", lock_key((self._app, self._name)))

    def _value(self, statement: LiteralString, *parameters: Any) -> Any:
        row = self._connection.execute(statement, parameters).fetchone()
        return None if row is None else row[0]
