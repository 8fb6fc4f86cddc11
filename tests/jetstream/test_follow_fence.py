"""A stream that is not the one which was read is noticed before anything of it is given; without the fence it is not."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from following import following, publish, publish_many, source_of
from jetstream_support import Stream

from refold import EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import EventsExpired, StreamNotFound, StreamReplaced
from refold.jetstream import fence
from refold.jetstream.connection import NatsSettings, connected
from refold.jetstream.fence import Fence
from refold.ports import RawBatch, StreamIdentity, anchor_of

COUNT = 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader gets less time to know of all its messages."""
    monkeypatch.setattr(fence, "_GRACE", 0.3)


@pytest.fixture(params=["fence", "no fence"])
def fenced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Runs a test as it should be, and once more with a fence that lets everything pass."""
    if request.param == "no fence":

        async def state(self: Fence, position: int) -> Any:
            return await self._api.stream_info(self._stream)

        async def check_anchor(self: Fence) -> None:
            pass

        monkeypatch.setattr(Fence, "state", state)
        monkeypatch.setattr(Fence, "check_anchor", check_anchor)
        monkeypatch.setattr(Fence, "check_beginning", lambda *_, **__: None)
    return request.param == "fence"


async def read(stream: Stream, count: int = COUNT) -> StreamIdentity:
    """Reads so many messages, and gives what a checkpoint would know then."""
    identity = StreamIdentity((await stream.info()).created, 0)
    last = None
    async with aclosing(source_of(stream).follow(EventFilter(), identity)) as batches:
        async for batch in batches:
            last = batch.messages[-1] if len(batch) else last
            if batch.last >= count:
                break
    assert last is not None
    return dataclasses.replace(identity, position=batch.last, anchor=anchor_of(last))


async def first(stream: Stream, identity: StreamIdentity, **options: Any) -> RawBatch:
    """The first batch that comes, with messages if there are any left."""
    async with aclosing(source_of(stream).follow(EventFilter(), identity, **options)) as batches:
        return await anext(batches)


async def recreate(stream: Stream, count: int) -> None:
    await stream.command(f"STREAM.DELETE.{stream.name}", {})
    await stream.api.ensure_stream(stream.name, [f"{stream.name}.>"])
    await publish_many(stream, count)


async def test_the_same_stream_passes(stream: Stream) -> None:
    await publish_many(stream, COUNT)
    identity = await read(stream)
    assert identity.anchor == await source_of(stream).anchor(COUNT)
    assert (await first(stream, identity)).last == COUNT
    await publish(stream, "order.1.paid")
    assert (await first(stream, identity)).positions == [COUNT + 1]
    await stream.client.jetstream().delete_msg(stream.name, COUNT)  # which leaves nothing to compare
    assert (await first(stream, identity)).positions == [COUNT + 1]


async def test_anchors(stream: Stream) -> None:
    await publish(stream, "order.1.paid", "order.2.paid", "order.1.sent", "order.1.paid", "order", body=b"a")
    await publish(stream, "order.1.paid", body=b"b")
    source = source_of(stream)
    anchors = [await source.anchor(position) for position in range(8)]
    assert anchors[0] is anchors[5] is anchors[7] is None
    digests = [anchor.partition(":")[2] for anchor in anchors if anchor is not None]
    assert [anchor.partition(":")[0] for anchor in anchors if anchor is not None] == ["1", "2", "3", "4", "6"]
    assert digests[0] == digests[3]
    assert len(set(digests)) == 4


@pytest.mark.parametrize("count", [5, COUNT, 2 * COUNT])
async def test_a_stream_that_was_made_anew(stream: Stream, count: int, fenced: bool) -> None:
    await publish_many(stream, COUNT)
    identity = await read(stream)
    await recreate(stream, count)
    if fenced:
        words = (
            rf"'{stream.name}' was made at 20.* and the one that was read at {identity.created}.*refold --app … reset"
        )
        with pytest.raises(StreamReplaced, match=words):
            await first(stream, identity)
    elif count > COUNT:  # its first events are passed over without a word
        assert (await first(stream, identity)).positions == list(range(COUNT + 1, count + 1))
    else:
        async with following(source_of(stream), identity) as reading:
            await publish_many(stream, COUNT - count + 1)
            await reading.reaches(COUNT + 1)
        assert reading.positions == [COUNT + 1]


async def test_a_stream_that_is_made_anew_meanwhile(stream: Stream) -> None:
    await publish_many(stream, COUNT)
    identity = await read(stream, 5)
    async with following(source_of(stream), identity) as reading:
        await reading.reaches(COUNT)
        await recreate(stream, 2 * COUNT)
        with pytest.raises((StreamReplaced, StreamNotFound), match="was made at|does not exist"):
            await reading.reaches(COUNT + 1)


@asynccontextmanager
async def restored(
    own_nats: Callable[..., EmbeddedNats], folder: Path, lost: int, again: int
) -> AsyncIterator[tuple[Stream, StreamIdentity]]:
    """A stream that was read, lost its last messages as an older copy of it was put back, and got others."""
    store, copy = folder / "store", folder / "copy"
    async with own_nats(store) as server:
        async with connected(NatsSettings(url=server.url)) as client:
            stream = Stream(client, "S", prefix="S")
            await stream.api.ensure_stream("S", ["S.>"])
            await publish_many(stream, COUNT - lost)
        await server.stop()
        shutil.copytree(store, copy)
        await server.start()
        async with connected(NatsSettings(url=server.url)) as client:
            stream = Stream(client, "S", prefix="S")
            await publish_many(stream, lost, first=COUNT - lost)
            identity = await read(stream)
        await server.stop()
        shutil.rmtree(store)
        shutil.copytree(copy, store)
        await server.start()
        async with connected(NatsSettings(url=server.url)) as client:
            stream = Stream(client, "S", prefix="S")
            assert (await stream.info()).created == identity.created
            await publish_many(stream, again, body=b"other")
            yield stream, identity


async def test_an_older_copy_with_other_events(
    own_nats: Callable[..., EmbeddedNats], tmp_path: Path, fenced: bool
) -> None:
    async with restored(own_nats, tmp_path, lost=4, again=6) as (stream, identity):
        if fenced:
            with pytest.raises(StreamReplaced, match=rf"another message at position {COUNT} .*refold --app … reset"):
                await first(stream, identity)
        else:  # four events were never seen
            assert (await first(stream, identity)).positions == [COUNT + 1, COUNT + 2]


async def test_an_older_copy_that_ends_earlier(
    own_nats: Callable[..., EmbeddedNats], tmp_path: Path, fenced: bool
) -> None:
    async with restored(own_nats, tmp_path, lost=4, again=0) as (stream, identity):
        if fenced:
            words = rf"ends at position {COUNT - 4}, and was read up to {COUNT}.*refold --app … reset"
            with pytest.raises(StreamReplaced, match=words):
                await first(stream, identity)
        else:
            async with following(source_of(stream), identity) as reading:
                await publish_many(stream, 5, body=b"other")
                await reading.reaches(COUNT + 1)
            assert reading.positions == [COUNT + 1]


async def test_a_leader_that_needs_a_moment_is_waited_for(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    await publish_many(stream, COUNT)
    identity = await read(stream)
    info, asked = stream.api.stream_info, 0

    async def late(self: Any, name: str) -> Any:
        nonlocal asked
        asked += 1
        now = await info(name)
        state = type(now.state)(messages=1, first_seq=1, last_seq=COUNT - 1) if asked < 3 else now.state
        return type(now)(now.config, now.created, state, ts=now.ts)

    monkeypatch.setattr(fence, "_GRACE", 5)
    monkeypatch.setattr(fence, "_POLL", 0.01)
    monkeypatch.setattr(type(stream.api), "stream_info", late)
    assert (await first(stream, identity)).last == COUNT


@pytest.mark.parametrize("keep", [0, 3])
async def test_events_that_are_gone_before_they_were_read(
    stream: Stream, keep: int, fenced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await publish_many(stream, COUNT)
    identity = await read(stream, 10)
    identity = dataclasses.replace(identity, position=10, anchor=await source_of(stream).anchor(10))
    await stream.command(f"STREAM.PURGE.{stream.name}", {"keep": keep} if keep else {})
    begins = COUNT - keep + 1
    if fenced:
        with pytest.raises(EventsExpired, match=rf"begins at position {begins}, and the next one to read is 11"):
            await first(stream, identity)
        assert caplog.messages == []
    batch = await first(stream, identity, accept_expired=True)
    assert batch.last == COUNT
    assert [message[3] for message in batch.messages] == list(range(begins, COUNT + 1))
    if fenced:
        (record,) = caplog.records
        assert "goes on without them" in record.message
        assert (vars(record)["position"], vars(record)["first"]) == (11, begins)


async def test_what_was_read_may_be_gone(stream: Stream) -> None:
    await publish_many(stream, COUNT)
    identity = await read(stream)
    await stream.command(f"STREAM.PURGE.{stream.name}", {})
    assert (await first(stream, identity)).last == COUNT
    assert await publish(stream, "order.1.paid") == COUNT + 1
    assert (await first(stream, identity)).positions == [COUNT + 1]


async def test_events_before_the_filter_s_start_may_be_gone(stream: Stream) -> None:
    await publish_many(stream, COUNT)
    await stream.command(f"STREAM.PURGE.{stream.name}", {"keep": 5})
    identity = StreamIdentity((await stream.info()).created, 0)
    wanted = EventFilter(start_position=COUNT - 4)
    async with following(source_of(stream), identity, wanted) as reading:
        await reading.reaches(COUNT)
    assert reading.positions == list(range(COUNT - 4, COUNT + 1))
