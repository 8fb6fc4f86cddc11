"""Messages that are lost, repeated or changed in order on their way are noticed, by the readers and by the bulk source."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from jetstream_support import Filter, Placed, Proxy, Stream, collect
from meddling import mixing, without

from refold import EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import ContinuityError, StreamError, StreamNotFound
from refold.jetstream import consumer, scan
from refold.jetstream.bulk import BulkLimits, JetStreamSource
from refold.jetstream.connection import NatsConnection, NatsSettings, connected

COUNT = 20
EVERYTHING = list(range(1, COUNT + 1))


@pytest.fixture
async def filled(nats: EmbeddedNats, stream_name: str, proxy: Proxy) -> AsyncIterator[Stream]:
    """A stream of some events, reached through a proxy."""
    async with connected(NatsSettings(url=proxy.url)) as client:
        stream = Stream(client, stream_name, prefix=stream_name)
        await stream.api.ensure_stream(stream_name, [f"{stream_name}.>"])
        publisher = stream.publisher()
        for number in range(COUNT):
            await publisher.publish("order", str(number), [Placed()])
        yield stream


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers say sooner that they have nothing to send."""
    for module in (consumer, scan):
        monkeypatch.setattr(module, "_SILENCE" if module is consumer else "_HEARTBEAT", 0.2)


CHANGES = [
    pytest.param(lambda: without(1), id="first lost"),
    pytest.param(lambda: without(7, 8), id="some lost"),
    pytest.param(lambda: without(*range(15, COUNT + 1)), id="end lost"),
    pytest.param(lambda: without(*EVERYTHING), id="all lost"),
    pytest.param(lambda: mixing(lambda frames: [*frames, frames[0]]), id="one repeated"),
    pytest.param(lambda: mixing(lambda frames: frames[::-1]), id="order changed"),
]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_reader_gives_everything_or_tells(
    filled: Stream, proxy: Proxy, change: Callable[[], Filter], request: pytest.FixtureRequest
) -> None:
    proxy.to_client = change()
    given: list[int] = []
    told = ""
    try:
        async for event in filled.events().events(EventFilter()):
            given.append(event.position)
    except ContinuityError as error:
        told = str(error)
    assert given == EVERYTHING[: len(given)]
    # What comes once more behind the last one is not looked at.
    assert "read again" in told or (given == EVERYTHING and "repeated" in request.node.name)
    assert [event.position async for event in filled.events().events(EventFilter())] == EVERYTHING


@pytest.mark.parametrize("messages", [7, 100])
@pytest.mark.parametrize("change", CHANGES)
async def test_the_bulk_source_reads_again(
    filled: Stream, proxy: Proxy, change: Callable[[], Filter], messages: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = JetStreamSource(
        lambda: connected(filled.settings), filled.name, filled.scheme, limits=BulkLimits(messages=messages)
    )
    proxy.to_client = change()
    batches = await collect(source.batches(EventFilter(), until=COUNT))
    assert [position for batch in batches for position in batch.positions] == EVERYTHING
    interruptions = [r for r in caplog.records if "interrupted and is taken up again" in r.message]
    assert len(interruptions) <= 2


# -- The consumer, the stream or the connection goes -----------------------------------------------------------------------


def source_of(stream: Stream, messages: int = 5) -> JetStreamSource:
    return JetStreamSource(
        lambda: connected(stream.settings), stream.name, stream.scheme, limits=BulkLimits(messages=messages)
    )


async def delete_consumers(stream: Stream) -> int:
    names = (await stream.command(f"CONSUMER.NAMES.{stream.name}", {}))["consumers"] or []
    for name in names:
        await stream.api.delete_consumer(stream.name, name)
    return len(names)


async def test_the_bulk_source_makes_another_consumer(filled: Stream) -> None:
    positions, deleted = [], 0
    async for batch in source_of(filled).batches(EventFilter(), until=COUNT):
        positions += batch.positions
        if not deleted:
            deleted = await delete_consumers(filled)
    assert (positions, deleted) == (EVERYTHING, 1)


async def test_a_reader_tells_of_a_deleted_consumer(filled: Stream) -> None:
    reading = filled.events(page=5).events(EventFilter())
    assert [(await anext(reading)).position for _ in range(3)] == [1, 2, 3]
    assert await delete_consumers(filled) == 1
    with pytest.raises(StreamError, match="read again"):
        await collect(reading)


async def test_a_stream_that_is_deleted_meanwhile(filled: Stream) -> None:
    reading = source_of(filled).batches(EventFilter(), until=COUNT)
    await anext(reading)
    await filled.command(f"STREAM.DELETE.{filled.name}", {})
    with pytest.raises(StreamNotFound):
        await collect(reading)


async def test_a_client_that_is_closed(filled: Stream) -> None:
    clients = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[NatsConnection]:
        async with connected(filled.settings) as client:
            clients.append(client)
            yield client

    positions = []
    source = JetStreamSource(connect, filled.name, filled.scheme, limits=BulkLimits(messages=5))
    async for batch in source.batches(EventFilter(), until=COUNT):
        positions += batch.positions
        if len(clients) < 3:
            await clients[-1].close()
    assert positions == EVERYTHING
    assert len(clients) > 1


@pytest.mark.parametrize("words", ["User Authentication Expired", "Stale Connection", "Something New"])
async def test_a_server_that_ends_the_connection(filled: Stream, proxy: Proxy, words: str) -> None:
    """In the middle of reading; the client closes itself for good then."""
    said = False

    def end(data: bytes) -> bytes:
        nonlocal said
        if said or b"$JS.ACK." not in data:
            return data
        said = True
        return data + f"-ERR '{words}'\r\n".encode()

    proxy.to_client = end
    batches = await collect(source_of(filled).batches(EventFilter(), until=COUNT))
    assert [position for batch in batches for position in batch.positions] == EVERYTHING
    assert said


async def test_connections_that_are_cut(filled: Stream, proxy: Proxy) -> None:
    positions, cuts = [], 0
    async for batch in source_of(filled).batches(EventFilter(), until=COUNT):
        positions += batch.positions
        if cuts < 2:
            cuts += 1
            proxy.cut()
    assert positions == EVERYTHING
