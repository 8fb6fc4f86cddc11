"""A database whose commits fail as told, around any of refold's stores; and a process that dies with them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, cast

from refold.errors import StoreBusy, StoreUnavailable
from refold.ports import BatchWriter, Changes, Claims, Database, GenerationWriter, Status
from refold.view import ViewSchema

__all__ = ["FATES", "Fate", "FaultyDatabase", "Schedule"]

Fate = Literal["ok", "busy", "lost before", "lost after", "crash before", "crash after"]
"""What becomes of a commit: it goes well; the database has no time; the connection is lost before it, or after it while its
outcome is not known; the process dies before it, or after it.
"""

FATES: Final[Sequence[Fate]] = ("ok", "busy", "lost before", "lost after", "crash before", "crash after")


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """How a history comes to a projector.

    Attributes:
        built: how many events are in the stream when the projection is built; the others come while it is live.
        cuts: how many messages are read at once, in turns.
        batch: how many messages a commit is about at most.
        fates: what becomes of commits, in order; those after the last go well.
    """

    built: int = 0
    cuts: tuple[int, ...] = (100,)
    batch: int = 100
    fates: tuple[Fate, ...] = ()


class _Died(Exception):
    """The process is gone."""


class FaultyDatabase:
    """A `Database` around another one. Everything but what is here goes to the other as it is.

    Args:
        inner: the other; open.
        fates: what becomes of commits.

    Attributes:
        died: set when the process that uses it is to die.
    """

    def __init__(self, inner: Database, fates: Sequence[Fate] = ()) -> None:
        self.died = asyncio.Event()
        self._inner = inner
        self._fates = list(fates)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def as_database(self) -> Database:
        """Itself, as what it stands for."""
        return cast("Database", self)

    def revive(self) -> None:
        """Another process begins."""
        self.died = asyncio.Event()

    def next_fate(self) -> Fate:
        """What becomes of the commit at hand.

        Raises:
            StoreBusy, StoreUnavailable: it was not done.
        """
        self.check()
        fate = self._fates.pop(0) if self._fates else "ok"
        if fate == "busy":
            raise StoreBusy("busy, as told")
        if fate == "lost before":
            raise StoreUnavailable("lost before the commit, as told")
        if fate == "crash before":
            self.die()
        return fate

    def end(self, fate: Fate) -> None:
        """The commit was done."""
        if fate == "lost after":
            raise StoreUnavailable("lost after the commit, as told")
        if fate == "crash after":
            self.die()

    def die(self) -> None:
        """The process dies here."""
        self.died.set()
        raise _Died

    def check(self) -> None:
        """A dead process does nothing."""
        if self.died.is_set():
            raise _Died

    # -- What is different from the other ------------------------------------------------------------------------------

    @asynccontextmanager
    async def claims(self, app: str, *, lease: float = 15.0) -> AsyncIterator[Claims]:
        """Claims that die with the process."""
        async with self._inner.claims(app, lease=lease) as inner:
            yield cast("Claims", _FaultyClaims(self, inner))

    async def begin_generation(self, schema: ViewSchema[Any], *, app: str, name: str, version: int) -> GenerationWriter:
        """A writer whose `publish` may be where the process dies."""
        self.check()
        inner = await self._inner.begin_generation(schema, app=app, name=name, version=version)
        return cast("GenerationWriter", _FaultyGeneration(self, inner))


class _FaultyGeneration:
    def __init__(self, database: FaultyDatabase, inner: GenerationWriter) -> None:
        self._database = database
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def publish(self, **rest: Any) -> None:
        # A rebuild whose database is away is begun anew after a pause: here, only death is of interest.
        try:
            fate = self._database.next_fate()
        except (StoreBusy, StoreUnavailable):
            fate = "ok"
        await self._inner.publish(**rest)
        if fate == "crash after":
            self._database.die()

    async def __aenter__(self) -> _FaultyGeneration:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self._inner.__aexit__(*details)


class _FaultyClaims:
    def __init__(self, database: FaultyDatabase, inner: Claims) -> None:
        self._database = database
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        self._database.check()
        return getattr(self._inner, name)

    async def release(self, projection: str, status: Status, reason: str = "") -> None:
        if not self._database.died.is_set():  # the dead let go of nothing
            await self._inner.release(projection, status, reason)

    async def writer(self, schemas: Mapping[str, ViewSchema[Any]]) -> BatchWriter:
        self._database.check()
        return _FaultyWriter(self._database, await self._inner.writer(schemas))


class _FaultyWriter(BatchWriter):
    def __init__(self, database: FaultyDatabase, inner: BatchWriter) -> None:
        self._database = database
        self._inner = inner

    async def load(self, projection: str, keys: Any) -> Any:
        self._database.check()
        return await self._inner.load(projection, keys)

    async def load_seen(self, projection: str, aggregates: Any) -> Any:
        self._database.check()
        return await self._inner.load_seen(projection, aggregates)

    async def commit(self, changes: Mapping[str, Changes], *, old: int, new: int, anchor: str | None) -> None:
        fate = self._database.next_fate()
        await self._inner.commit(changes, old=old, new=new, anchor=anchor)
        self._database.end(fate)

    async def close(self) -> None:
        await self._inner.close()
