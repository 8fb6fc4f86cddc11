"""Live running on views in this process's memory: claims, batch writers and snapshots."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from refold.errors import ProjectionStoreError, StoreError
from refold.ports.live import BatchWriter, Changes, Checkpoint, Claims, Quarantined, Snapshot, Status
from refold.ports.views import ViewRepository
from refold.stores.catalog import compare_columns
from refold.stores.claiming import claim_held, new_owner, not_claimed
from refold.stores.memorytables import Generation
from refold.stores.memoryviews import MemoryRepository
from refold.view import Row, ViewSchema

if TYPE_CHECKING:
    from refold.stores.memory import MemoryStore

__all__ = ["MemoryClaims", "MemorySnapshot"]


class MemoryClaims(Claims):
    """Claims in a memory store.

    Args:
        store: where they are.
        app: whose projections.
        lease: seconds for which a claim holds without a sign of life.
    """

    def __init__(self, store: MemoryStore, app: str, lease: float) -> None:
        self._store = store
        self._app = app
        self._lease = timedelta(seconds=lease)
        self._owner = new_owner()
        self._held: dict[str, Checkpoint] = {}

    @property
    def owner(self) -> str:
        return self._owner

    async def take(self, projection: str, version: int) -> Checkpoint | None:
        generation = self._store.active(self._app, projection)
        if generation is None or generation.checkpoint.version != version:
            return None
        found, now = generation.checkpoint, self._store.now()
        fresh = found.renewed is not None and now - found.renewed < self._lease
        lives = found.owner is not None and self._store.lives(projection, found.owner)
        if found.owner != self._owner and lives and fresh:
            raise claim_held(found)
        self._store.begin_life(projection, self._owner)
        self._held[projection] = generation.set(owner=self._owner, epoch=found.epoch + 1, renewed=now)
        return generation.checkpoint

    async def renew(self, projections: Collection[str]) -> Mapping[str, Checkpoint | None]:
        stands: dict[str, Checkpoint | None] = {}
        for name in projections:
            claim = self._claim(name)
            generation = self._store.of(claim)
            if generation is not None and _holds(claim, generation.checkpoint):
                self._store.begin_life(name, self._owner)
                generation.set(renewed=self._store.now())
            stands[name] = None if generation is None else generation.checkpoint
        return stands

    async def report(self, projection: str, status: Status, reason: str = "") -> None:
        generation = self._mine(projection)
        if generation is not None:
            same = generation.checkpoint.status is status
            since = generation.checkpoint.since if same else self._store.now()
            generation.set(status=status, reason=reason, since=since)

    async def release(self, projection: str, status: Status, reason: str = "") -> None:
        await self.report(projection, status, reason)
        generation = self._mine(projection)
        if generation is not None:
            generation.set(epoch=generation.checkpoint.epoch + 1)
        self._held.pop(projection, None)
        self._store.end_life(self._owner, projection)

    async def writer(self, schemas: Mapping[str, ViewSchema[Any]]) -> BatchWriter:
        claims = {name: self._claim(name) for name in schemas}
        for name, claim in claims.items():
            generation = self._store.of(claim)
            if generation is not None:
                compare_columns(generation.columns, schemas[name], claim.table)
        return _MemoryBatchWriter(self._store, claims)

    async def quarantined(self, projection: str) -> Sequence[Quarantined]:
        generation = self._store.of(self._claim(projection))
        return [] if generation is None else [q for _, q in sorted(generation.quarantined.items())]

    async def close(self) -> None:
        for name in list(self._held):
            await self.release(name, Status.STOPPED)

    def _claim(self, projection: str) -> Checkpoint:
        if projection not in self._held:
            raise not_claimed(projection)
        return self._held[projection]

    def _mine(self, projection: str) -> Generation | None:
        """The active generation of a claim, where nobody else has taken it since."""
        claim = self._held.get(projection)
        generation = None if claim is None else self._store.of(claim)
        if generation is None or (generation.checkpoint.owner, generation.checkpoint.role) != (self._owner, "active"):
            return None
        return generation


def _holds(claim: Checkpoint, found: Checkpoint) -> bool:
    return (found.owner, found.epoch, found.role) == (claim.owner, claim.epoch, "active")


class _MemoryBatchWriter(BatchWriter):
    def __init__(self, store: MemoryStore, claims: Mapping[str, Checkpoint]) -> None:
        self._store = store
        self._claims = claims

    async def load(self, projection: str, keys: Collection[str]) -> dict[str, Row]:
        return self._generation(projection).load(keys)

    async def load_seen(self, projection: str, aggregates: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        seen = self._generation(projection).seen
        return {aggregate: seen[aggregate] for aggregate in aggregates if aggregate in seen}

    async def commit(self, changes: Mapping[str, Changes], *, old: int, new: int, anchor: str | None) -> None:
        for name in changes:
            if name not in self._claims:
                raise not_claimed(name)
        await asyncio.sleep(0)  # others run meanwhile, as they do while a database commits
        await self._store.commit(self._claims, changes, old=old, new=new, anchor=anchor)

    async def close(self) -> None:
        pass

    def _generation(self, projection: str) -> Generation:
        if projection not in self._claims:
            raise not_claimed(projection)
        generation = self._store.of(self._claims[projection])
        if generation is None:
            table = self._claims[projection].table
            raise ProjectionStoreError(f"memory has no table {table!r} any more", projection=projection)
        return generation


class MemorySnapshot(Snapshot):
    """Copies of generations.

    Args:
        generations: by projection; those that have none are left out.
    """

    def __init__(self, generations: Mapping[str, Generation | None]) -> None:
        self._copies = {
            name: dataclasses.replace(generation, rows=dict(generation.rows))
            for name, generation in generations.items()
            if generation is not None
        }

    @property
    def positions(self) -> Mapping[str, int]:
        return {name: copy.checkpoint.position for name, copy in self._copies.items()}

    def repository(self, schema: ViewSchema[Any], name: str) -> ViewRepository[Any]:
        if name not in self._copies:
            raise StoreError(
                f"the snapshot has no views {name!r}: name the projection when it is taken, and rebuild it first"
            )
        copy = self._copies[name]
        compare_columns(copy.columns, schema, copy.checkpoint.table)
        return MemoryRepository(schema, lambda: copy.rows, writable=False)
