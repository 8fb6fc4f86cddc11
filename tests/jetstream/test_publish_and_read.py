"""Publishing to and reading from a real server: versions, conflicts, odd ids, filters, the index."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from refold import App, DomainEvent, EventFilter, NewEvent, Projector, View, event, on
from refold.embedded import EmbeddedNats
from refold.errors import AtomicPublishUnsupported, DefinitionError, SubjectError, UndecodableEvent, VersionConflict

ODD = ["plain", "a b", "d.o.t", "ünï", "*", ">", "new\nline", "100%", "~/$x"]


@event("opened")
class Opened(msgspec.Struct, gc=False):
    number: int


@event("moved")
class Moved(msgspec.Struct, gc=False):
    number: int


class Seen(View):
    number: int = 0


class Seens(Projector[Seen], name="seens"):
    @on(Opened, Moved)
    def any(self, view: Seen, event: DomainEvent[Any]) -> None:
        view.number = event.payload.number


@pytest.fixture
async def app(nats: EmbeddedNats, stream_name: str) -> AsyncIterator[App]:
    app = App("events", nats_url=nats.url, database_url="memory://", stream=stream_name, subject_prefix=stream_name)
    app.register(Seens)
    async with app:
        await app.create_stream()
        yield app


async def everything(app: App, wanted: EventFilter | None = None) -> list[DomainEvent[Any]]:
    return [e async for e in app.event_reader.events(wanted or EventFilter())]


async def test_versions_positions_and_conflicts(app: App) -> None:
    one = await app.publish("box", "1", [Opened(1)], expected_version=0)
    two = await app.publish("box", "1", [Moved(2), Moved(3)], expected_version=1)
    assert (one.position, one.version, two.position, two.version) == (1, 1, 3, 3)
    with pytest.raises(VersionConflict, match=r"box '1' is at version 3, expected 1"):
        await app.publish("box", "1", [Moved(4)], expected_version=1)
    read = [e async for e in app.stream_reader.read("box", "1", from_version=2)]
    assert [(e.type, e.version, e.payload) for e in read] == [("moved", 2, Moved(2)), ("moved", 3, Moved(3))]
    assert [e.position async for e in app.stream_reader.read("box", "1", from_position=3)] == [3]


async def test_concurrent_appends_leave_no_gap(app: App) -> None:
    await asyncio.gather(*(app.publish("box", "1", [Moved(i)]) for i in range(8)))
    assert [e.version for e in await everything(app)] == list(range(1, 9))


async def test_odd_ids_come_back_and_are_indexed(app: App) -> None:
    for key in ODD:
        await app.publish("box", key, [Opened(1)])
        await app.publish("box", key, [Moved(2)])
    await app.publish("crate", "other", [Opened(1)])
    assert [e.aggregate_id for e in await everything(app)][::2][:-1] == ODD
    assert sorted([key async for key in app.indexer.aggregate_ids("box")]) == sorted(ODD)
    (result,) = await app.rebuild()
    assert (result.views, result.complete) == (len(ODD) + 1, True)


async def test_filters_against_a_plain_loop(app: App) -> None:
    for number in range(30):
        await app.publish(["box", "crate"][number % 2], str(number % 5), [[Opened, Moved][number % 3 % 2](number)])
    whole = await everything(app)
    filters = [
        EventFilter(aggregate_types=frozenset(["box"])),
        EventFilter(event_types=frozenset(["moved"])),
        EventFilter(aggregate_types=frozenset(["crate"]), event_types=frozenset(["opened"])),
        EventFilter(start_position=17),
        EventFilter(predicate=lambda e: e.payload.number % 7 == 0),
    ]
    for wanted in filters:
        expected = [e.position for e in whole if wanted.accepts(e)]
        assert 0 < len(expected) < 30
        assert [e.position for e in await everything(app, wanted)] == expected


async def test_latest_is_the_highest_version(app: App) -> None:
    for number in range(6):
        await app.publish("box", str(number % 2), [Moved(number)])
    for by_subject in (False, True):
        latest = await app.event_reader.latest(EventFilter(), by_subject=by_subject)
        assert {key: e.version for key, e in latest.items()} == {("box", "0", "moved"): 3, ("box", "1", "moved"): 3}


async def test_what_cannot_be_published(app: App) -> None:
    class Stranger(msgspec.Struct):
        pass

    with pytest.raises(DefinitionError, match="@event"):
        await app.publish("box", "1", [Stranger()])
    with pytest.raises(SubjectError, match="bytes"):
        await app.publish("box", "k" * 3_000, [Opened(1)])
    with pytest.raises(SubjectError, match="empty"):
        await app.publish("box", "", [Opened(1)])
    assert await everything(app) == []


async def test_several_at_once_need_a_stream_that_can(app: App, nats: EmbeddedNats, stream_name: str) -> None:
    name = f"{stream_name}B"
    await app.client.jetstream().add_stream(name=name, subjects=[f"{name}.>"])
    async with App("old", nats_url=nats.url, database_url="memory://", stream=name, subject_prefix=name) as other:
        with pytest.raises(AtomicPublishUnsupported, match="atomic"):
            await other.publish("box", "1", [Opened(1), Moved(2)])
        assert (await other.publish("box", "1", [Opened(1), Moved(2)], atomic=False)).version == 2


async def test_no_stream_and_no_event(app: App, nats: EmbeddedNats, caplog: pytest.LogCaptureFixture) -> None:
    async with App("none", nats_url=nats.url, database_url="memory://", stream="none") as nobody:
        with caplog.at_level(logging.WARNING):
            assert await everything(nobody) == []
            assert [key async for key in nobody.indexer.aggregate_ids("box")] == []
    assert "none" in str([vars(record).get("stream") for record in caplog.records])
    await app.client.jetstream().publish(f"{app.stream}.box.1.opened", b"{nonsense")
    assert await everything(app) == []
    with pytest.raises(UndecodableEvent, match="1"):
        [e async for e in app.stream_reader.read("box", "1")]


async def test_new_events_say_more(app: App) -> None:
    ack = await app.publish(
        "box", "1", [NewEvent(payload={"free": 1}, type="free", id="my-id", headers={"Trace": "t"})]
    )
    (one,) = await everything(app)
    assert (ack.event_ids, one.id, one.payload, one.headers["Trace"]) == (("my-id",), "my-id", {"free": 1}, "t")
