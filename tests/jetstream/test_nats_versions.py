"""The same on every supported server version: appending, conflicts, batches, reading, listing, bulk reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from jetstream_support import Orders, Placed, Proxy, Shipped, Stream, collect, exercise, overtaken, rewriting

from refold import App, EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import AtomicPublishUnsupported, StreamError, VersionConflict
from refold.jetstream.connection import NatsSettings, connected
from refold.jetstream.publisher import JetStreamPublisher

EveryNats = tuple[str, EmbeddedNats]


@pytest.fixture
async def every_stream(every_nats: EveryNats, stream_name: str) -> AsyncIterator[tuple[str, Stream]]:
    """A new stream on each server version in turn, made as an app makes it."""
    minor, server = every_nats
    async with connected(NatsSettings(url=server.url)) as client:
        stream = Stream(client, stream_name, prefix=stream_name)
        await stream.api.ensure_stream(stream_name, [f"{stream_name}.>"])
        yield minor, stream


async def test_all_that_an_app_does(every_nats: EveryNats, stream_name: str, caplog: pytest.LogCaptureFixture) -> None:
    _, server = every_nats
    settings = {"nats_url": server.url, "database_url": "memory://"}
    async with App("shop", **settings, stream=stream_name, subject_prefix=stream_name) as app:
        await exercise(app)
        latest = await app.event_reader.latest(EventFilter(), by_subject=True)
        assert {key: event.version for key, event in latest.items()} == {
            ("order", "1", "placed"): 1,
            ("order", "2", "placed"): 1,
            ("order", "2", "shipped"): 2,
        }
        assert len(await collect(app.source.batches(Orders.spec.wanted, until=2))) > 0
    assert caplog.messages == []


async def test_an_expected_version_is_checked_by_the_server(every_stream: tuple[str, Stream]) -> None:
    """Here another event comes in between after the publisher has looked: only the server can tell."""
    _, stream = every_stream
    await stream.publisher().publish("order", "1", [Placed()])
    publisher = overtaken(stream.publisher(), lambda: stream.publisher().publish("order", "1", [Shipped()]))
    with pytest.raises(VersionConflict) as conflict:
        await publisher.publish("order", "1", [Placed("late")], expected_version=1)
    assert (conflict.value.expected, conflict.value.actual) == (1, 2)
    assert [event.type for event in await stream.read("order", "1")] == ["placed", "shipped"]


async def test_without_an_expected_version_it_appends_behind(every_stream: tuple[str, Stream]) -> None:
    _, stream = every_stream
    publisher = overtaken(stream.publisher(), lambda: stream.publisher().publish("order", "1", [Shipped()]))
    assert (await publisher.publish("order", "1", [Placed("late")])).version == 2
    assert [(event.type, event.version) for event in await stream.read("order", "1")] == [("shipped", 1), ("placed", 2)]


async def test_several_events_all_or_none(every_stream: tuple[str, Stream]) -> None:
    minor, stream = every_stream
    if minor == "2.11":
        with pytest.raises(AtomicPublishUnsupported, match=r"2\.12 or later and the stream setting allow_atomic"):
            await stream.publisher().publish("order", "1", [Placed(), Shipped()])
        assert (await stream.info()).state.messages == 0
    else:
        ack = await stream.publisher().publish("order", "1", [Placed(), Shipped()], expected_version=0)
        assert (ack.position, ack.version) == (2, 2)
    in_turn = await stream.publisher().publish("order", "2", [Placed(), Shipped()], atomic=False)
    assert in_turn.version == 2


async def test_a_batch_that_comes_late_is_stored_behind_or_not_at_all(every_stream: tuple[str, Stream]) -> None:
    minor, stream = every_stream
    if minor == "2.11":
        return  # it has no batches, as the test before shows

    def late() -> JetStreamPublisher:
        return overtaken(stream.publisher(), lambda: stream.publisher().publish("order", "1", [Shipped()]))

    with pytest.raises(VersionConflict):
        await late().publish("order", "1", [Placed("a"), Placed("b")], expected_version=0)
    assert (await stream.info()).state.messages == 1
    assert (await late().publish("order", "1", [Placed("a"), Placed("b")])).version == 4
    assert [event.version for event in await stream.read("order", "1")] == [1, 2, 3, 4]


@pytest.mark.parametrize("code", [b"10071", b"10164"])
async def test_both_codes_of_a_conflict(nats: EmbeddedNats, stream_name: str, code: bytes) -> None:
    """Clustered servers say 10164 where others say 10071."""
    async with Proxy().before(nats.port) as proxy, connected(NatsSettings(url=proxy.url)) as client:
        proxy.to_client = rewriting(b'"err_code":10071', b'"err_code":' + code)
        stream = Stream(client, stream_name, prefix=stream_name)
        await stream.api.ensure_stream(stream_name, [f"{stream_name}.>"])
        publisher = overtaken(stream.publisher(), lambda: stream.publisher().publish("order", "1", [Shipped()]))
        with pytest.raises(VersionConflict):
            await publisher.publish("order", "1", [Placed()], expected_version=0)
        assert code in proxy.seen_by_client


async def test_of_two_who_append_at_once_exactly_one_wins(every_stream: tuple[str, Stream]) -> None:
    """Each on a connection of its own; afterwards each event of the aggregate has its own version."""
    _, stream = every_stream
    settings = stream.settings
    async with connected(settings) as first, connected(settings) as second:
        rivals = [Stream(client, stream.name, prefix=stream.name).publisher() for client in (first, second)]
        for version in range(15):
            done = await asyncio.gather(
                *(rival.publish("order", "1", [Placed(str(version))], expected_version=version) for rival in rivals),
                return_exceptions=True,
            )
            assert sorted(type(one).__name__ for one in done) == ["PublishAck", "VersionConflict"], done
    assert [event.version for event in await stream.read("order", "1")] == list(range(1, 16))


# -- Reply subjects --------------------------------------------------------------------------------------------------------


async def read_all(app: App) -> None:
    """By every way of reading; each looks at the reply subjects of what is delivered."""
    assert len(await collect(app.event_reader.events(EventFilter()))) == 3
    assert len(await collect(app.stream_reader.read("order", "2"))) == 2
    assert len(await app.event_reader.latest(EventFilter(), by_subject=True)) == 3
    batches = await collect(app.source.batches(EventFilter(), until=3))
    assert [position for batch in batches for position in batch.positions] == [1, 2, 3]


async def test_a_server_that_writes_the_later_form(own_nats: Callable[..., EmbeddedNats]) -> None:
    """2.15 writes it where it is told to."""
    async with own_nats(version="2.15", config="feature_flags { js_ack_fc_v2: true }") as server:
        async with Proxy().before(server.port) as proxy:
            async with App("shop", nats_url=proxy.url, database_url="memory://") as app:
                await exercise(app)
                await read_all(app)
            assert b"$JS.ACK._." in proxy.seen_by_client
            assert b"$JS.ACK.shop." not in proxy.seen_by_client


@pytest.mark.parametrize(("inserted", "appended"), [(b"", b""), (b"hub.AbCdEf.", b""), (b"_.AbCdEf.", b".rand0m")])
async def test_the_forms_that_a_server_may_write(
    nats: EmbeddedNats, stream_name: str, inserted: bytes, appended: bytes
) -> None:
    async with Proxy().before(nats.port) as proxy:
        settings = {"nats_url": proxy.url, "database_url": "memory://", "stream": stream_name}
        async with App("shop", **settings, subject_prefix=stream_name) as app:
            form = rb"\$JS\.ACK\.(" + stream_name.encode() + rb"\.[^ ]+)"
            proxy.to_client = rewriting(form, rb"$JS.ACK." + inserted + rb"\1" + appended)
            await exercise(app)
            await read_all(app)
        assert b"$JS.ACK." + inserted + stream_name.encode() in proxy.seen_by_client


async def test_a_form_that_is_not_known_is_told(nats: EmbeddedNats, stream_name: str) -> None:
    async with Proxy().before(nats.port) as proxy:
        settings = {"nats_url": proxy.url, "database_url": "memory://", "stream": stream_name}
        async with App("shop", **settings, subject_prefix=stream_name) as app:
            await app.publish("order", "1", [Placed()])
            proxy.to_client = rewriting(rb"\$JS\.ACK\.", b"$JS.ACK3.")
            with pytest.raises(StreamError, match="not the reply subject"):
                await collect(app.event_reader.events(EventFilter()))
