"""What a memory store holds: generations with their checkpoints, and plain tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from refold.clock import Clock
from refold.errors import StoreError
from refold.ports.letters import DeadLetter
from refold.ports.live import Changes, Checkpoint, Quarantined, Status, Wanted
from refold.stores.catalog import compare_columns, describe
from refold.stores.claiming import highest_seen
from refold.stores.letters import quarantining
from refold.stores.names import generation_table
from refold.view import Row, ViewSchema

__all__ = ["Generation", "MemoryTables"]


@dataclasses.dataclass(slots=True)
class Generation:
    """One generation of a projection, with everything that goes when it is dropped.

    Attributes:
        checkpoint: its checkpoint; replaced whole by `set`.
        columns: of its rows, as `describe` gives them.
        changed: since when it has its role.
        rows: by key.
        seen: highest handled version by aggregate type and id.
        letters: by position and key.
        quarantined: by key.
    """

    checkpoint: Checkpoint
    columns: str
    changed: datetime
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    seen: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    letters: dict[tuple[int, str], DeadLetter] = dataclasses.field(default_factory=dict)
    quarantined: dict[str, Quarantined] = dataclasses.field(default_factory=dict)

    def set(self, **changes: Any) -> Checkpoint:
        """Changes the checkpoint, and gives it."""
        self.checkpoint = dataclasses.replace(self.checkpoint, **changes)
        return self.checkpoint

    def move(self, position: int, anchor: str | None, now: datetime) -> None:
        """Moves the checkpoint; an order to skip is done with once it is passed."""
        stays = self.checkpoint.skip is not None and self.checkpoint.skip > position
        self.set(
            position=position,
            anchor=self.checkpoint.anchor if anchor is None else anchor,
            renewed=now,
            skip=self.checkpoint.skip if stays else None,
        )

    def apply(self, changes: Changes, now: datetime) -> None:
        """Writes a batch's changes."""
        for key in changes.deleted:
            self.rows.pop(key, None)
        self.rows.update((row[0], row) for row in changes.rows)
        for aggregate, version in highest_seen(changes.seen).items():
            self.seen[aggregate] = max(version, self.seen.get(aggregate, version))
        for letter in changes.letters:
            recorded = dataclasses.replace(letter, projection=self.checkpoint.projection, recorded=now)
            self.letters.setdefault((letter.position, letter.key), recorded)
        for key, letter in quarantining(changes.letters).items():
            self.quarantined.setdefault(key, Quarantined(key, letter.position, letter.reason))

    def resolve(self, letters: Sequence[DeadLetter], lifted: Sequence[str]) -> None:
        """Removes dead letters, and lifts quarantines."""
        for letter in letters:
            self.letters.pop((letter.position, letter.key), None)
        for key in lifted:
            self.quarantined.pop(key, None)

    def load(self, keys: Collection[str]) -> dict[str, Row]:
        """Rows by key."""
        return {key: self.rows[key] for key in keys if key in self.rows}

    def as_row(self) -> dict[str, Any]:
        """Its row of ``refold_checkpoints``."""
        c = self.checkpoint
        return {
            "app": c.app,
            "projection": c.projection,
            "version": c.version,
            "generation": c.generation,
            "partition": 0,
            "table_name": c.table,
            "columns": self.columns,
            "fingerprint": c.fingerprint,
            "stream": c.stream,
            "stream_created": c.created,
            "position": c.position,
            "anchor": c.anchor,
            "owner": c.owner,
            "epoch": c.epoch,
            "state": c.role,
            "since": self.changed,
            "renewed": c.renewed,
            "status": c.status.value,
            "status_since": c.since,
            "reason": c.reason,
            "wanted": c.wanted.value,
            "skip": c.skip,
        }


class MemoryTables:
    """Plain tables and generations, by name.

    Args:
        clock: what time it is.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.plain: dict[str, tuple[str, dict[str, Row]]] = {}
        self._generations: dict[str, Generation] = {}
        self._lives: set[tuple[str, str]] = set()

    def now(self) -> datetime:
        """The time now."""
        return self._clock.now()

    def find(self, name: str, schema: ViewSchema[Any]) -> dict[str, Row]:
        """The rows that are shown under a name."""
        shown = next((g for g in self.generations_of(name) if g.checkpoint.role == "active"), None)
        if shown is not None:
            columns, rows = shown.columns, shown.rows
        elif name in self.plain:
            columns, rows = self.plain[name]
        else:
            raise StoreError(f"memory has no views {name!r}; rebuild the projection first")
        compare_columns(columns, schema, name)
        return rows

    # -- Generations -----------------------------------------------------------------------------------------------------

    def generations_of(self, name: str) -> list[Generation]:
        """Generations of a projection, of whatever app."""
        return [g for g in self._generations.values() if g.checkpoint.projection == name]

    def generations_in_order(self, app: str) -> list[Generation]:
        """Generations of an app, by projection, version and generation."""
        mine = [g for g in self._generations.values() if g.checkpoint.app == app]
        return sorted(mine, key=lambda g: (g.checkpoint.projection, g.checkpoint.version, g.checkpoint.generation))

    def active(self, app: str, name: str) -> Generation | None:
        """The active generation of a projection."""
        found = (g for g in self.generations_of(name) if g.checkpoint.role == "active" and g.checkpoint.app == app)
        return next(found, None)

    def of(self, checkpoint: Checkpoint) -> Generation | None:
        """The generation of a checkpoint; None where it is gone."""
        return self._generations.get(checkpoint.table)

    def begin(self, schema: ViewSchema[Any], app: str, name: str, version: int, owner: str) -> Generation:
        """Makes the next generation of a version."""
        numbers = [g.checkpoint.generation for g in self.generations_of(name) if g.checkpoint.version == version]
        number, now = 1 + max(numbers, default=0), self.now()
        table = generation_table(name, version, number)
        checkpoint = Checkpoint(
            app=app,
            projection=name,
            version=version,
            generation=number,
            table=table,
            role="rebuilding",
            owner=owner,
            status=Status.REBUILDING,
            since=now,
            renewed=now,
        )
        self._generations[table] = Generation(checkpoint, describe(schema), now)
        return self._generations[table]

    def show(self, generation: Generation) -> None:
        """Puts a generation in place, and drops all earlier ones but the last. An order to pause stays."""
        now = self.now()
        former = self.active(generation.checkpoint.app, generation.checkpoint.projection)
        for other in self.generations_of(generation.checkpoint.projection):
            if other.checkpoint.role == "retired" and former is not None:
                self.drop(other)
        wanted, epoch = Wanted.RUN, 0
        if former is not None:
            wanted = Wanted.PAUSE if former.checkpoint.wanted is Wanted.PAUSE else Wanted.RUN
            epoch = former.checkpoint.epoch + 1  # no order of the former generation is taken for one of this
            former.set(role="retired", status=Status.STOPPED, since=now, reason="")
            former.changed = now
        status = Status.STOPPED
        generation.set(role="active", status=status, since=now, reason="", renewed=now, wanted=wanted, epoch=epoch)
        generation.changed = now

    def drop(self, generation: Generation) -> None:
        """Drops a generation."""
        self._generations.pop(generation.checkpoint.table, None)

    # -- Signs of life ---------------------------------------------------------------------------------------------------

    def begin_life(self, projection: str, owner: str) -> None:
        """A holder of a claim gives its sign of life."""
        self._lives.add((projection, owner))

    def lives(self, projection: str, owner: str) -> bool:
        """Whether the holder of a claim lives."""
        return (projection, owner) in self._lives

    def end_life(self, owner: str, projection: str | None = None) -> None:
        """The sign of life of a holder ends, for one projection or for all, as if its process had died."""
        self._lives = {life for life in self._lives if life[1] != owner or projection not in (None, life[0])}
