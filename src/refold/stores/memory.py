"""Views in this process's memory: for tests and trials. It keeps the contract of the databases, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from refold.clock import Clock, SystemClock
from refold.errors import RowRefused, StoreError
from refold.ports.letters import DeadLetter
from refold.ports.live import Changes, Checkpoint, Claims, Database, Snapshot, Status, Wanted
from refold.ports.views import GenerationWriter, SeenRow, ViewRepository
from refold.stores.catalog import compare_columns, describe, lost, owner, stranger
from refold.stores.claiming import claim_lost, epoch_moved, letters_came, stands_at
from refold.stores.memorylive import MemoryClaims, MemorySnapshot
from refold.stores.memorytables import Generation, MemoryTables
from refold.stores.memoryviews import MemoryRepository
from refold.stores.names import check_name
from refold.view import Row, View, ViewSchema

__all__ = ["MemoryStore"]

V = TypeVar("V", bound=View)


class MemoryStore(MemoryTables, Database):
    """A `Database` that forgets everything with the process. For one event loop.

    Tests derive from it to have failures where they want them: `commit` is the whole of a writer's commit, `check_rows` may
    refuse rows as a database would, and `end_life` is the death of a process.

    Args:
        clock: by which claims expire.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock or SystemClock())

    @property
    def location(self) -> str:
        """Where the data lies."""
        return "memory"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    # -- Views ---------------------------------------------------------------------------------------------------------

    def repository(self, schema: ViewSchema[V], name: str) -> ViewRepository[V]:
        """The views under a name."""
        check_name(name)
        return MemoryRepository(schema, lambda: self.find(name, schema))

    async def create_table(self, schema: ViewSchema[Any], name: str) -> None:
        """Makes a plain table, unless it is there."""
        columns, _ = self.plain.setdefault(check_name(name), (describe(schema), {}))
        compare_columns(columns, schema, name)

    async def begin_generation(self, schema: ViewSchema[Any], *, app: str, name: str, version: int) -> GenerationWriter:
        """Makes the table of a new generation."""
        if check_name(name) in self.plain:
            raise StoreError(f"memory has a table {name!r} already; rename it or the projection")
        others = [g for g in self.generations_of(name) if g.checkpoint.app != app]
        if others:
            raise stranger(name, others[0].checkpoint.app, self.location)
        active = self.active(app, name)
        if active is not None and active.checkpoint.version == version:
            compare_columns(active.columns, schema, active.checkpoint.table)
        return _MemoryWriter(self, self.begin(schema, app, name, version, owner()))

    async def checkpoints(self, app: str) -> Sequence[Mapping[str, Any]]:
        """Checkpoints of an app."""
        return [generation.as_row() for generation in self.generations_in_order(app)]

    # -- Live running: what tests may make fail --------------------------------------------------------------------------

    def check_rows(self, projection: str, rows: Sequence[Row]) -> None:
        """Raises `RowRefused` for rows that a live commit may not write; here, never."""

    def _check_rows(self, projection: str, rows: Sequence[Row]) -> None:
        try:
            self.check_rows(projection, rows)
        except RowRefused as error:
            raise RowRefused(str(error), projection=projection, key=error.key) from error

    async def commit(
        self,
        claims: Mapping[str, Checkpoint],
        changes: Mapping[str, Changes],
        *,
        old: int,
        new: int,
        anchor: str | None,
    ) -> None:
        """See `BatchWriter.commit`.

        Args:
            claims: the checkpoints as they were when the writer was made, by projection.
            changes: see there; as are the rest.
        """
        found = {name: self.of(claim) for name, claim in claims.items()}
        stands = {name: None if g is None else g.checkpoint for name, g in found.items()}
        if not all(stands_at(claim, stands[name], old) for name, claim in claims.items()):
            if all(stands_at(claim, stands[name], new) for name, claim in claims.items()):
                return
            raise claim_lost(claims, stands, old, new)
        for name, change in changes.items():
            self._check_rows(name, change.rows)
        for name, generation in found.items():
            if generation is not None:  # as all are
                generation.move(new, anchor, self.now())
                generation.apply(changes.get(name, Changes()), self.now())

    # -- Live running ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def claims(self, app: str, *, lease: float = 15.0) -> AsyncIterator[Claims]:
        """The claims that this process will hold."""
        async with MemoryClaims(self, app, lease) as claims:
            yield claims

    async def generations(self, app: str, projection: str | None = None) -> Sequence[Checkpoint]:
        """Checkpoints of an app."""
        found = self.generations_in_order(app)
        return [g.checkpoint for g in found if projection in (None, g.checkpoint.projection)]

    async def positions(self, app: str, projections: Collection[str]) -> Mapping[str, int]:
        """Positions of active generations."""
        found = {name: self.active(app, name) for name in projections}
        return {name: generation.checkpoint.position for name, generation in found.items() if generation is not None}

    async def order(self, app: str, projection: str, wanted: Wanted) -> Checkpoint | None:
        """Sets what is wanted of a projection."""
        return self._order(app, projection, recover=wanted is Wanted.RUN, wanted=wanted)

    async def skip(self, app: str, projection: str, position: int) -> Checkpoint | None:
        """Orders to pass over the event at a position."""
        return self._order(app, projection, recover=True, skip=position)

    def _order(self, app: str, projection: str, *, recover: bool, **orders: Any) -> Checkpoint | None:
        generation = self.active(app, projection)
        if generation is None:
            return None
        if recover and generation.checkpoint.status is Status.FAULTED:
            orders |= {"status": Status.STOPPED, "reason": "", "since": self.now()}
        return generation.set(epoch=generation.checkpoint.epoch + 1, **orders)

    async def letters(
        self, app: str, projection: str | None = None, *, key: str | None = None, limit: int | None = None
    ) -> Sequence[DeadLetter]:
        """Dead letters of active generations."""
        found = [
            letter
            for generation in self.generations_in_order(app)
            if generation.checkpoint.role == "active" and projection in (None, generation.checkpoint.projection)
            for _, letter in sorted(generation.letters.items())
            if key in (None, letter.key)
        ]
        return found[:limit]

    async def letter_counts(self, app: str) -> Mapping[str, tuple[int, int]]:
        """Dead letters and quarantined keys of active generations."""
        active = [g for g in self.generations_in_order(app) if g.checkpoint.role == "active"]
        return {
            g.checkpoint.projection: (len(g.letters), len(g.quarantined)) for g in active if g.letters or g.quarantined
        }

    async def resolve(
        self,
        app: str,
        projection: str,
        letters: Sequence[DeadLetter],
        *,
        lifted: Sequence[str] = (),
        rows: Sequence[Row] = (),
        deleted: Sequence[str] = (),
        seen: Sequence[SeenRow] = (),
        schema: ViewSchema[Any] | None = None,
        epoch: int,
    ) -> None:
        """Removes dead letters, lifts quarantines, and writes what came of the letters' events."""
        generation = self.active(app, projection)
        if generation is None or generation.checkpoint.epoch != epoch:
            raise epoch_moved(projection, epoch, None if generation is None else generation.checkpoint.epoch)
        if schema is not None:
            compare_columns(generation.columns, schema, generation.checkpoint.table)
        given = {(letter.position, letter.key) for letter in letters}
        for _, key in generation.letters.keys() - given:
            if key in lifted:
                raise letters_came(projection, key)
        self._check_rows(projection, rows)
        generation.set(epoch=epoch + 1)
        generation.apply(Changes(rows=rows, deleted=deleted, seen=seen), self.now())
        generation.resolve(letters, lifted)

    @asynccontextmanager
    async def snapshot(self, app: str, projections: Sequence[str]) -> AsyncIterator[Snapshot]:
        """Copies of several projections' views and positions."""
        yield MemorySnapshot({name: self.active(app, name) for name in projections})


class _MemoryWriter(GenerationWriter):
    def __init__(self, store: MemoryStore, generation: Generation) -> None:
        self._store = store
        self._generation = generation
        self._published = False

    @property
    def table(self) -> str:
        return self._generation.checkpoint.table

    async def insert(self, rows: Sequence[Row]) -> None:
        table = self._generation.rows
        for row in rows:
            if row[0] in table:
                raise RowRefused(f"key {row[0]!r} is there already", key=row[0])
        table.update((row[0], row) for row in rows)

    async def upsert(self, rows: Sequence[Row], deleted: Sequence[str] = ()) -> None:
        self._generation.apply(Changes(rows=rows, deleted=deleted), self._store.now())

    async def load(self, keys: Collection[str]) -> dict[str, Row]:
        return self._generation.load(keys)

    async def record(self, letters: Sequence[DeadLetter]) -> None:
        self._generation.apply(Changes(letters=letters), self._store.now())

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
        if self._store.of(self._generation.checkpoint) is None:
            raise lost(self.table)
        self._generation.apply(Changes(seen=seen), self._store.now())
        self._generation.set(stream=stream, created=created, position=position, fingerprint=fingerprint, anchor=anchor)
        self._store.show(self._generation)
        self._published = True

    async def abandon(self) -> None:
        if not self._published:
            self._store.drop(self._generation)
