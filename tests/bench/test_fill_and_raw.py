"""A filled stream is what the publisher would have written, and the raw limit counts all of it."""

from __future__ import annotations

import os
import signal

import pytest

from refold.bench import raw
from refold.bench.connection import BareConnection
from refold.bench.fill import fill
from refold.bench.model import draw
from refold.bench.raw import raw_limit
from refold.codecs import JsonCodec
from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError, NatsUnavailable, StreamError, StreamNotFound
from refold.event import NewEvent
from refold.jetstream.connection import NatsSettings, connected
from refold.jetstream.publisher import JetStreamPublisher
from refold.subjects import SubjectScheme


@pytest.fixture
async def server():
    """A server of its own: all benchmark streams take the same subjects."""
    async with EmbeddedNats() as server:
        yield server


async def _messages(client, stream, count):
    context = client.jetstream()
    found = [await context.get_msg(stream, seq) for seq in range(1, count + 1)]
    return [(message.subject, list((message.headers or {}).items()), message.data) for message in found]


async def test_filled_messages_equal_published_ones(server):
    """Subjects, headers (in order) and bodies, over several versions of several aggregates."""
    fill(server.url, "BENCH", events=40, aggregates=7, seed=5)
    async with connected(NatsSettings(url=server.url)) as client:
        filled = await _messages(client, "BENCH", 40)
        context = client.jetstream()
        await context.delete_stream("BENCH")
        await context.add_stream(name="BENCH", subjects=["order.>"])
        publisher = JetStreamPublisher(client, "BENCH", JsonCodec(), SubjectScheme())
        for event in draw(40, 7, seed=5):
            new = NewEvent(payload=event.payload, id=event.id, timestamp=event.timestamp)
            ack = await publisher.publish(event.aggregate_type, event.aggregate_id, [new])
            assert ack.version == event.version
        assert filled == await _messages(client, "BENCH", 40)


def test_fill_stores_every_event(server):
    told = []
    seconds = fill(server.url, "BENCH", events=45_000, aggregates=500, skew="zipf", progress=told.append)
    with BareConnection(server.url) as connection:
        state = connection.api("STREAM.INFO", "BENCH")["state"]
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (45_000, 1, 45_000)
    assert told == sorted(told)
    assert told[-1] == 45_000
    assert seconds > 0


def test_fill_refuses_a_stream_that_exists(server):
    fill(server.url, "BENCH", events=10, aggregates=2)
    with pytest.raises(StreamError, match="exists and is not new"):
        fill(server.url, "BENCH", events=20, aggregates=2, seed=2)


def test_raw_limit_counts_every_event(server):
    fill(server.url, "BENCH", events=5_000, aggregates=100)
    assert raw_limit(server.url, "BENCH", rounds=2) > 1_000
    with BareConnection(server.url) as connection:
        assert connection.api("STREAM.INFO", "BENCH")["state"]["consumer_count"] == 0


@pytest.mark.parametrize(("batch", "size"), [(700, 2**24), (10_000, 2**18)])
def test_raw_limit_asks_again_when_a_request_is_served(server, monkeypatch, batch, size):
    """Requests end by their number of messages as well as by their bytes."""
    monkeypatch.setattr(raw, "_BATCH", batch)
    monkeypatch.setattr(raw, "_PULL_BYTES", size)
    fill(server.url, "BENCH", events=5_000, aggregates=100)
    assert raw_limit(server.url, "BENCH", rounds=1) > 0


async def test_raw_limit_walks_frames_of_any_size(server):
    """Bodies that look like the protocol, empty ones, large ones, with and without headers."""
    bodies = [b"", b"x", b"MSG a 2 12\r\n", b"\r\n" * 40, b"y" * 300, b"z" * 5_000, b"NATS/1.0 409 no\r\n\r\n"]
    async with connected(NatsSettings(url=server.url)) as client:
        context = client.jetstream()
        await context.add_stream(name="ODD", subjects=["odd"])
        for body in bodies * 3:
            await context.publish("odd", body)
            await context.publish("odd", body, headers={"A": "b"})
    reader = raw._Reader(server.url, "ODD")
    assert reader.events_per_s() > 0
    assert reader._counted == 6 * len(bodies)


def test_raw_limit_of_nothing_is_an_error(server):
    with pytest.raises(StreamNotFound):
        raw_limit(server.url, "NONE")
    with BareConnection(server.url) as connection:
        connection.api("STREAM.CREATE", "EMPTY", {"name": "EMPTY", "subjects": ["empty"]})
    with pytest.raises(StreamError, match="empty"):
        raw_limit(server.url, "EMPTY")


def test_raw_limit_says_why_it_ended_early(server, monkeypatch):
    """A consumer that is gone when the first request comes."""
    make = raw._Reader._consumer

    def make_and_delete(reader):
        name = make(reader)
        with BareConnection(server.url) as other:
            other.api("CONSUMER.DELETE.BENCH", name)
        return name

    monkeypatch.setattr(raw._Reader, "_consumer", make_and_delete)
    fill(server.url, "BENCH", events=10, aggregates=2)
    with pytest.raises(StreamError, match=r"0 of 10 events.*503"):
        raw_limit(server.url, "BENCH", rounds=1)


async def test_raw_limit_ends_when_the_server_does(monkeypatch):
    async with EmbeddedNats() as server:
        fill(server.url, "BENCH", events=10, aggregates=2)
        reader = raw._Reader(server.url, "BENCH")
        make = reader._consumer

        def make_and_kill():
            name = make()
            os.kill(server.pid, signal.SIGKILL)
            return name

        monkeypatch.setattr(reader, "_consumer", make_and_kill)
        with pytest.raises((StreamError, NatsUnavailable), match=r"BENCH|127"):
            reader.events_per_s()


def test_connection_refuses_what_it_cannot_speak():
    with pytest.raises(ConfigurationError, match="nats://"):
        BareConnection("tls://127.0.0.1:4222")


def test_no_server_is_told():
    with pytest.raises(NatsUnavailable, match=r"127\.0\.0\.1:1"), BareConnection("nats://127.0.0.1:1"):
        pass


async def test_wrong_password_is_told_without_repeating_it():
    async with EmbeddedNats(config='authorization { user: a, password: "right-one" }') as server:
        host = server.url.removeprefix("nats://")
        with BareConnection(f"nats://a:right-one@{host}") as connection:
            connection.api("STREAM.CREATE", "ANY", {"name": "ANY", "subjects": ["any"]})
        with (
            pytest.raises(NatsUnavailable, match="Authorization") as told,
            BareConnection(f"nats://a:wrong-one@{host}"),
        ):
            pass
        assert "wrong-one" not in str(told.value)
