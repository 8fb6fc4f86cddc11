"""What a NATS user may do: the rights that suffice, and what is said, at once, about each that is missing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from jetstream_support import CODEC, Orders, Placed, collect, exercise, numbered

from refold import App, EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import JetStreamUnavailable, NatsUnavailable, NotPermitted
from refold.jetstream.api import JetStreamApi, request
from refold.jetstream.bulk_publisher import BulkPublisher
from refold.jetstream.connection import NatsSettings, connected
from refold.ports import StreamIdentity

MakeNats = Callable[..., EmbeddedNats]

STREAM = "shop"
INBOX = "_INBOX_proj"
READING = [
    f"$JS.API.STREAM.INFO.{STREAM}",
    f"$JS.API.CONSUMER.CREATE.{STREAM}",
    f"$JS.API.CONSUMER.CREATE.{STREAM}.>",
    f"$JS.API.CONSUMER.INFO.{STREAM}.*",
    f"$JS.API.CONSUMER.DELETE.{STREAM}.*",
    f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.*",
    f"$JS.ACK.{STREAM}.*.>",
    f"$JS.ACK.*.*.{STREAM}.*.>",
]
"""What a worker publishes to that rebuilds and reads."""

FOLLOWING = [*READING, f"$JS.API.STREAM.MSG.GET.{STREAM}"]
"""What a worker publishes to that keeps views up to date."""

PUBLISHING = [f"$JS.API.STREAM.INFO.{STREAM}", f"$JS.API.STREAM.MSG.GET.{STREAM}", "order.>"]
"""What an application publishes to that appends events."""

Use = Callable[[App], Awaitable[Any]]


def users(publish: list[str], subscribe: str = f"{INBOX}.>") -> str:
    """A server configuration with an administrator, and a user with rights."""
    rights = json.dumps({"publish": {"allow": publish}, "subscribe": {"allow": [subscribe]}})
    return f"authorization {{ users: [ {{ user: adm, password: adm }}, {{ user: u, password: u, permissions: {rights} }} ] }}"


@asynccontextmanager
async def limited(own_nats: MakeNats, publish: list[str], **options: Any) -> AsyncIterator[App]:
    """The app of a user with rights, on a server whose administrator has made the stream and appended an event."""
    async with own_nats(config=users(publish, **options)) as server:
        common = {"nats_url": server.url, "database_url": "memory://", "stream": STREAM}
        async with App("admin", nats_user="adm", nats_password="adm", **common) as admin:
            await admin.publish("order", "1", [Placed("ann")])
        app = App("worker", nats_user="u", nats_password="u", nats_inbox_prefix=INBOX, **common)
        app.register(Orders)
        async with app:
            yield app


async def rebuild(app: App) -> Any:
    return await app.rebuild()


async def read_bulk(app: App) -> Any:
    return await collect(app.source.batches(EventFilter(), until=1))


async def follow(app: App) -> Any:
    """Begins to follow the stream; the first batch has its event."""
    identity = StreamIdentity((await app.source.state()).created, 0)
    async with aclosing(app.source.follow(EventFilter(), identity)) as batches:
        return await anext(batches)


async def read_events(app: App) -> Any:
    return await collect(app.event_reader.events(EventFilter()))


async def read_latest(app: App) -> Any:
    return await app.event_reader.latest(EventFilter(), by_subject=True)


async def read_aggregate(app: App) -> Any:
    return await collect(app.stream_reader.read("order", "1"))


async def index(app: App) -> Any:
    return await collect(app.indexer.aggregate_ids("order"))


async def append(app: App) -> Any:
    return await app.publish("order", "1", [Placed("bob")])


async def append_two(app: App) -> Any:
    return await app.publish("order", "1", [Placed("bob"), Placed("eve")])


async def test_the_rights_to_read_suffice_for_a_worker(own_nats: MakeNats) -> None:
    async with limited(own_nats, READING) as app:
        for use in (rebuild, read_bulk, read_events, read_latest, read_aggregate, index):
            assert len(await use(app)) == 1
        assert (await JetStreamApi(app.client)._ask(f"STREAM.INFO.{STREAM}", None, dict, STREAM))["state"][
            "consumer_count"
        ] == 0


async def test_the_rights_to_follow_suffice_for_a_worker(own_nats: MakeNats) -> None:
    async with limited(own_nats, FOLLOWING) as app:
        for use in (follow, rebuild, follow):
            assert len(await use(app)) == 1
        assert await app.source.anchor(1) is not None


@pytest.mark.parametrize(
    "missing", ["STREAM.INFO", "CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.MSG.NEXT", "STREAM.MSG.GET"]
)
async def test_a_right_that_following_lacks_is_named_at_once(own_nats: MakeNats, missing: str) -> None:
    async with limited(own_nats, without(FOLLOWING, missing)) as app:
        began = monotonic()
        with pytest.raises(NotPermitted, match=rf"may not publish to '\$JS\.API\.{missing}\.{STREAM}.*check its perm"):
            await follow(app)
        assert monotonic() - began < 3


async def test_the_rights_to_append_suffice_for_a_publisher(own_nats: MakeNats) -> None:
    async with limited(own_nats, PUBLISHING) as app:
        assert (await append(app)).version == 2
        assert (await append_two(app)).version == 4


def without(rights: list[str], word: str) -> list[str]:
    left = [right for right in rights if word not in right]
    assert len(left) < len(rights)
    return left


@pytest.mark.parametrize(
    ("missing", "uses"),
    [
        ("STREAM.INFO", [rebuild, read_events, read_latest, read_aggregate, index, append]),
        ("CONSUMER.CREATE", [rebuild, read_bulk, read_events, read_latest, read_aggregate]),
        ("CONSUMER.MSG.NEXT", [rebuild, read_bulk, read_events, read_latest, read_aggregate]),
        ("STREAM.MSG.GET", [append, append_two]),
        ("order.>", [append, append_two]),
    ],
)
async def test_a_missing_right_is_named_at_once(
    own_nats: MakeNats, caplog: pytest.LogCaptureFixture, missing: str, uses: list[Use]
) -> None:
    words = rf"may not publish to '(\$JS.API.{missing}.{STREAM}|order\.1\.).*check its permissions"
    async with limited(own_nats, without(READING + PUBLISHING, missing)) as app:
        for use in [*uses, uses[0]]:
            began = monotonic()
            with pytest.raises(NotPermitted, match=words):
                await use(app)
            assert monotonic() - began < 3, use
    assert "taken up again" not in caplog.text


@pytest.mark.parametrize("missing", ["CONSUMER.DELETE", "CONSUMER.INFO"])
async def test_rights_that_reading_can_do_without(own_nats: MakeNats, missing: str) -> None:
    """A consumer that may not be deleted goes by itself after a while."""
    async with limited(own_nats, without(READING, missing)) as app:
        for use in (rebuild, read_events, read_aggregate):
            assert len(await use(app)) == 1


async def test_another_inbox_is_named_at_once(own_nats: MakeNats) -> None:
    async with limited(own_nats, READING + PUBLISHING, subscribe="_INBOX_other.>") as app:
        for use in (follow, rebuild, read_bulk, read_events, read_aggregate, index, append):
            began = monotonic()
            with pytest.raises(NotPermitted, match=rf"may not subscribe to {INBOX}\.>.*set inbox_prefix"):
                await use(app)
            assert monotonic() - began < 3, use


async def test_loading_in_bulk_names_a_missing_right_at_once(own_nats: MakeNats) -> None:
    async with limited(own_nats, without(PUBLISHING, "order.>")) as app:
        bulk = BulkPublisher(app.client, STREAM, CODEC, app.scheme)
        began = monotonic()
        with pytest.raises(NotPermitted, match=r"may not publish to 'order\.7\.placed'"):
            await bulk.publish_many(numbered("7", version) for version in range(1, 4))
        assert monotonic() - began < 3


# -- No JetStream ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("jetstream: disabled", "start the server with JetStream on"),
        ("accounts { A { users: [ { user: a, password: a } ] } }\nno_auth_user: a", "check the account"),
    ],
    ids=["server", "account"],
)
async def test_a_server_or_account_without_jetstream(own_nats: MakeNats, config: str, words: str) -> None:
    async with own_nats(config=config) as server:
        app = App("shop", nats_url=server.url, database_url="memory://")
        app.register(Orders)
        async with app:
            for use in (rebuild, read_events, read_aggregate, index, append):
                began = monotonic()
                with pytest.raises(JetStreamUnavailable, match=words):
                    await use(app)
                assert monotonic() - began < 3, use


async def test_jetstream_works_in_an_account_that_has_it(own_nats: MakeNats) -> None:
    config = "accounts { A { jetstream: enabled, users: [ { user: a, password: a } ] } }\nno_auth_user: a"
    async with own_nats(config=config) as server, App("shop", nats_url=server.url, database_url="memory://") as app:
        await exercise(app)


async def test_no_answer_in_time_and_a_closed_connection(nats: EmbeddedNats, stream_name: str) -> None:
    async with connected(NatsSettings(url=nats.url)) as client:
        await client.subscribe(stream_name)
        with pytest.raises(NatsUnavailable, match=f"no answer at '{stream_name}' within 0.1 s"):
            await request(client, stream_name, timeout=0.1)
        await client.close()
        with pytest.raises(NatsUnavailable, match="closed: check the server"):
            await request(client, stream_name, timeout=0.1)
