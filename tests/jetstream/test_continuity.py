"""Messages that are lost, repeated or changed in order on their way are noticed, by the readers and by the bulk source."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable

import pytest
from jetstream_support import Filter, Placed, Proxy, Stream, collect

from refold import EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import ContinuityError
from refold.jetstream import bulk, scan
from refold.jetstream.bulk import BulkLimits, JetStreamSource
from refold.jetstream.connection import NatsSettings, connected

COUNT = 20
EVERYTHING = list(range(1, COUNT + 1))
FRAME = re.compile(rb"HMSG \S+ \d+ \$JS\.ACK\.(?:[^. ]+\.){3}(\d+)\.[^ ]+ \d+ (\d+)\r\n")
"""The control line of a delivered message: its position, and the size of what follows."""


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


@pytest.fixture
async def proxy(nats: EmbeddedNats) -> AsyncIterator[Proxy]:
    async with Proxy().before(nats.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers say sooner that they have nothing to send."""
    for module in (bulk, scan):
        monkeypatch.setattr(module, "_HEARTBEAT", 0.2)


def delivering(change: Callable[[dict[int, bytes]], list[bytes]]) -> Filter:
    """Changes the first lot of delivered messages that comes through, given by position."""
    done = False

    def pass_on(data: bytes) -> bytes:
        nonlocal done
        frames: dict[int, bytes] = {}
        rest, at = b"", 0
        while found := FRAME.search(data, at):
            end = found.end() + int(found[2]) + 2
            rest += data[at : found.start()]
            frames[int(found[1])] = data[found.start() : end]
            at = end
        if done or not frames:
            return data
        done = True
        return b"".join(change(frames)) + rest + data[at:]

    return pass_on


def without(*positions: int) -> Filter:
    return delivering(lambda frames: [frame for position, frame in frames.items() if position not in positions])


CHANGES = [
    pytest.param(lambda: without(1), id="first lost"),
    pytest.param(lambda: without(7, 8), id="some lost"),
    pytest.param(lambda: without(*range(15, COUNT + 1)), id="end lost"),
    pytest.param(lambda: without(*EVERYTHING), id="all lost"),
    pytest.param(lambda: delivering(lambda frames: [*frames.values(), frames[3]]), id="one repeated"),
    pytest.param(lambda: delivering(lambda frames: list(frames.values())[::-1]), id="order changed"),
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
    assert len(interruptions) <= 1
