"""Interruptions of following: each is raised soon, and who goes on where he was has every message once, in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from following import following, publish, publish_many, source_of
from jetstream_support import Filter, Proxy, Stream, losing
from meddling import holding, mixing, truncating, without

from refold import EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import ContinuityError, NatsUnavailable, StreamError
from refold.jetstream import consumer, follow
from refold.jetstream.api import ClusterInfo, JetStreamApi, StreamInfo
from refold.jetstream.connection import NatsSettings, connected
from refold.jetstream.frames import _PythonParser
from refold.jetstream.replies import parse_reply

COUNT = 20
EVERYTHING = list(range(1, COUNT + 1))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is asked sooner."""
    monkeypatch.setattr(follow, "_QUIET", 0.1)


async def follow_all(stream: Stream, proxy: Proxy, change: Filter, **limits: Any) -> list[StreamError]:
    """Follows what is there and what comes through a proxy that does something; why reading was taken up again."""
    await publish_many(stream, COUNT - 5)
    proxy.to_client = change
    async with following(source_of(stream, proxy.url, **limits)) as reading:
        await reading.reaches(COUNT - 5)
        await publish_many(stream, 5)
        await reading.reaches(COUNT)
    assert reading.positions == EVERYTHING
    return reading.interruptions


# -- On the way ------------------------------------------------------------------------------------------------------------

CHANGES = [
    pytest.param(lambda: without(1), id="first lost"),
    pytest.param(lambda: without(7, 8), id="some lost"),
    pytest.param(lambda: without(*range(12, COUNT - 4)), id="end lost"),
    pytest.param(lambda: without(*EVERYTHING), id="all lost"),
    pytest.param(lambda: without(COUNT), id="last lost"),
    pytest.param(lambda: mixing(lambda frames: [*frames, frames[0]]), id="one repeated"),
    pytest.param(lambda: mixing(lambda frames: frames[::-1]), id="order changed"),
    pytest.param(lambda: truncating(7), id="one cut short"),
]


@pytest.mark.parametrize("messages", [7, 100])
@pytest.mark.parametrize("change", CHANGES)
async def test_messages_that_suffer_on_their_way(
    stream: Stream, proxy: Proxy, change: Callable[[], Filter], messages: int, speed: str
) -> None:
    interruptions = await follow_all(stream, proxy, change(), messages=messages)
    assert 1 <= len(interruptions) <= 3
    assert all(isinstance(error, (ContinuityError, StreamError)) for error in interruptions)


async def test_a_message_whose_end_is_lost_with_the_connection(stream: Stream, proxy: Proxy) -> None:
    loop = asyncio.get_running_loop()
    change = truncating(7, lambda: loop.call_later(0.01, proxy.cut) and None)
    assert len(await follow_all(stream, proxy, change)) == 1


class _Trusting(_PythonParser):
    """Takes every message for the one that follows."""

    def _keep(self, subject: str, reply: str, headers: bytes | None, body: bytes) -> None:
        at = parse_reply(reply)
        self.delivered, self.last = at.delivery - 1, at.position - 1
        super()._keep(subject, reply, headers, body)


@pytest.mark.parametrize("change", [CHANGES[1], *CHANGES[5:7]])
async def test_without_a_look_at_the_order_nobody_notices(
    stream: Stream, proxy: Proxy, change: Callable[[], Filter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trusting(sid: int, scheme: Any) -> _Trusting:
        return _Trusting(str(sid), f"{scheme.prefix}.")

    monkeypatch.setattr(consumer, "frame_parser", trusting)
    await publish_many(stream, COUNT)
    proxy.to_client = change()
    positions: list[int] = []
    async with asyncio.timeout(5):
        created = (await stream.info()).created
        source = source_of(stream, proxy.url)
        async for batch in source.follow(EventFilter(), follow.StreamIdentity(created, 0)):
            positions += batch.positions
            if COUNT in positions:
                break
    assert positions != EVERYTHING


@pytest.mark.parametrize("asks", [True, False], ids=["as it is", "without asking"])
async def test_a_message_that_is_under_way_is_not_passed_over(
    stream: Stream, proxy: Proxy, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream's head is known before the message comes; who then says that all was read loses it."""
    monkeypatch.setattr(follow, "_QUIET", 0.02)
    if not asks:
        monkeypatch.setattr(consumer.Consumer, "filters", (), raising=False)
        monkeypatch.setattr(consumer.Consumer, "__setattr__", _all_but_filters)
    await publish(stream, "order.1.paid")
    async with following(source_of(stream, proxy.url)) as reading:
        await reading.reaches(1)
        proxy.to_client = holding(4)
        await publish(stream, "order.2.paid")
        await reading.reaches(2)
        await publish(stream, "order.3.paid")
        await reading.reaches(3)
    assert reading.positions == ([1, 2, 3] if asks else [1, 3])
    assert reading.interruptions == []


def _all_but_filters(self: Any, name: str, value: Any) -> None:
    if name != "filters":
        object.__setattr__(self, name, value)


# -- The consumer ----------------------------------------------------------------------------------------------------------


async def consumers(stream: Stream) -> list[str]:
    names: list[str] = (await stream.command(f"CONSUMER.NAMES.{stream.name}", {}))["consumers"] or []
    return names


async def test_a_consumer_that_is_deleted(stream: Stream) -> None:
    await publish_many(stream, COUNT - 5)
    async with following(source_of(stream, messages=5)) as reading:
        await reading.reaches(COUNT - 5)
        (name,) = await consumers(stream)
        await stream.api.delete_consumer(stream.name, name)
        await reading.until(lambda: bool(reading.interruptions), 1)
        await publish_many(stream, 5)
        await reading.reaches(COUNT)
    assert reading.positions == EVERYTHING
    assert "Consumer Deleted" in str(reading.interruptions[0])
    assert await consumers(stream) == []


async def test_a_consumer_that_is_gone_without_a_word(stream: Stream, proxy: Proxy) -> None:
    await publish(stream, "order.1.paid")
    async with following(source_of(stream, proxy.url)) as reading:
        await reading.reaches(1)
        proxy.to_client = losing(b"Consumer Deleted")
        (name,) = await consumers(stream)
        await stream.api.delete_consumer(stream.name, name)
        await publish(stream, "order.1.paid")
        await reading.reaches(2, 2)
    assert reading.positions == [1, 2]
    assert "consumer not found" in str(reading.interruptions[0])


async def test_a_consumer_that_is_paused(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says so; but a message that is in the stream must come some time."""
    monkeypatch.setattr(follow, "_OVERDUE", 0.3)
    await publish(stream, "order.1.paid")
    async with following(source_of(stream)) as reading:
        await reading.reaches(1)
        (name,) = await consumers(stream)
        await stream.command(f"CONSUMER.PAUSE.{stream.name}.{name}", {"pause_until": "2100-01-01T00:00:00Z"})
        await publish(stream, "order.1.paid")
        await reading.reaches(2, 3)
    assert reading.positions == [1, 2]
    assert "the message at position 2 does not come" in str(reading.interruptions[0])


async def test_requests_that_are_lost_are_made_again(stream: Stream, proxy: Proxy) -> None:
    proxy.to_server = losing(b"CONSUMER.MSG.NEXT", 2)
    async with following(source_of(stream, proxy.url)) as reading:
        await reading.until(lambda: reading.begun)
        await publish(stream, "order.1.paid")
        await reading.reaches(1, 2)
    assert (reading.positions, reading.interruptions) == ([1], [])


# -- The server ------------------------------------------------------------------------------------------------------------


async def test_a_connection_that_is_cut_is_told_at_once(
    stream: Stream, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(source_of(stream, proxy.url)) as reading:
        for number in range(1, 6):
            await publish(stream, "order.1.paid")
            await reading.reaches(number)
            proxy.cut()
            await reading.until(lambda number=number: len(reading.interruptions) == number, 0.5)  # type: ignore[misc]
    assert reading.positions == [1, 2, 3, 4, 5]
    assert "connecting again" not in caplog.text  # the client does not: whoever reads takes it up again


async def test_a_connection_that_is_dead(stream: Stream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is heard from the other end, which nobody has closed."""
    monkeypatch.setitem(JetStreamApi.__init__.__kwdefaults__, "timeout", 0.5)  # type: ignore[arg-type]
    async with following(source_of(stream, proxy.url)) as reading:
        await reading.until(lambda: reading.begun)
        proxy.to_client = lambda _: b""
        began = monotonic()
        await reading.until(lambda: bool(reading.interruptions))
        assert monotonic() - began < 2
        assert isinstance(reading.interruptions[0], NatsUnavailable)
        proxy.to_client = bytes
        proxy.cut()
        await publish(stream, "order.1.paid")
        await reading.reaches(1)
    assert reading.positions == [1]


@pytest.fixture
async def kept(own_nats: Callable[..., EmbeddedNats], tmp_path: Path) -> AsyncIterator[tuple[EmbeddedNats, Stream]]:
    """A server of one's own with a stream that outlives it."""
    async with own_nats(tmp_path / "store") as server, connected(NatsSettings(url=server.url)) as client:
        stream = Stream(client, "S", prefix="S")
        await stream.api.ensure_stream("S", ["S.>"])
        yield server, stream


async def test_a_server_that_is_killed(kept: tuple[EmbeddedNats, Stream]) -> None:
    server, stream = kept
    await publish_many(stream, 10_000, body=bytes(2_000))
    async with following(source_of(stream, messages=300), pause=0.001) as reading:
        for kill in range(1, 4):
            await reading.reaches(2_000 * kill)
            await server.kill()
            await reading.until(lambda kill=kill: len(reading.interruptions) >= kill, 1)  # type: ignore[misc]
            await server.start()
        await reading.reaches(10_000)
        while not stream.client.is_connected:
            await asyncio.sleep(0.05)
        await publish_many(stream, 5)
        await reading.reaches(10_005)
        await server.kill()  # with nothing to read
        await reading.until(lambda: not stream.client.is_connected)
        await server.start()
        while not stream.client.is_connected:
            await asyncio.sleep(0.05)
        await publish_many(stream, 5)
        await reading.reaches(10_010)
    assert reading.positions == list(range(1, 10_011))


async def test_a_server_that_stands_still_for_a_while(
    kept: tuple[EmbeddedNats, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(JetStreamApi.__init__.__kwdefaults__, "timeout", 0.5)  # type: ignore[arg-type]
    server, stream = kept
    await publish_many(stream, 10)
    async with following(source_of(stream)) as reading:
        await reading.reaches(10)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await reading.until(lambda: bool(reading.interruptions), 5)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await publish_many(stream, 5)
        await reading.reaches(15)
    assert reading.positions == list(range(1, 16))


async def test_a_server_that_cuts_off_slow_clients(own_nats: Callable[..., EmbeddedNats]) -> None:
    """It holds little for a client, and much is asked for at once."""
    config = 'max_pending: 512KB\nmax_payload: 32KB\nwrite_deadline: "200ms"'
    async with own_nats(config=config) as server, connected(NatsSettings(url=server.url)) as client:
        stream = Stream(client, "S", prefix="S")
        await stream.api.ensure_stream("S", ["S.>"])
        for _ in range(20):
            await publish_many(stream, 100, body=bytes(10_000))
        async with following(source_of(stream)) as reading:
            await reading.reaches(2_000, 30)
        assert reading.positions == list(range(1, 2_001))


async def test_the_later_form_of_reply_subjects(own_nats: Callable[..., EmbeddedNats]) -> None:
    config = "feature_flags { js_ack_fc_v2: true }"
    async with own_nats(version="2.15", config=config) as server, Proxy().before(server.port) as proxy:
        async with connected(NatsSettings(url=proxy.url)) as client:
            stream = Stream(client, "S", prefix="S")
            await stream.api.ensure_stream("S", ["S.>"])
            await publish_many(stream, 50)
            async with following(source_of(stream)) as reading:
                await reading.reaches(50)
                await publish(stream, "order.1.paid")
                await reading.reaches(51)
        assert b"$JS.ACK._." in proxy.seen_by_client
        assert (reading.positions, reading.interruptions) == (list(range(1, 52)), [])


async def test_what_a_new_leader_says_counts_for_nothing(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not have had all messages yet when it was asked for those after the last one."""
    info, leaders = JetStreamApi.stream_info, ["a"]
    changing = False

    async def led(self: JetStreamApi, *args: Any) -> StreamInfo:
        told = await info(self, *args)
        leaders.append("ab"[len(leaders) % 2] if changing else "a")
        return StreamInfo(told.config, told.created, told.state, told.ts, ClusterInfo(leaders[-1]))

    monkeypatch.setattr(follow, "_QUIET", 0.01)
    monkeypatch.setattr(JetStreamApi, "stream_info", led)
    wanted = EventFilter(aggregate_types=frozenset(["order"]))
    async with following(source_of(stream), wanted=wanted) as reading:
        await reading.until(lambda: reading.begun)
        changing = True
        await publish(stream, "parcel.1.lost")
        asked = len(leaders)
        await reading.until(lambda: len(leaders) > asked + 20)
        assert reading.last == 0
        changing = False
        await reading.reaches(1)
    assert reading.interruptions == []
