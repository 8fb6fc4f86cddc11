"""What the JetStream tests share: event types, a stream with its adapters, and a proxy that loses things."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TypeVar

import msgspec
from nats.aio.client import Client

from proxy import Filter, Proxy, losing, rewriting  # noqa: F401 (for the tests beside this)
from refold import App, EventFilter, Projector, View, on
from refold.codecs import JsonCodec
from refold.event import DomainEvent, event, event_type_of
from refold.jetstream.api import JetStreamApi, StoredMessage, StreamInfo
from refold.jetstream.bulk_publisher import BulkPublisher
from refold.jetstream.connection import NatsConnection, NatsSettings
from refold.jetstream.indexer import JetStreamIndexer
from refold.jetstream.publisher import JetStreamPublisher
from refold.jetstream.reader import JetStreamEventReader, JetStreamStreamReader
from refold.subjects import SubjectScheme

T = TypeVar("T")


@event("placed")
class Placed(msgspec.Struct):
    customer: str = "ann"


@event("shipped")
class Shipped(msgspec.Struct):
    carrier: str = "mail"


EVENT_TYPES = {kind.name: kind for kind in map(event_type_of, (Placed, Shipped))}
CODEC = JsonCodec()


class Order(View):
    customer: str = ""
    carrier: str = ""


class Orders(Projector[Order], name="orders"):
    @on(Placed)
    def placed(self, view: Order, event: DomainEvent[Placed]) -> None:
        view.customer = event.payload.customer

    @on(Shipped)
    def shipped(self, view: Order, event: DomainEvent[Shipped]) -> None:
        view.carrier = event.payload.carrier


async def exercise(app: App) -> None:
    """Does everything that an application does with NATS: appends, reads, lists and rebuilds."""
    if not app.projections:
        app.register(Orders)
    for key in ("1", "2"):
        await app.publish("order", key, [Placed(key)], expected_version=0)
    await app.publish("order", "2", [Shipped("bike")], expected_version=1)
    read = [(e.version, e.payload) async for e in app.stream_reader.read("order", "2")]
    assert read == [(1, Placed("2")), (2, Shipped("bike"))]
    assert [e.position async for e in app.event_reader.events(EventFilter())] == [1, 2, 3]
    assert sorted([key async for key in app.indexer.aggregate_ids("order")]) == ["1", "2"]
    (result,) = await app.rebuild()
    assert (result.complete, result.events, result.views) == (True, 3, 2)
    view = await app.views(Orders).find_by_id("2")
    assert view is not None
    assert (view.customer, view.carrier) == ("2", "bike")


class Stream:
    """A stream and the adapters over it."""

    def __init__(self, client: Client, name: str, prefix: str = "") -> None:
        self.client = client
        self.name = name
        self.scheme = SubjectScheme(prefix=prefix)
        self.api = JetStreamApi(client)

    def publisher(self, **options: Any) -> JetStreamPublisher:
        return JetStreamPublisher(self.client, self.name, CODEC, self.scheme, **options)

    def bulk(self, **options: Any) -> BulkPublisher:
        return BulkPublisher(self.client, self.name, CODEC, self.scheme, **options)

    def events(self, **options: Any) -> JetStreamEventReader:
        return JetStreamEventReader(self.client, self.name, CODEC, self.scheme, EVENT_TYPES, **options)

    def aggregates(self, **options: Any) -> JetStreamStreamReader:
        return JetStreamStreamReader(self.client, self.name, CODEC, self.scheme, EVENT_TYPES, **options)

    def indexer(self) -> JetStreamIndexer:
        return JetStreamIndexer(self.client, self.name, self.scheme)

    @property
    def settings(self) -> NatsSettings:
        """How to make another connection to its server."""
        assert isinstance(self.client, NatsConnection)
        return self.client.settings

    async def info(self) -> StreamInfo:
        return await self.api.stream_info(self.name)

    async def read(self, aggregate_type: str, aggregate_id: str, **options: Any) -> list[DomainEvent[Any]]:
        return await collect(self.aggregates().read(aggregate_type, aggregate_id, **options))

    async def command(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """A JetStream API request that refold itself never makes."""
        answer = await self.client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=5)
        told: dict[str, Any] = json.loads(answer.data)
        assert "error" not in told, told
        return told


def numbered(aggregate_id: str, version: int, *, kind: str = "order", payload: Any = None) -> DomainEvent[Any]:
    """A complete event of an aggregate; its id tells aggregate and version."""
    payload = Placed() if payload is None else payload
    return DomainEvent(
        id=f"{kind}-{aggregate_id}-{version}",
        aggregate_id=aggregate_id,
        type=event_type_of(type(payload)).name,
        aggregate_type=kind,
        timestamp=datetime(2024, 1, 1, tzinfo=UTC),
        version=version,
        payload=payload,
    )


async def collect(items: AsyncIterable[T]) -> list[T]:
    return [item async for item in items]


async def eventually(condition: Callable[[], bool], deadline: float = 10.0) -> None:
    """Waits until a condition holds."""
    end = monotonic() + deadline
    while not condition():
        assert monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def overtaken(publisher: JetStreamPublisher, by: Callable[[], Awaitable[object]]) -> JetStreamPublisher:
    """Lets something happen right after a publisher has first looked where the aggregate ends."""
    look = publisher._api.message
    happened = False

    async def message(stream: str, **which: Any) -> StoredMessage | None:
        nonlocal happened
        found = await look(stream, **which)
        if not happened:
            happened = True
            await by()
        return found

    publisher._api.message = message  # type: ignore[method-assign]
    return publisher
