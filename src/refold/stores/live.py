"""Checkpoints, dead letters and quarantines in refold's own tables, the same on every SQL database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from refold.errors import ClaimLost
from refold.ports.letters import DeadLetter, LetterKind
from refold.ports.live import Checkpoint, Quarantined, Status, Wanted
from refold.ports.views import SeenRow
from refold.stores.catalog import seen_rows
from refold.stores.claiming import epoch_moved, highest_seen, letters_came
from refold.stores.letters import letter_rows, quarantined_rows, storable
from refold.stores.tables import Catalog

__all__ = ["GenerationKey", "LiveCatalog", "checkpoint_of", "key_of", "missing_columns"]

GenerationKey = tuple[str, str, int, int]
"""App, projection, version and generation."""

_KEY = ("app", "projection", "version", "generation")


def key_of(checkpoint: Checkpoint) -> GenerationKey:
    """The key of a checkpoint's generation."""
    return checkpoint.app, checkpoint.projection, checkpoint.version, checkpoint.generation


def checkpoint_of(row: sa.RowMapping) -> Checkpoint:
    """A row of ``refold_checkpoints``; what older versions did not write is as it was then."""
    role = row["state"]
    before = Status.REBUILDING if role == "rebuilding" else Status.STOPPED
    return Checkpoint(
        app=row["app"],
        projection=row["projection"],
        version=row["version"],
        generation=row["generation"],
        table=row["table_name"],
        role=role,
        fingerprint=row["fingerprint"],
        stream=row["stream"],
        created=row["stream_created"],
        position=row["position"],
        anchor=row["anchor"],
        owner=row["owner"],
        epoch=row["epoch"],
        status=before if row["status"] is None else Status(row["status"]),
        since=row["since"] if row["status_since"] is None else row["status_since"],
        reason=row["reason"] or "",
        renewed=row["renewed"],
        wanted=Wanted.RUN if row["wanted"] is None else Wanted(row["wanted"]),
        skip=row["skip"],
    )


class LiveCatalog:
    """Statements on refold's own tables; every call runs in the transaction of the connection that it is given.

    Args:
        catalog: the tables.
        is_sqlite: whether they are in SQLite.
    """

    def __init__(self, catalog: Catalog, *, is_sqlite: bool) -> None:
        self.tables = catalog
        self.now: sa.ColumnElement[dt.datetime] = (
            sa.literal_column("strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')", type_=catalog.checkpoints.c.since.type)
            if is_sqlite
            else sa.func.clock_timestamp(type_=catalog.checkpoints.c.since.type)
        )
        self._insert: Callable[[sa.Table], Any] = sqlite.insert if is_sqlite else postgresql.insert
        self._greatest = sa.func.max if is_sqlite else sa.func.greatest

    # -- Checkpoints -----------------------------------------------------------------------------------------------------

    def checkpoints(self, connection: sa.Connection, app: str, projection: str | None = None) -> list[Checkpoint]:
        """Checkpoints of an app or of one projection, in order."""
        table = self.tables.checkpoints
        query = sa.select(table).where(table.c.app == app)
        if projection is not None:
            query = query.where(table.c.projection == projection)
        query = query.order_by(*(table.c[name] for name in _KEY[1:]))
        return [checkpoint_of(row) for row in connection.execute(query).mappings()]

    def active(
        self, connection: sa.Connection, app: str, projections: Collection[str]
    ) -> dict[str, tuple[Checkpoint, str, dt.datetime]]:
        """Active checkpoints by projection, with their columns and the database's time."""
        table = self.tables.checkpoints
        query = sa.select(table, self.now.label("now")).where(
            table.c.app == app, table.c.projection.in_(list(projections)), table.c.state == "active"
        )
        rows = connection.execute(query).mappings()
        return {row["projection"]: (checkpoint_of(row), row["columns"], row["now"]) for row in rows}

    def of(self, connection: sa.Connection, keys: Collection[GenerationKey]) -> dict[str, Checkpoint]:
        """Checkpoints of generations, by projection; those that are gone are left out."""
        if not keys:
            return {}
        table = self.tables.checkpoints
        query = sa.select(table).where(sa.or_(*(self._is(table, key) for key in keys)))
        return {row["projection"]: checkpoint_of(row) for row in connection.execute(query).mappings()}

    def positions(self, connection: sa.Connection, app: str, projections: Collection[str]) -> dict[str, int]:
        """Positions of active generations, by projection."""
        table = self.tables.checkpoints
        query = sa.select(table.c.projection, table.c.position).where(
            table.c.app == app, table.c.projection.in_(list(projections)), table.c.state == "active"
        )
        return {row[0]: row[1] for row in connection.execute(query)}

    def order(
        self, connection: sa.Connection, app: str, projection: str, *, recover: bool, **values: Any
    ) -> Checkpoint | None:
        """Changes the active checkpoint of a projection, and raises its epoch.

        Args:
            connection: within a transaction.
            app: the application.
            projection: the projection.
            recover: whether one that is faulted is to be tried again.
            values: what to change, by column.
        """
        table = self.tables.checkpoints
        values["epoch"] = table.c.epoch + 1
        if recover:
            faulted = table.c.status == Status.FAULTED.value
            values["status"] = sa.case((faulted, Status.STOPPED.value), else_=table.c.status)
            values["status_since"] = sa.case((faulted, self.now), else_=table.c.status_since)
            values["reason"] = sa.case((faulted, None), else_=table.c.reason)
        is_active = (table.c.app == app, table.c.projection == projection, table.c.state == "active")
        connection.execute(sa.update(table).where(*is_active).values(values))
        found = self.active(connection, app, [projection]).get(projection)
        return None if found is None else found[0]

    # -- Claims ----------------------------------------------------------------------------------------------------------

    def take(self, connection: sa.Connection, found: Checkpoint, owner: str) -> bool:
        """Makes a checkpoint that of an owner, unless it has changed since it was found."""
        table = self.tables.checkpoints
        unchanged = (self._is(table, key_of(found)), table.c.state == "active", table.c.epoch == found.epoch)
        values = {"owner": owner, "epoch": table.c.epoch + 1, "renewed": self.now}
        return connection.execute(sa.update(table).where(*unchanged).values(values)).rowcount == 1

    def renew(self, connection: sa.Connection, claims: Collection[Checkpoint]) -> dict[str, Checkpoint]:
        """A sign of life for claims that still hold; gives how their checkpoints stand, those that are gone left out."""
        if not claims:
            return {}
        table = self.tables.checkpoints
        held = [
            sa.and_(self._is(table, key_of(claim)), table.c.owner == claim.owner, table.c.epoch == claim.epoch)
            for claim in claims
        ]
        connection.execute(sa.update(table).where(sa.or_(*held), table.c.state == "active").values(renewed=self.now))
        return self.of(connection, [key_of(claim) for claim in claims])

    def report(
        self, connection: sa.Connection, claim: Checkpoint, status: Status, reason: str, *, release: bool
    ) -> None:
        """Writes how a claimed projection stands; does nothing where another has it."""
        table = self.tables.checkpoints
        mine = (self._is(table, key_of(claim)), table.c.owner == claim.owner, table.c.state == "active")
        same = table.c.status == status.value
        values: dict[str, Any] = {
            "status": status.value,
            "reason": reason or None,
            "status_since": sa.case((same, table.c.status_since), else_=self.now),
        }
        if release:
            values["epoch"] = table.c.epoch + 1
        connection.execute(sa.update(table).where(*mine).values(values))

    def quarantined(self, connection: sa.Connection, key: GenerationKey) -> list[Quarantined]:
        """Quarantined views of a generation."""
        table = self.tables.quarantined
        query = sa.select(table.c.key, table.c.position, table.c.reason).where(self._is(table, key))
        return [Quarantined(*row) for row in connection.execute(query.order_by(table.c.key))]

    # -- Dead letters ----------------------------------------------------------------------------------------------------

    def letters(
        self, connection: sa.Connection, app: str, projection: str | None, key: str | None, limit: int | None
    ) -> list[DeadLetter]:
        """Dead letters of active generations, by projection, position and key."""
        table = self.tables.letters
        query = sa.select(table).where(table.c.app == app, self._is_active(table))
        if projection is not None:
            query = query.where(table.c.projection == projection)
        if key is not None:
            query = query.where(table.c.key == storable(key))
        query = query.order_by(table.c.projection, table.c.position, table.c.key).limit(limit)
        return [
            DeadLetter(
                projection=row["projection"],
                position=row["position"],
                key=row["key"],
                kind=LetterKind(row["kind"]),
                reason=row["reason"],
                subject=row["subject"],
                headers=row["headers"],
                body=row["body"],
                recorded=row["recorded"],
            )
            for row in connection.execute(query).mappings()
        ]

    def letter_counts(self, connection: sa.Connection, app: str) -> dict[str, tuple[int, int]]:
        """Numbers of dead letters and of quarantined keys, by projection."""
        letters, quarantined = (
            {row[0]: row[1] for row in connection.execute(self._counted(table, app))}
            for table in (self.tables.letters, self.tables.quarantined)
        )
        names = sorted({*letters, *quarantined})
        return {name: (letters.get(name, 0), quarantined.get(name, 0)) for name in names}

    def record(self, connection: sa.Connection, letters: Sequence[tuple[GenerationKey, Sequence[DeadLetter]]]) -> None:
        """Adds dead letters of generations, and the quarantines that come of them; those that are there stay."""
        table, other = self.tables.letters, self.tables.quarantined
        rows = [dict(zip(table.c.keys(), row, strict=False)) for key, some in letters for row in letter_rows(key, some)]
        if rows:
            statement = self._insert(table).values(recorded=self.now).on_conflict_do_nothing()
            connection.execute(statement, rows)
        names = other.c.keys()
        kept = [dict(zip(names, row, strict=True)) for key, some in letters for row in quarantined_rows(key, some)]
        if kept:
            connection.execute(self._insert(other).on_conflict_do_nothing(), kept)

    def resolve(
        self,
        connection: sa.Connection,
        key: GenerationKey,
        letters: Sequence[DeadLetter],
        lifted: Sequence[str],
        seen: Sequence[SeenRow],
    ) -> None:
        """Removes dead letters and quarantines, and keeps what was seen.

        Raises:
            ClaimLost: a view whose quarantine is to end has other letters.
        """
        table, other = self.tables.letters, self.tables.quarantined
        for letter in letters:
            one = (table.c.position == letter.position, table.c.key == storable(letter.key))
            connection.execute(sa.delete(table).where(self._is(table, key), *one))
        for name in lifted:
            left = sa.select(table.c.position).where(self._is(table, key), table.c.key == storable(name)).limit(1)
            if connection.execute(left).first() is not None:
                raise letters_came(key[1], name)
            connection.execute(sa.delete(other).where(self._is(other, key), other.c.key == storable(name)))
        self.keep_seen(connection, [(key, seen)])

    def keep_seen(self, connection: sa.Connection, seen: Sequence[tuple[GenerationKey, Sequence[SeenRow]]]) -> None:
        """Keeps highest handled versions of generations; higher ones that are there stay."""
        table = self.tables.seen
        rows: list[dict[str, Any]] = []
        for key, some in seen:
            highest = [(*aggregate, version) for aggregate, version in highest_seen(some).items()]
            rows += [dict(zip(table.c.keys(), row, strict=True)) for row in seen_rows(key, highest)]
        if rows:
            statement = self._insert(table)
            version = self._greatest(table.c.version, statement.excluded.version)
            connection.execute(
                statement.on_conflict_do_update(index_elements=table.primary_key, set_={"version": version}), rows
            )

    def claim_epoch(self, connection: sa.Connection, app: str, projection: str, epoch: int) -> Checkpoint:
        """Raises the epoch of the active checkpoint, where it is the one that is expected; gives the checkpoint.

        Raises:
            ClaimLost: it is another, or there is none.
        """
        before = self.active(connection, app, [projection]).get(projection)
        table = self.tables.checkpoints
        raised = 0
        if before is not None and before[0].epoch == epoch:
            same = (self._is(table, key_of(before[0])), table.c.state == "active", table.c.epoch == epoch)
            raised = connection.execute(sa.update(table).where(*same).values(epoch=epoch + 1)).rowcount
        if before is None or not raised:
            raise self._moved(connection, app, projection, epoch)
        return before[0]

    # -- Helpers ---------------------------------------------------------------------------------------------------------

    def _moved(self, connection: sa.Connection, app: str, projection: str, epoch: int) -> ClaimLost:
        now = self.active(connection, app, [projection]).get(projection)
        return epoch_moved(projection, epoch, None if now is None else now[0].epoch)

    def _is(self, table: sa.Table, key: GenerationKey) -> sa.ColumnElement[bool]:
        return sa.and_(*(table.c[name] == value for name, value in zip(_KEY, key, strict=True)))

    def _is_active(self, table: sa.Table) -> sa.ColumnElement[bool]:
        checkpoints = self.tables.checkpoints
        same = (checkpoints.c[name] == table.c[name] for name in _KEY)
        return sa.exists().where(*same, checkpoints.c.state == "active")

    def _counted(self, table: sa.Table, app: str) -> sa.Executable:
        query = sa.select(table.c.projection, sa.func.count()).where(table.c.app == app, self._is_active(table))
        return query.group_by(table.c.projection)


def missing_columns(table: sa.Table, found: Mapping[str, Any]) -> list[sa.Column[Any]]:
    """Columns that a table of an older version lacks."""
    return [column for column in table.columns if column.name not in found]
