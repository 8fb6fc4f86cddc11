"""The aggregate index: a built-in projection with one row an aggregate, so that listing aggregates reads no stream."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec

from refold.engine.live.waiting import wait_for
from refold.engine.projector import Projector, on
from refold.errors import DefinitionError, StreamNotFound, WaitTimeout
from refold.event import DomainEvent, EventType
from refold.ports import AggregateIndexer, Condition, Database, Status, StreamState, ViewRepository
from refold.subjects import SubjectScheme
from refold.view import Index, View

__all__ = ["AGGREGATE_INDEX", "CaughtUpIndexer", "IndexedAggregate", "StoredIndexer", "aggregate_index"]

log = logging.getLogger(__name__)

AGGREGATE_INDEX: Final = "aggregate_index"
"""Name of the projection, and of its table."""

_SCHEME: Final = SubjectScheme()


class IndexedAggregate(View):
    """An aggregate. `created_at` and `updated_at` are the times of its first and last event, `position` is where the last is.

    Attributes:
        aggregate_type: its type.
        aggregate_id: its id.
        first_position: stream sequence of its first event.
        events: how many it has, each counted once.
        aggregate_version: version of its last event.
    """

    aggregate_type: Annotated[str, Index()] = ""
    aggregate_id: str = ""
    first_position: int = 0
    events: int = 0
    aggregate_version: int = 0


class _Unread(msgspec.Struct, gc=False):
    """A payload that nobody looks at: its JSON is passed over, and nothing is made of it."""


def aggregate_index(
    event_types: Mapping[str, EventType], *, name: str = AGGREGATE_INDEX
) -> type[Projector[IndexedAggregate]]:
    """A projector that keeps one row for each aggregate that has events of some types. No payload is decoded.

    Args:
        event_types: the types, by name, as `App.event_types` has them.
        name: of the projection.

    Raises:
        DefinitionError: there are no types.
    """
    if not event_types:
        raise DefinitionError("the aggregate index needs event types: register the app's projectors first")

    class AggregateIndex(Projector[IndexedAggregate], name=name, deduplicate=False):
        """Deduplicates by the row itself, which knows the aggregate's version: nothing else needs to be kept."""

        @on(*event_types, key=_key)
        def happened(self, view: IndexedAggregate, event: DomainEvent[Any]) -> None:
            if event.version <= view.aggregate_version:
                return
            if not view.events:
                view.aggregate_type, view.aggregate_id = event.aggregate_type, event.aggregate_id
                view.first_position = event.position
            view.aggregate_version = event.version
            view.events += 1

    spec = AggregateIndex.spec
    routes = {
        name: dataclasses.replace(route, event_type=_unread(event_types[name])) for name, route in spec.routes.items()
    }
    AggregateIndex.spec = dataclasses.replace(spec, routes=routes)
    return AggregateIndex


def _unread(known: EventType) -> EventType:
    """An event type of every payload version that is known."""
    return EventType(known.name, _Unread, {version: lambda payload: payload for version in known.upcast_from})


def _key(event: DomainEvent[Any]) -> str:
    return _prefix(event.aggregate_type) + event.aggregate_id


@lru_cache(maxsize=256)
def _prefix(aggregate_type: str) -> str:
    """What the keys of all aggregates of a type begin with, and no others: an encoded type has no dot."""
    return _SCHEME.encode(aggregate_type) + "."


class StoredIndexer(AggregateIndexer):
    """Lists aggregates from the aggregate index, a page at a time, each page found by key. No memory grows with their number.

    It tells of the stream up to the index's checkpoint, and no further: `App.wait_for` waits until that is far enough. An
    aggregate that comes while it lists may be listed.

    Args:
        repository: the index's views.
        page: rows that are read at once.
    """

    def __init__(self, repository: ViewRepository[IndexedAggregate], *, page: int = 5_000) -> None:
        self._repository = repository
        self._page = page

    async def aggregate_ids(self, aggregate_type: str) -> AsyncGenerator[str, None]:
        """The ids of every aggregate of a type in the index, each once, ordered.

        Raises:
            StoreError: the index was never built, or the database could not be asked.
        """
        async for row in self.aggregates(aggregate_type):
            yield row.aggregate_id

    async def aggregates(self, aggregate_type: str) -> AsyncGenerator[IndexedAggregate, None]:
        """The rows of every aggregate of a type, ordered by id.

        Raises: as `aggregate_ids`.
        """
        prefix = _prefix(aggregate_type)
        last, end = prefix, prefix[:-1] + "/"  # which comes next after the dot
        while True:
            found = await self._repository.find(Condition("id", ">", last), Condition("id", "<", end), limit=self._page)
            for row in found:
                yield row
            if len(found) < self._page:
                return
            last = found[-1].id


class CaughtUpIndexer(AggregateIndexer):
    """Lists from the index where that has all of the stream, else from another indexer: what it lists is never behind.

    Args:
        stored: lists from the index.
        other: lists from the stream.
        head: gives the stream's state.
        store: where the index is.
        app: the application.
        name: the index's projection.
        patience: seconds to wait for an index that is live to be at the head.
    """

    def __init__(
        self,
        stored: StoredIndexer,
        other: AggregateIndexer,
        *,
        head: Callable[[], Awaitable[StreamState]],
        store: Database,
        app: str,
        name: str = AGGREGATE_INDEX,
        patience: float = 1.0,
    ) -> None:
        self._stored = stored
        self._other = other
        self._head = head
        self._store = store
        self._app = app
        self._name = name
        self._patience = patience

    async def aggregate_ids(self, aggregate_type: str) -> AsyncGenerator[str, None]:
        """The ids of every aggregate of a type that has events when it begins."""
        reason = await self._behind()
        if reason:
            log.info("aggregates are listed from the stream", extra={"projection": self._name, "reason": reason})
        indexer = self._other if reason else self._stored
        async for aggregate_id in indexer.aggregate_ids(aggregate_type):
            yield aggregate_id

    async def _behind(self) -> str:
        """Why the index cannot be used; empty where it can."""
        try:
            stream = await self._head()
        except StreamNotFound as error:
            return str(error)
        found = [one for one in await self._store.generations(self._app, self._name) if one.role == "active"]
        if not found:
            return "the index was never built"
        index = found[0]
        if (index.stream, index.created) != (stream.name, stream.created):
            return "the index was built from another stream"
        if self._name in await self._store.letter_counts(self._app):
            return "the index lacks events that became dead letters"
        if index.position >= stream.last:
            return ""
        if index.status is not Status.LIVE:
            return f"the index is {index.status.value}, at {index.position} of {stream.last}"
        try:
            await wait_for(self._store, self._app, [self._name], stream.last, timeout=self._patience)
        except WaitTimeout as error:
            return str(error)
        return ""
