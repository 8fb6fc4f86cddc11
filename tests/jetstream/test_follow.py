"""Following a stream: all that is there and all that comes, at once, and word of progress where nothing wanted comes."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from following import following, publish, publish_many, source_of
from jetstream_support import Stream

from refold import EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError, StreamNotFound
from refold.jetstream import consumer, follow, selection
from refold.jetstream.api import JetStreamApi
from refold.jetstream.connection import NatsSettings, connected
from refold.jetstream.wire import HookUnavailable
from refold.ports import StreamIdentity

SOME = EventFilter(aggregate_types=frozenset(["order"]), event_types=frozenset(["paid", "sent"]))


async def identity_of(stream: Stream, position: int = 0) -> StreamIdentity:
    return StreamIdentity((await stream.info()).created, position)


# -- Messages --------------------------------------------------------------------------------------------------------------


async def test_what_is_there_and_then_what_comes(stream: Stream) -> None:
    await publish_many(stream, 3_000)
    async with following(source_of(stream, messages=700)) as reading:
        await reading.reaches(3_000)
        await publish_many(stream, 2_000)
        await reading.reaches(5_000)
        for _ in range(20):
            await publish(stream, "order.1.paid")
        await reading.reaches(5_020)
    assert reading.positions == list(range(1, 5_021))
    assert reading.interruptions == []
    assert reading.messages[-1] == ("order", "1", "paid", 5_020, None, b"x")


async def test_only_what_is_after_the_position(stream: Stream) -> None:
    await publish_many(stream, 30)
    async with following(source_of(stream), await identity_of(stream, 20)) as reading:
        await reading.reaches(30)
        await publish(stream, "order.1.paid")
        await reading.reaches(31)
    assert reading.positions == list(range(21, 32))


async def test_pending_tells_how_much_is_left(stream: Stream) -> None:
    await publish_many(stream, 500)
    left = {}
    async for batch in source_of(stream, messages=50).follow(EventFilter(), await identity_of(stream)):
        left[batch.last] = batch.pending
        if batch.last == 500:
            break
    assert left == {last: 500 - last for last in left}


async def test_a_message_is_given_at_once(stream: Stream) -> None:
    """Well below what a machine that does other things too would make of a wait anywhere."""
    delays = []
    async with following(source_of(stream)) as reading:
        await reading.until(lambda: reading.begun)
        for number in range(1, 51):
            began = time.perf_counter()
            await publish(stream, "order.1.paid")
            while reading.last < number:
                await asyncio.sleep(0)
            delays.append(time.perf_counter() - began)
    assert sorted(delays)[25] < 0.02, sorted(delays)


async def test_the_public_path_where_the_hook_does_not_fit(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise HookUnavailable("another release")

    monkeypatch.setattr(consumer, "install", refuse)
    await publish_many(stream, 200)
    async with following(source_of(stream, messages=30)) as reading:
        await reading.reaches(200)
        await publish(stream, "order.1.paid")
        await reading.reaches(201)
    assert reading.positions == list(range(1, 202))
    assert "slow public path" in caplog.text


async def test_a_reader_who_is_slow_bounds_what_is_under_way(stream: Stream) -> None:
    """No more is asked for than two pulls while the batch is worked on."""
    await publish_many(stream, 1_000, body=bytes(1_000))
    batches = source_of(stream, messages=50).follow(EventFilter(), await identity_of(stream))
    first = await anext(batches)
    await asyncio.sleep(0.3)
    (name,) = (await stream.command(f"CONSUMER.NAMES.{stream.name}", {}))["consumers"]
    sent = (await stream.api.consumer_info(stream.name, name)).delivered.consumer_seq
    assert len(first) <= sent <= 150
    await batches.aclose()


# -- Where it begins -------------------------------------------------------------------------------------------------------


async def test_a_start_position_that_is_still_to_come(stream: Stream) -> None:
    await publish_many(stream, 10)
    async with following(source_of(stream), wanted=EventFilter(start_position=15)) as reading:
        await reading.reaches(10)
        for _ in range(10):
            await publish(stream, "order.1.paid")
        await reading.reaches(20)
    assert reading.positions == list(range(15, 21))
    assert reading.told[0] == 10


@pytest.mark.parametrize("position", [0, 3])
async def test_a_start_time(stream: Stream, position: int) -> None:
    """It counts where it lies after the position, too."""
    await publish_many(stream, 10)
    since = datetime.now(UTC)
    await asyncio.sleep(0.01)
    await publish_many(stream, 5)
    wanted = EventFilter(start_time=since)
    async with following(source_of(stream), await identity_of(stream, position), wanted) as reading:
        await reading.reaches(15)
    assert reading.positions == list(range(11, 16))


async def test_a_start_time_that_is_still_to_come(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_QUIET", 0.05)
    await publish_many(stream, 10)
    since = datetime.now(UTC) + timedelta(seconds=0.5)
    async with following(source_of(stream), wanted=EventFilter(start_time=since)) as reading:
        await reading.reaches(10)
        early = await publish(stream, "order.1.paid")
        await reading.reaches(early)
        while datetime.now(UTC) < since:
            await asyncio.sleep(0.01)
        late = await publish(stream, "order.1.paid")
        await reading.reaches(late)
    assert reading.positions == [late]


# -- Progress without messages ---------------------------------------------------------------------------------------------


async def test_an_empty_stream_is_read_at_once(stream: Stream) -> None:
    async with following(source_of(stream)) as reading:
        await reading.until(lambda: reading.begun, 0.8)
        assert await publish(stream, "order.1.paid") == 1
        await reading.reaches(1)
    assert (reading.told, reading.positions) == ([0], [1])


async def test_nothing_new_is_told_at_once_and_once(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_QUIET", 0.02)
    await publish_many(stream, 10)
    async with following(source_of(stream), await identity_of(stream, 10)) as reading:
        await reading.until(lambda: reading.begun, 0.8)
        await asyncio.sleep(0.3)
    assert (reading.told, reading.positions) == ([10], [])


async def delete_the_last(stream: Stream) -> int:
    last = await publish(stream, "order.1.paid", "order.2.paid")
    await stream.client.jetstream().delete_msg(stream.name, last)
    return last


async def purge_but_some(stream: Stream) -> int:
    last = await publish(stream, *(f"order.{n}.paid" for n in range(5)))
    await stream.command(f"STREAM.PURGE.{stream.name}", {"keep": 2})
    return last


async def purge_all(stream: Stream) -> int:
    last = await publish(stream, *(f"order.{n}.paid" for n in range(5)))
    await stream.command(f"STREAM.PURGE.{stream.name}", {})
    return last


async def publish_unwanted(stream: Stream) -> int:
    return await publish(stream, *(f"parcel.{n}.lost" for n in range(20)))


async def publish_no_events(stream: Stream) -> int:
    return await publish(stream, "paid", "order.1.very.paid", "order")


CHANGES = [delete_the_last, purge_but_some, purge_all, publish_unwanted, publish_no_events]


@pytest.mark.parametrize("wanted", [EventFilter(), SOME], ids=["all", "some"])
@pytest.mark.parametrize("change", CHANGES)
async def test_the_head_is_reached_before(stream: Stream, change: Callable[[Stream], Any], wanted: EventFilter) -> None:
    await publish(stream, "order.1.paid", "order.2.sent")
    head = await change(stream)
    async with following(source_of(stream), wanted=wanted, accept_expired=True) as reading:
        await reading.reaches(head, 3)
        last = await publish(stream, "order.1.sent")
        await reading.reaches(last, 3)
    assert reading.interruptions == []
    assert reading.positions[-1] == last


@pytest.mark.parametrize("wanted", [EventFilter(), SOME], ids=["all", "some"])
@pytest.mark.parametrize("change", CHANGES)
async def test_the_head_is_reached_meanwhile(
    stream: Stream, change: Callable[[Stream], Any], wanted: EventFilter
) -> None:
    await publish(stream, "parcel.1.lost", "parcel.2.lost", "parcel.3.lost", "order.2.sent")
    async with following(source_of(stream), wanted=wanted) as reading:
        await reading.reaches(4)
        head = await change(stream)
        await reading.reaches(head, 3)
        last = await publish(stream, "order.1.sent")
        await reading.reaches(last, 3)
    assert reading.interruptions == []
    assert reading.positions[-1] == last


@pytest.mark.parametrize("minor", ["2.11", "2.15"])
async def test_messages_that_go_by_themselves_leave_no_lag(own_nats: Callable[..., EmbeddedNats], minor: str) -> None:
    """Time to live, with the markers that the server puts in their place, which go as well."""
    async with own_nats(version=minor) as server, connected(NatsSettings(url=server.url)) as client:
        stream = Stream(client, "S", prefix="S")
        config = {"name": "S", "subjects": ["S.>"], "allow_msg_ttl": True, "allow_rollup_hdrs": True}
        await stream.command("STREAM.CREATE.S", {**config, "subject_delete_marker_ttl": int(1e9)})
        await publish(stream, "order.1.paid", headers={"Nats-TTL": "1s"})
        async with following(source_of(stream)) as reading:
            await reading.reaches(1)
            await reading.reaches(2)  # the marker
        assert [message[3] for message in reading.messages] == [1, 2]
        assert reading.messages[1][4] is not None
        assert b"Nats-Marker-Reason" in reading.messages[1][4]
        async with asyncio.timeout(10):
            while (await stream.info()).state.messages:
                await asyncio.sleep(0.1)
        async with following(source_of(stream), await identity_of(stream, 1), accept_expired=True) as reading:
            await reading.reaches(2)
        assert (reading.positions, reading.told) == ([], [2])


async def test_nothing_that_is_still_to_come_is_passed_over(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """While wanted and unwanted messages come, the stream is asked all the time; each wanted one is given."""
    monkeypatch.setattr(follow, "_QUIET", 0)
    wanted = []
    async with following(source_of(stream), wanted=SOME) as reading:
        for number in range(300):
            position = await publish(stream, f"order.{number}.{'paid' if number % 3 else 'lost'}")
            if number % 3:
                wanted.append(position)
            else:
                await asyncio.sleep(0.005)
        await reading.reaches(300)
    assert [message[3] for message in reading.messages if message[2] == "paid"] == wanted
    assert len(reading.told) > 10
    assert reading.interruptions == []


async def test_an_idle_stream_costs_a_request_a_second(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_QUIET", 0.1)
    asked: list[str] = []
    ask = JetStreamApi._ask

    async def noted(self: JetStreamApi, verb: str, *rest: Any) -> Any:
        asked.append(verb)
        return await ask(self, verb, *rest)

    await publish(stream, "order.1.paid")
    async with following(source_of(stream)) as reading:
        await reading.reaches(1)
        await publish(stream, "order.1.paid")
        await reading.reaches(2)
        monkeypatch.setattr(JetStreamApi, "_ask", noted)
        await asyncio.sleep(1)
    assert set(asked[:-1]) == {f"STREAM.INFO.{stream.name}"}  # the last one may be the consumer's end
    assert 3 < len(asked) <= 12


# -- The consumer ----------------------------------------------------------------------------------------------------------


async def consumers(stream: Stream) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await stream.command(f"CONSUMER.LIST.{stream.name}", {}))["consumers"] or []
    return listed


@pytest.mark.parametrize(
    ("name", "begins"), [("shop-e12", "shop-e12-"), ("", "refold-"), ("a b.c*>/\\é\t" + "x" * 300, "a_b_c_xxx")]
)
async def test_the_consumer_is_named_and_removed(stream: Stream, name: str, begins: str) -> None:
    async with following(source_of(stream), name=name) as one, following(source_of(stream), name=name) as two:
        await one.until(lambda: one.begun and two.begun)
        made = await consumers(stream)
        assert len({consumer["name"] for consumer in made}) == 2
        assert all(consumer["name"].startswith(begins) for consumer in made)
    assert await consumers(stream) == []


async def test_an_idle_consumer_is_kept(
    every_nats: tuple[str, EmbeddedNats], stream_name: str, monkeypatch: Any
) -> None:
    """Its pulls wait; that is enough for the server. A reader who went away without a word is forgotten."""
    monkeypatch.setattr(consumer, "_INACTIVE", 0.5)
    async with connected(NatsSettings(url=every_nats[1].url)) as client:
        stream = Stream(client, stream_name, prefix=stream_name)
        await stream.api.ensure_stream(stream_name, [f"{stream_name}.>"])
        async with following(source_of(stream)) as reading:
            await reading.until(lambda: reading.begun)
            await asyncio.sleep(2)
            await publish(stream, "order.1.paid")
            await reading.reaches(1)
            assert reading.interruptions == []
            monkeypatch.setattr(JetStreamApi, "delete_consumer", lambda *_: asyncio.sleep(0))
        async with asyncio.timeout(5):
            while await consumers(stream):
                await asyncio.sleep(0.05)


async def test_a_consumer_that_turns_out_to_send_mostly_unwanted(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes its place, and nothing is lost or repeated."""
    monkeypatch.setattr(selection, "_FEW_SUBJECTS", 0)
    monkeypatch.setattr(selection, "_WINDOW", 50)
    monkeypatch.setattr(selection, "_EVERY", 1)
    await publish(stream, "parcel.1.lost")
    async with following(source_of(stream, messages=20), wanted=SOME) as reading:
        await reading.reaches(1)
        assert "filter_subjects" not in (await consumers(stream))[0]["config"]
        wanted = []
        for number in range(200):
            position = await publish(stream, f"order.{number}.{'lost' if number % 10 else 'paid'}")
            if number % 10 == 0:
                wanted.append(position)
        await reading.reaches(201)
        assert len((await consumers(stream))[0]["config"]["filter_subjects"]) == 2
    assert [message[3] for message in reading.messages if message[2] == "paid"] == wanted
    assert len(reading.messages) < 120
    assert reading.interruptions == []


# -- Streams that cannot be followed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_a_stream_that_forgets_what_was_read_is_refused(stream: Stream, retention: str) -> None:
    name = f"{stream.name}-{retention}"
    await stream.command(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "retention": retention})
    other = Stream(stream.client, name)
    words = f"has {retention} retention.*limits retention"
    with pytest.raises(ConfigurationError, match=words):
        await anext(source_of(other).follow(EventFilter(), await identity_of(other)))
    with pytest.raises(ConfigurationError, match=words):
        await anext(source_of(other).batches(EventFilter(), until=1))
    assert await consumers(other) == []


async def test_no_stream(stream: Stream) -> None:
    nowhere = Stream(stream.client, "nowhere")
    with pytest.raises(StreamNotFound):
        await anext(source_of(nowhere).follow(EventFilter(), StreamIdentity("", 0)))
    with pytest.raises(StreamNotFound):
        await source_of(nowhere).anchor(1)


async def test_every_server_version(every_nats: tuple[str, EmbeddedNats], stream_name: str) -> None:
    async with connected(NatsSettings(url=every_nats[1].url)) as client:
        stream = Stream(client, stream_name, prefix=stream_name)
        await stream.api.ensure_stream(stream_name, [f"{stream_name}.>"])
        await publish_many(stream, 300)
        identity = await identity_of(stream, 10)
        identity = dataclasses.replace(identity, anchor=await source_of(stream).anchor(10))
        assert identity.anchor is not None
        async with following(source_of(stream, messages=40), identity) as all_of_it:
            async with following(source_of(stream), identity, SOME) as some:
                await all_of_it.reaches(300)
                await some.reaches(300)
                await publish(stream, "order.1.paid", "order.1.lost")
                await all_of_it.reaches(302)
                await some.reaches(302, 3)
        assert all_of_it.positions == list(range(11, 303))
        assert some.positions == [301]
        assert (all_of_it.interruptions, some.interruptions) == ([], [])
