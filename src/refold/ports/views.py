"""The ports to databases: repositories of views for readers and writers, and stores that rebuilds write into."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from refold.ports.letters import DeadLetter
from refold.view import Row, View, ViewSchema

__all__ = ["Condition", "GenerationWriter", "Operator", "Order", "Page", "SeenRow", "ViewRepository", "ViewStore"]

V = TypeVar("V", bound=View)

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "is null", "is not null"]

SeenRow = tuple[str, str, int]
"""Aggregate type, aggregate id, and the highest version of it that a projection has handled."""


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a field: ``Condition("total", ">", Decimal(10))``. Comparing with null is never true.

    Attributes:
        field: the view's field; JSON fields take only the two null operators.
        operator: how to compare.
        value: what with; a collection for ``in``; left out for the null operators.
    """

    field: str
    operator: Operator
    value: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """One sort key. Nulls come last in either direction; equal rows are ordered by id.

    Attributes:
        field: the view's field, of any kind but JSON.
        descending: largest first.
    """

    field: str
    descending: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[V]):
    """Part of a result.

    Attributes:
        items: the views of this page.
        total: how many views there are on all pages.
        offset: how many come before this page.
        limit: how many a page holds at most.
    """

    items: Sequence[V]
    total: int
    offset: int
    limit: int

    @property
    def has_more(self) -> bool:
        """Whether there is a page after this one."""
        return self.offset + len(self.items) < self.total


class ViewRepository(ABC, Generic[V]):
    """The rows of one view's table. Every call is one transaction.

    All methods raise `StoreError` (`StoreUnavailable` where the database cannot be reached), `SchemaMismatch` where table
    and class differ, and `DefinitionError` for a field that the view does not have or that cannot be compared.
    """

    @abstractmethod
    async def save(self, view: V) -> None:
        """Inserts the view, or replaces the one of its id.

        Raises:
            RowRefused: a value that its column cannot hold.
        """

    @abstractmethod
    async def save_batch(self, views: Sequence[V]) -> None:
        """Inserts or replaces several, all or none. The last one wins where an id comes twice.

        Raises:
            RowRefused: a value that its column cannot hold.
        """

    @abstractmethod
    async def find_by_id(self, key: str) -> V | None:
        """The view of an id; None where there is none."""

    @abstractmethod
    async def find_by_ids(self, keys: Collection[str]) -> dict[str, V]:
        """The views of those of the ids that exist, by id."""

    @abstractmethod
    async def find(
        self,
        *conditions: Condition,
        order_by: Sequence[Order] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[V]:
        """Views that meet every condition; ordered by id where nothing else is said."""

    @abstractmethod
    async def count(self, *conditions: Condition) -> int:
        """How many views meet every condition."""

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Removes the view of an id; False where there is none."""

    @abstractmethod
    async def delete_batch(self, keys: Collection[str]) -> int:
        """Removes the views of ids, all or none; how many there were."""

    async def find_all(self, *, order_by: Sequence[Order] = (), limit: int | None = None, offset: int = 0) -> list[V]:
        """Every view."""
        return await self.find(order_by=order_by, limit=limit, offset=offset)

    async def find_by_field(self, field: str, value: Any) -> list[V]:
        """Views whose field equals a value; None finds nulls."""
        return await self.find(Condition(field, "is null") if value is None else Condition(field, "=", value))

    async def page(
        self, *conditions: Condition, order_by: Sequence[Order] = (), limit: int = 50, offset: int = 0
    ) -> Page[V]:
        """One page of the views that meet every condition, with their total."""
        items = await self.find(*conditions, order_by=order_by, limit=limit, offset=offset)
        return Page(items, await self.count(*conditions), offset, limit)

    async def exists(self, key: str) -> bool:
        """Whether there is a view of that id."""
        return await self.count(Condition("id", "=", key)) > 0


class GenerationWriter(ABC):
    """Writes one new generation of a projection's views, beside the one that readers see.

    Not for concurrent use. Rows are taken as frozen and checked (`refold.cells.refusals`). Nothing that it writes is seen
    under the plain name before `publish`, which puts all of it in place at once; leaving without it drops the generation.
    Leaving after it collects statistics where the database has them, and drops earlier generations but the last.
    """

    @property
    @abstractmethod
    def table(self) -> str:
        """Name of the physical table, ``{name}__v{version}g{generation}``."""

    @abstractmethod
    async def insert(self, rows: Sequence[Row]) -> None:
        """Adds rows whose keys this generation never had, the fast way.

        Raises:
            RowRefused: the database refuses a row; then none of these rows is in.
            StoreError: anything else.
        """

    @abstractmethod
    async def upsert(self, rows: Sequence[Row], deleted: Sequence[str] = ()) -> None:
        """Adds or replaces rows, and removes keys, in one transaction. Each key comes once.

        Raises:
            RowRefused: the database refuses a row; then nothing of this call is in.
        """

    @abstractmethod
    async def load(self, keys: Collection[str]) -> dict[str, Row]:
        """Rows of this generation by key, as they were frozen."""

    @abstractmethod
    async def record(self, letters: Sequence[DeadLetter]) -> None:
        """Keeps dead letters of this generation; they go with it, or come with it."""

    @abstractmethod
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
        """Builds the secondary indexes, records the checkpoint and puts the generation in place, for readers at once.

        Args:
            stream: the stream that was folded.
            created: its creation time, as the server writes it.
            position: the last sequence that the views include.
            fingerprint: of the projector's fold, to notice a changed one.
            seen: highest handled version of aggregates, where the rows do not tell it.
            anchor: `refold.ports.anchor_of` the last message read.

        Raises:
            StoreError: readers see what they saw before.
        """

    @abstractmethod
    async def abandon(self) -> None:
        """Drops what was written; after `publish`, only tidies up."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.abandon()


class ViewStore(ABC):
    """A database of views. An async context manager: it connects on entering and closes on leaving."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the data lies, for people; without secrets."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connects.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes every connection."""

    @abstractmethod
    def repository(self, schema: ViewSchema[V], name: str) -> ViewRepository[V]:
        """The views that a projection shows under its plain name, for reading; also for writing to a plain table.

        The name may be that of a projection (an SQL view over its active generation) or of a table made by
        `create_table`.
        """

    @abstractmethod
    async def create_table(self, schema: ViewSchema[Any], name: str) -> None:
        """Makes a plain table for a view class, with its indexes, unless it is there already.

        Raises:
            SchemaMismatch: it is there and differs.
        """

    @abstractmethod
    async def begin_generation(self, schema: ViewSchema[Any], *, app: str, name: str, version: int) -> GenerationWriter:
        """Makes the table of a new generation of a projection, and its writer.

        What dead rebuilds of the projection left behind is dropped.

        Raises:
            SchemaMismatch: the active generation of this very version has other columns.
            StoreError: anything else.
        """

    @abstractmethod
    async def checkpoints(self, app: str) -> Sequence[Mapping[str, Any]]:
        """The rows of ``refold_checkpoints`` of an app, as mappings of column to value, ordered by projection."""
