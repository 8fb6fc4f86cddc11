"""Appending when answers or messages get lost on the way: every event is stored once, and its position is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from jetstream_support import Placed, Proxy, Shipped, Stream, collect, losing, numbered, overtaken, rewriting

from refold import NewEvent
from refold.errors import PublishError, StreamNotFound, VersionConflict
from refold.filters import EventFilter
from refold.jetstream.bulk import JetStreamSource
from refold.jetstream.connection import NatsSettings, connected

ACK = b'{"stream":'
"""What an acknowledgement begins with, and no other answer."""

QUICK: dict[str, Any] = {"timeout": 0.5}


@pytest.fixture
async def lossy(proxy: Proxy, stream_name: str) -> AsyncIterator[Stream]:
    """A new stream, reached through the proxy."""
    async with connected(NatsSettings(url=proxy.url)) as client:
        stream = Stream(client, stream_name, prefix=stream_name)
        await stream.api.ensure_stream(stream_name, [f"{stream_name}.>"])
        yield stream


async def versions(stream: Stream, aggregate_id: str = "1") -> list[int]:
    return [event.version for event in await stream.read("order", aggregate_id)]


@pytest.mark.parametrize("expected", [None, 1])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_lost_acknowledgement(lossy: Stream, proxy: Proxy, times: int, expected: int | None) -> None:
    """The event is found where it was stored, and not sent again."""
    publisher = lossy.publisher(**QUICK)
    await publisher.publish("order", "1", [Placed()])
    proxy.to_client = losing(ACK, times)
    ack = await publisher.publish("order", "1", [NewEvent(payload=Shipped(), id="mine")], expected_version=expected)
    assert (ack.stream, ack.position, ack.version, ack.event_ids) == (lossy.name, 2, 2, ("mine",))
    assert await versions(lossy) == [1, 2]
    assert proxy.seen_by_server.count(b"Nats-Msg-Id: mine") == 1
    assert (await publisher.publish("order", "1", [Placed()], expected_version=2)).version == 3


async def test_a_lost_event(lossy: Stream, proxy: Proxy) -> None:
    """It is sent again, with the same id."""
    proxy.to_server = losing(b"Nats-Msg-Id: mine")
    ack = await lossy.publisher(**QUICK).publish("order", "1", [NewEvent(payload=Placed(), id="mine")])
    assert (ack.position, ack.version, ack.event_ids) == (1, 1, ("mine",))
    assert await versions(lossy) == [1]


@pytest.mark.parametrize("count", [1, 2])
async def test_an_event_that_comes_late(lossy: Stream, proxy: Proxy, count: int) -> None:
    """It arrives together with itself, sent again: one of both is refused, and where the other stands is told."""
    held = b""

    def hold(data: bytes) -> bytes:
        nonlocal held
        if b"Nats-Msg-Id: mine" not in data:
            return data
        if not held:
            held = data
            return b""
        proxy.to_server = bytes
        return held + data

    proxy.to_server = hold
    events = [NewEvent(payload=Placed(), id="mine"), NewEvent(payload=Shipped(), id="mine too")][:count]
    ack = await lossy.publisher(**QUICK).publish("order", "1", events, expected_version=0)
    assert (ack.position, ack.version, len(ack.event_ids)) == (count, count, count)
    assert await versions(lossy) == [1, 2][:count]


@pytest.mark.parametrize("lost", ["acknowledgement", "batch"])
async def test_a_lost_batch_or_its_acknowledgement(lossy: Stream, proxy: Proxy, lost: str) -> None:
    publisher = lossy.publisher(**QUICK)
    await publisher.publish("order", "1", [Placed()])
    if lost == "batch":
        proxy.to_server = losing(b"Nats-Batch-Commit")
    else:
        proxy.to_client = losing(ACK)
    ack = await publisher.publish("order", "1", [Placed("b"), Shipped(), Placed("c")], expected_version=1)
    assert (ack.position, ack.version, len(ack.event_ids)) == (4, 4, 3)
    assert await versions(lossy) == [1, 2, 3, 4]


async def test_an_acknowledgement_that_is_lost_while_another_appends(lossy: Stream, proxy: Proxy) -> None:
    """The event stands where it was stored, though it is the last one no more."""
    proxy.to_client = losing(ACK)
    publishing = asyncio.create_task(lossy.publisher(**QUICK).publish("order", "1", [Placed()], expected_version=0))
    async with connected(NatsSettings(url=proxy.url)) as client:
        other = Stream(client, lossy.name, prefix=lossy.name)
        async with asyncio.timeout(10):
            while (await other.info()).state.messages == 0:
                await asyncio.sleep(0)
        await other.publisher().publish("order", "1", [Shipped()], expected_version=1)
    ack = await publishing
    assert (ack.position, ack.version) == (1, 1)
    assert [event.type for event in await lossy.read("order", "1")] == ["placed", "shipped"]


async def test_an_event_that_was_lost_while_another_appended(lossy: Stream, proxy: Proxy) -> None:
    """Then the caller's decision is void, if it told the version it decided upon."""
    proxy.to_server = losing(b"Nats-Msg-Id: mine")
    publisher = overtaken(lossy.publisher(**QUICK), lambda: lossy.publisher().publish("order", "1", [Shipped()]))
    with pytest.raises(VersionConflict):
        await publisher.publish("order", "1", [NewEvent(payload=Placed(), id="mine")], expected_version=0)
    assert [event.type for event in await lossy.read("order", "1")] == ["shipped"]


async def test_acknowledgements_that_stay_away(lossy: Stream, proxy: Proxy) -> None:
    """The error says that the event may be stored; and it is, once."""

    async def lose_answers() -> None:
        proxy.to_client = losing(b'{"', 1_000)

    publisher = overtaken(lossy.publisher(timeout=0.1, attempts=2), lose_answers)
    with pytest.raises(PublishError, match=r"\['mine'\] may be stored or not: read the aggregate before"):
        await publisher.publish("order", "1", [NewEvent(payload=Placed(), id="mine")], expected_version=0)
    proxy.to_client = bytes
    assert await versions(lossy) == [1]


async def test_publishing_the_same_again(stream: Stream) -> None:
    """A caller who did not learn what became of an event gives it the same id, and is told where it is."""
    event = NewEvent(payload=Placed(), id="mine")
    first = await stream.publisher().publish("order", "1", [event], expected_version=0)
    again = await stream.publisher().publish("order", "1", [event], expected_version=0)
    assert (again.position, again.version, again.duplicate) == (first.position, first.version, True)
    await stream.publisher().publish("order", "1", [Shipped()])
    behind = await stream.publisher().publish("order", "1", [event])
    assert (behind.position, behind.version, behind.duplicate) == (1, 1, True)
    with pytest.raises(PublishError, match="for another aggregate or type"):
        await stream.publisher().publish("order", "2", [event])
    assert await versions(stream) == [1, 2]


async def test_many_who_append_to_one_aggregate(stream: Stream) -> None:
    """Without an expected version all of them come through, one after another."""
    publishers = [stream.publisher(attempts=50) for _ in range(10)]
    acks = await asyncio.gather(*(p.publish("order", "1", [Placed()], atomic=False) for p in publishers))
    assert sorted(ack.version for ack in acks) == list(range(1, 11))
    assert await versions(stream) == list(range(1, 11))


async def test_a_subject_of_another_stream(stream: Stream) -> None:
    """Nothing is stored where it does not belong."""
    elsewhere = Stream(stream.client, f"{stream.name}B", prefix=stream.name)
    await elsewhere.api.ensure_stream(elsewhere.name, [f"{elsewhere.name}.>"])
    with pytest.raises(PublishError, match="belongs to another stream"):
        await elsewhere.publisher().publish("order", "1", [Placed()])
    nowhere = Stream(stream.client, stream.name, prefix=f"{stream.name}C")
    with pytest.raises(PublishError, match="check that the subjects of stream"):
        await nowhere.publisher(timeout=0.1, attempts=2).publish("order", "1", [Placed()])
    assert (await stream.info()).state.messages == 0


# -- Loading many -----------------------------------------------------------------------------------------------------------


async def test_loading_when_acknowledgements_are_lost(lossy: Stream, proxy: Proxy) -> None:
    """What has none is sent again; the server knows what it holds by its ids."""
    proxy.to_client = losing(ACK, 3)
    result = await lossy.bulk(timeout=0.3).publish_many(numbered("1", version) for version in range(1, 501))
    assert (result.stored + result.duplicates, result.failures, result.position) == (500, (), 500)
    assert result.duplicates > 0
    assert await versions(lossy) == list(range(1, 501))


async def test_loading_when_an_event_is_lost(lossy: Stream, proxy: Proxy) -> None:
    """It comes to stand behind later ones of its aggregate then, which is told of each of those."""
    astray = rewriting(rb"HPUB \S+ \S+ (\d+ \d+\r\nNATS/1.0\r\nNats-Msg-Id: order-1-7\r\n)", rb"HPUB void \1")

    def once(data: bytes) -> bytes:
        changed = astray(data)
        if changed != data:
            proxy.to_server = bytes
        return changed

    proxy.to_server = once
    result = await lossy.bulk(timeout=0.3).publish_many(numbered("1", version) for version in range(1, 21))
    assert await versions(lossy) == [*range(1, 7), *range(8, 21), 7]
    assert result.stored + result.duplicates + len(result.failures) == 20
    assert [failure.event_id for failure in result.failures] == [f"order-1-{version}" for version in range(8, 21)]
    assert all("an earlier event of the aggregate came to stand behind it" in f.reason for f in result.failures)


async def test_loading_twice_stores_once(stream: Stream) -> None:
    events = [numbered(str(n % 7), n // 7 + 1) for n in range(300)]
    first = await stream.bulk().publish_many(events)
    again = await stream.bulk().publish_many(events)
    assert (first.stored, first.duplicates, again.stored, again.duplicates) == (300, 0, 0, 300)
    assert len(await collect(stream.events().events(EventFilter()))) == 300


async def test_loading_what_cannot_be_stored(stream: Stream) -> None:
    """It is told by number, and the rest is stored."""
    large = msgspec.structs.replace(numbered("1", 2), payload=Placed("x" * 1_100_000))
    nameless = msgspec.structs.replace(numbered("1", 3), id="")
    result = await stream.bulk().publish_many([numbered("1", 1), large, nameless, numbered("", 4), numbered("1", 5)])
    assert (result.stored, [failure.index for failure in result.failures]) == (2, [1, 2, 3])
    reasons = " | ".join(failure.reason for failure in result.failures)
    assert re.search(r"1100\d+ bytes long.*raise max_payload.*is empty, has blanks.*is empty", reasons)
    with pytest.raises(PublishError, match=r"stopped after 4 failures.*number 1\)"):
        await stream.bulk(max_failures=3).publish_many([numbered("2", 1), large, nameless, large, nameless])


async def test_loading_where_it_does_not_belong(stream: Stream) -> None:
    with pytest.raises(StreamNotFound):
        await Stream(stream.client, f"{stream.name}B", prefix=stream.name).bulk().publish_many([numbered("1", 1)])
    elsewhere = Stream(stream.client, f"{stream.name}C", prefix=stream.name)
    await elsewhere.api.ensure_stream(elsewhere.name, [f"{elsewhere.name}.>"])
    (failure,) = (await elsewhere.bulk().publish_many([numbered("1", 1)])).failures
    assert f"stored in stream '{stream.name}'" in failure.reason
    nowhere = Stream(stream.client, stream.name, prefix=f"{stream.name}D")
    with pytest.raises(PublishError, match=r"event 'order-1-1' \(number 0\).*nothing takes messages at its subject"):
        await nowhere.bulk(timeout=0.2, attempts=2).publish_many([numbered("1", 1), numbered("1", 2)])


# -- Size ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [900_000, 1_047_500])
async def test_large_events(stream: Stream, size: int) -> None:
    """Up to what the server takes; both ways of reading give them back."""
    ack = await stream.publisher().publish("order", "1", [Placed("x" * size), Placed("y" * size)])
    assert ack.version == 2
    assert [event.payload.customer[0] for event in await stream.read("order", "1")] == ["x", "y"]
    source = JetStreamSource(lambda: connected(stream.settings), stream.name, stream.scheme)
    batches = await collect(source.batches(EventFilter(), until=2))
    assert [len(message[5]) > size for batch in batches for message in batch.messages] == [True, True]


async def test_an_event_that_is_too_large(stream: Stream) -> None:
    with pytest.raises(PublishError, match="the server takes 10.*: publish less, or raise max_payload"):
        await stream.publisher().publish("order", "1", [Placed("x" * 1_048_576)])
    with pytest.raises(PublishError, match="bytes long"):
        await stream.publisher().publish("order", "1", [Placed(), Placed("x" * 1_048_576)], atomic=False)
    assert (await stream.info()).state.messages == 0
