"""Claims in an SQL database: compare-and-set on the checkpoint, and a sign of life for each."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from refold.errors import StoreBusy, StoreError, StoreUnavailable
from refold.ports.live import BatchWriter, Checkpoint, Claims, Quarantined, Status
from refold.stores.catalog import compare_columns
from refold.stores.claiming import claim_held, new_owner, not_claimed
from refold.stores.letters import printable
from refold.stores.live import key_of
from refold.view import ViewSchema

if TYPE_CHECKING:
    from refold.stores.sqllive import SqlLiveStore

__all__ = ["SqlClaims"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ATTEMPTS: Final = 5


class SqlClaims(Claims):
    """Claims of one process in one database.

    Args:
        store: the database.
        app: whose projections.
        lease: seconds for which a claim holds without being renewed.
    """

    def __init__(self, store: SqlLiveStore, app: str, lease: float) -> None:
        self._store = store
        self._app = app
        self._lease = timedelta(seconds=lease)
        self._owner = new_owner()
        self._held: dict[str, Checkpoint] = {}

    # -- What each database does its own way -----------------------------------------------------------------------------

    @abstractmethod
    async def _run(self, call: Callable[[sa.Connection], T]) -> T:
        """Calls with a connection, on which the call's statements need not be one transaction."""

    @abstractmethod
    def _begin_life(self, connection: sa.Connection, projection: str) -> None:
        """Gives a sign of life for a projection, unless it is given already."""

    @abstractmethod
    def _end_life(self, connection: sa.Connection, projection: str) -> None:
        """Takes the sign of life for a projection away."""

    @abstractmethod
    def _lives(self, connection: sa.Connection, found: Checkpoint) -> bool:
        """Whether the owner of a checkpoint gives a sign of life."""

    @abstractmethod
    def _end_former(self, connection: sa.Connection, found: Checkpoint) -> None:
        """Ends what a former owner may have left open, so that it holds nobody up."""

    @abstractmethod
    def _make_writer(self, claims: Mapping[str, Checkpoint], schemas: Mapping[str, ViewSchema[Any]]) -> BatchWriter:
        """A writer for claims."""

    # -- The port --------------------------------------------------------------------------------------------------------

    @property
    def owner(self) -> str:
        return self._owner

    async def take(self, projection: str, version: int) -> Checkpoint | None:
        taken = await self._run(lambda connection: self._take(connection, projection, version))
        if taken is not None:
            self._held[projection] = taken
        return taken

    async def renew(self, projections: Collection[str]) -> Mapping[str, Checkpoint | None]:
        claims = {name: self._claim(name) for name in projections}
        stands = await self._run(lambda connection: self._store.live.renew(connection, claims.values()))
        return {name: stands.get(name) for name in claims}

    async def report(self, projection: str, status: Status, reason: str = "") -> None:
        claim = self._held.get(projection)
        if claim is not None:
            await self._run(lambda connection: self._report(connection, claim, status, reason, release=False))

    async def release(self, projection: str, status: Status, reason: str = "") -> None:
        claim = self._held.get(projection)
        if claim is None:
            return

        def release(connection: sa.Connection) -> None:
            self._report(connection, claim, status, reason, release=True)
            self._end_life(connection, projection)

        await self._run(release)
        self._held.pop(projection, None)

    async def writer(self, schemas: Mapping[str, ViewSchema[Any]]) -> BatchWriter:
        claims = {name: self._claim(name) for name in schemas}
        active = await self._run(lambda connection: self._store.live.active(connection, self._app, list(claims)))
        for name, (checkpoint, columns, _) in active.items():
            if key_of(checkpoint) == key_of(claims[name]):
                compare_columns(columns, schemas[name], checkpoint.table)
        return self._make_writer(claims, schemas)

    async def quarantined(self, projection: str) -> Sequence[Quarantined]:
        claim = self._claim(projection)
        return await self._run(lambda connection: self._store.live.quarantined(connection, key_of(claim)))

    async def close(self) -> None:
        for name in list(self._held):
            try:
                await self.release(name, Status.STOPPED)
            except StoreError as error:
                # Its sign of life ends all the same, so that anybody can take it.
                _log.warning("a claim could not be released", extra={"projection": name}, exc_info=True)
                if isinstance(error, StoreUnavailable):
                    break  # nor could the others be
        self._held.clear()

    # -- Within a call ---------------------------------------------------------------------------------------------------

    def _take(self, connection: sa.Connection, projection: str, version: int) -> Checkpoint | None:
        live = self._store.live
        for _ in range(_ATTEMPTS):
            found, _columns, now = live.active(connection, self._app, [projection]).get(projection, (None, "", None))
            if found is None or found.version != version:
                return None
            fresh = found.renewed is not None and now is not None and now - found.renewed < self._lease
            if found.owner not in (None, self._owner):
                if fresh and self._lives(connection, found):
                    raise claim_held(found)
                self._end_former(connection, found)
            self._begin_life(connection, projection)
            if live.take(connection, found, self._owner):
                return live.of(connection, [key_of(found)])[projection]
        raise StoreBusy(f"projection {projection!r} changes hands all the time: try again")

    def _report(
        self, connection: sa.Connection, claim: Checkpoint, status: Status, reason: str, *, release: bool
    ) -> None:
        self._store.live.report(connection, claim, status, printable(reason), release=release)

    def _claim(self, projection: str) -> Checkpoint:
        if projection not in self._held:
            raise not_claimed(projection)
        return self._held[projection]
