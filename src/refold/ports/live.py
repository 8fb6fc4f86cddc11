"""The ports that live running needs: claims, exactly-once commits, dead letters, and what people are told and may order.

What always holds, on every store: a projection's checkpoint, rows, deletes, seen versions and dead letters change in one
transaction, whose first statement compares the checkpoint's position and epoch and moves the position. So of two writers one
commits nothing, and an event is in the views exactly as often as in the checkpoint: once.
"""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Self

from refold.ports.letters import DeadLetter
from refold.ports.views import SeenRow, ViewRepository, ViewStore
from refold.view import Row, ViewSchema

__all__ = [
    "BatchWriter",
    "Changes",
    "Checkpoint",
    "Claims",
    "Database",
    "ProjectionStore",
    "Quarantined",
    "Snapshot",
    "Status",
    "Wanted",
]


class Status(enum.Enum):
    """How a projection stands. Written to its checkpoint, with since when and why, by whoever runs it."""

    NEW = "new"
    """It has no generation yet: nothing was ever built. (Never written: there is no row to write it to.)"""
    REBUILDING = "rebuilding"
    """Its first generation is being built, or another beside the one that readers see."""
    CATCHING_UP = "catching_up"
    """It reads what was published while it did not run."""
    LIVE = "live"
    """It is at the stream's head, or within moments of it."""
    DEGRADED = "degraded"
    """It is live, but for quarantined views."""
    PAUSED = "paused"
    """Somebody told it to pause."""
    FAULTED = "faulted"
    """It cannot go on without help; the reason says what to do."""
    STOPPED = "stopped"
    """Nobody runs it; it was ended in order."""


class Wanted(enum.Enum):
    """What people want of a projection; kept in its checkpoint, and obeyed by whoever runs it, now or later."""

    RUN = "run"
    PAUSE = "pause"
    REBUILD = "rebuild"
    """Build another generation from the beginning (``refold reset``)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One generation of a projection, and how far it is.

    Attributes:
        app, projection, version, generation: its key.
        table: its physical table.
        role: ``active`` (readers see it), ``rebuilding`` or ``retired``.
        fingerprint: of the fold that built it.
        stream: name of the stream; None before it was built.
        created: the stream's creation time, as the server writes it.
        position: the last stream sequence that its views include.
        anchor: what the stream had lately, as `refold.ports.anchor_of` gives it; None where it is not known.
        owner: who runs it now, or ran it last.
        epoch: rises with every claim and every order; a commit must know it.
        status: how it stands; since when, and why.
        since: since when it has been in that status.
        reason: why; empty where there is nothing to say.
        renewed: when its owner last gave a sign of life.
        wanted: what people want of it.
        skip: position of an event that somebody ordered to skip.
    """

    app: str
    projection: str
    version: int
    generation: int
    table: str
    role: str
    fingerprint: str | None = None
    stream: str | None = None
    created: str | None = None
    position: int = 0
    anchor: str | None = None
    owner: str | None = None
    epoch: int = 0
    status: Status = Status.STOPPED
    since: datetime | None = None
    reason: str = ""
    renewed: datetime | None = None
    wanted: Wanted = Wanted.RUN
    skip: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Quarantined:
    """A view that stays as it was: the position of the first event that it lacks, and why."""

    key: str
    position: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one batch changes in one projection: frozen, checked, final.

    Attributes:
        rows: to insert or replace, each key once.
        deleted: keys whose rows go; none of them in `rows`.
        seen: highest handled versions to keep.
        letters: dead letters. Those of kind FAILED quarantine their key.
    """

    rows: Sequence[Row] = ()
    deleted: Sequence[str] = ()
    seen: Sequence[SeenRow] = ()
    letters: Sequence[DeadLetter] = ()

    def __bool__(self) -> bool:
        return bool(self.rows or self.deleted or self.seen or self.letters)


class BatchWriter(ABC):
    """Commits batches of projections that are at one position, and reads what their folds need, on a connection of its own.

    An async context manager. Not for concurrent use. A lost connection is made anew by the next call.
    """

    @abstractmethod
    async def load(self, projection: str, keys: Collection[str]) -> dict[str, Row]:
        """Rows by key, as they were frozen; keys that have none are left out.

        Raises:
            StoreUnavailable, StoreBusy: try again.
            StoreError: anything else.
        """

    @abstractmethod
    async def load_seen(self, projection: str, aggregates: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Highest handled versions by (aggregate type, id); those never handled are left out.

        Raises: as `load`.
        """

    @abstractmethod
    async def commit(self, changes: Mapping[str, Changes], *, old: int, new: int, anchor: str | None) -> None:
        """Moves the checkpoints of all projections of this writer from one position to another, with their changes.

        One transaction, all or nothing. Calling it again with the same arguments is safe whatever became of the first
        call: what was committed is not committed again.

        Args:
            changes: by projection; one without changes may be left out.
            old: where the checkpoints are.
            new: where they go; at least `old`.
            anchor: the new anchor; None keeps the old one.

        Raises:
            ClaimLost: a checkpoint has another position, epoch, owner or role; nothing was changed.
            RowRefused: a row of a projection (both named in the error) that the database refuses; nothing was changed.
            ProjectionStoreError: another failure of one projection alone (named in the error), as of a table that is gone or
                locked; nothing was changed.
            StoreUnavailable, StoreBusy: try again; whether it was committed is not known, and does not matter for that.
            StoreError: anything else; nothing was changed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Closes the connection."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Claims(ABC):
    """What one process runs: the claims that it holds. An async context manager; leaving it lets go of them.

    A claim can be taken when nobody holds it, when its holder has died (its session with the database, or its lock file,
    tells), or when it was not renewed for a lease, by the database's clock. A process that was only asleep finds out with its
    next commit.
    """

    @property
    @abstractmethod
    def owner(self) -> str:
        """This holder: host, process id and a random part."""

    @abstractmethod
    async def take(self, projection: str, version: int) -> Checkpoint | None:
        """Claims the active generation of a version; its epoch rises.

        Returns:
            Its checkpoint; None where this version has no active generation.

        Raises:
            ClaimHeld: another process holds it.
            StoreUnavailable, StoreBusy, StoreError: see `BatchWriter.commit`.
        """

    @abstractmethod
    async def renew(self, projections: Collection[str]) -> Mapping[str, Checkpoint | None]:
        """Gives a sign of life for claimed projections, and tells how their checkpoints stand now.

        Returns:
            By projection. One that is held no more (another owner, epoch or role) is not renewed, and is given as it is; None
            where it is gone.
        """

    @abstractmethod
    async def report(self, projection: str, status: Status, reason: str = "") -> None:
        """Writes how a claimed projection stands, with the time; does nothing where the claim was lost."""

    @abstractmethod
    async def release(self, projection: str, status: Status, reason: str = "") -> None:
        """Lets a claim go, and says how and why; does nothing where it was lost."""

    @abstractmethod
    async def writer(self, schemas: Mapping[str, ViewSchema[Any]]) -> BatchWriter:
        """A writer for claimed projections, by name, with the schemas of their rows.

        Raises:
            SchemaMismatch: a table is not what its class says.
            StoreError: one of them is not claimed, or the database cannot be asked.
        """

    @abstractmethod
    async def quarantined(self, projection: str) -> Sequence[Quarantined]:
        """Quarantined views of a claimed projection."""

    @abstractmethod
    async def close(self) -> None:
        """Lets go of all claims (as `Status.STOPPED`) and closes the connection."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Snapshot(ABC):
    """Views of several projections as they are at one moment."""

    @property
    @abstractmethod
    def positions(self) -> Mapping[str, int]:
        """Position by projection."""

    @abstractmethod
    def repository(self, schema: ViewSchema[Any], name: str) -> ViewRepository[Any]:
        """The views of one of the projections; for reading alone."""


class ProjectionStore(ABC):
    """What a `ViewStore` offers beyond views: live running, and its management, from any process.

    Every order (`order`, `skip`, `resolve`) raises the epoch of the projection's active checkpoint in its transaction, so that
    whoever runs it notices at once: its next commit is refused, and it takes its checkpoint up anew.
    """

    @abstractmethod
    def claims(self, app: str, *, lease: float = 15.0) -> AbstractAsyncContextManager[Claims]:
        """The claims that this process will hold.

        Args:
            app: whose projections.
            lease: seconds after which a claim that was not renewed may be taken by another.
        """

    @abstractmethod
    async def generations(self, app: str, projection: str | None = None) -> Sequence[Checkpoint]:
        """Checkpoints of an app, or of one of its projections, ordered by projection, version and generation."""

    @abstractmethod
    async def positions(self, app: str, projections: Collection[str]) -> Mapping[str, int]:
        """Positions of active generations, by projection; those that have none are left out. Cheap: for waiting."""

    @abstractmethod
    async def order(self, app: str, projection: str, wanted: Wanted) -> Checkpoint | None:
        """Sets what is wanted of a projection. RUN also takes a faulted one up again.

        Returns:
            Its active checkpoint after that; None where there is none.
        """

    @abstractmethod
    async def skip(self, app: str, projection: str, position: int) -> Checkpoint | None:
        """Orders to pass over the event at a position, as `order` does."""

    @abstractmethod
    async def letters(
        self, app: str, projection: str | None = None, *, key: str | None = None, limit: int | None = None
    ) -> Sequence[DeadLetter]:
        """Dead letters of active generations, by projection and position."""

    @abstractmethod
    async def letter_counts(self, app: str) -> Mapping[str, tuple[int, int]]:
        """Dead letters and quarantined keys of active generations, by projection; those without any are left out."""

    @abstractmethod
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
        """Removes dead letters, lifts quarantines, and writes what came of the letters' events, in one transaction.

        Args:
            app: the application.
            projection: the projection.
            letters: to remove.
            lifted: keys whose quarantine ends.
            rows: to insert or replace.
            deleted: keys whose rows go.
            seen: highest handled versions to keep.
            schema: of the rows, where there are any.
            epoch: of the active checkpoint when the rows and letters were read.

        Raises:
            ClaimLost: the epoch is another, or a lifted key has letters that are not among these: read again, and decide anew.
            RowRefused, StoreError: nothing was changed.
        """

    @abstractmethod
    def snapshot(self, app: str, projections: Sequence[str]) -> AbstractAsyncContextManager[Snapshot]:
        """Several projections' views and positions in one read-only transaction (repeatable read)."""


class Database(ViewStore, ProjectionStore, ABC):
    """A store that offers both, as all of refold's do."""
