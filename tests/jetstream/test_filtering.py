"""Filters: what is read is what a plain loop selects, and the server does not send the rest where it can select itself."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from jetstream_support import Placed, Proxy, Shipped, Stream, numbered

from refold import App, DomainEvent, EventFilter, Projector, View, on
from refold.embedded import EmbeddedNats
from refold.jetstream.bulk import JetStreamSource
from refold.jetstream.connection import NatsSettings, connected

KINDS = ["box", "crate", "order", "parcel", "rest"]
COUNT = 120


@dataclasses.dataclass
class Published:
    """What a test has published, and how to read it."""

    stream: Stream
    proxy: Proxy
    events: list[DomainEvent[Any]]
    middle: datetime

    def selected(self, by: Callable[[DomainEvent[Any]], bool]) -> list[int]:
        """Positions that a plain loop selects."""
        found = []
        for event in self.events:
            if by(event):
                found.append(event.position)
        return found

    def delivered(self) -> int:
        """How many messages consumers have sent since this was last asked."""
        count = self.proxy.seen_by_client.count(b"$JS.ACK.")
        self.proxy.seen_by_client = b""
        return count


@pytest.fixture
async def published(nats: EmbeddedNats, stream_name: str) -> AsyncIterator[Published]:
    events: list[DomainEvent[Any]] = []
    for number in range(COUNT):
        payload = Shipped(str(number)) if number % 3 == 2 else Placed(str(number))
        event = numbered(str(number % 10), number // 50 + 1, kind=KINDS[number // 10 % 5], payload=payload)
        events.append(msgspec.structs.replace(event, id=str(number), position=number + 1))
    async with Proxy().before(nats.port) as proxy, connected(NatsSettings(url=proxy.url)) as client:
        stream = Stream(client, stream_name, prefix=stream_name)
        await stream.api.ensure_stream(stream_name, [f"{stream_name}.>"])
        await stream.bulk().publish_many(events[:70])
        middle = datetime.now(UTC)
        await stream.bulk().publish_many(events[70:])
        yield Published(stream, proxy, events, middle)


def number(event: DomainEvent[Any]) -> int:
    return int(event.payload.customer if isinstance(event.payload, Placed) else event.payload.carrier)


Case = tuple[Callable[[Published], EventFilter], Callable[[Published, DomainEvent[Any]], bool], bool]
"""A filter, the condition that it stands for, and whether the server alone can apply it."""

CASES: dict[str, Case] = {
    "all": (lambda p: EventFilter(), lambda p, e: True, True),
    "aggregate types": (
        lambda p: EventFilter(aggregate_types=frozenset(["box", "rest"])),
        lambda p, e: e.aggregate_type in ("box", "rest"),
        True,
    ),
    "event types": (
        lambda p: EventFilter(event_types=frozenset(["shipped"])),
        lambda p, e: e.type == "shipped",
        True,
    ),
    "both types": (
        lambda p: EventFilter(aggregate_types=frozenset(["box", "order"]), event_types=frozenset(["placed"])),
        lambda p, e: e.aggregate_type in ("box", "order") and e.type == "placed",
        True,
    ),
    "types that are not there": (
        lambda p: EventFilter(aggregate_types=frozenset(["basket"])),
        lambda p, e: e.aggregate_type == "basket",
        True,
    ),
    "start time": (lambda p: EventFilter(start_time=p.middle), lambda p, e: e.position > 70, True),
    "start time with another zone and types": (
        lambda p: EventFilter(start_time=p.middle.astimezone(None), aggregate_types=frozenset(["crate"])),
        lambda p, e: e.position > 70 and e.aggregate_type == "crate",
        True,
    ),
    "start position": (lambda p: EventFilter(start_position=97), lambda p, e: e.position >= 97, True),
    "start position behind the end": (lambda p: EventFilter(start_position=999), lambda p, e: False, True),
    "start position and types": (
        lambda p: EventFilter(start_position=31, event_types=frozenset(["shipped"])),
        lambda p, e: e.position >= 31 and e.type == "shipped",
        True,
    ),
    "predicate": (
        lambda p: EventFilter(predicate=lambda e: number(e) % 7 == 3),
        lambda p, e: number(e) % 7 == 3,
        False,
    ),
    "predicate and types": (
        lambda p: EventFilter(event_types=frozenset(["placed"]), predicate=lambda e: number(e) % 7 == 3),
        lambda p, e: number(e) % 7 == 3 and e.type == "placed",
        False,
    ),
}

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
async def test_the_reader_of_events(published: Published, case: Case) -> None:
    make, condition, on_server = case
    expected = published.selected(lambda event: condition(published, event))
    published.delivered()
    read = [event async for event in published.stream.events(page=11).events(make(published))]
    assert [event.position for event in read] == expected
    assert [event.id for event in read] == [str(position - 1) for position in expected]
    if on_server:
        assert published.delivered() == len(expected)


@cases
async def test_the_bulk_source(published: Published, case: Case) -> None:
    """It may give more than is wanted, but from the start exactly, and nothing that is wanted is missing."""
    make, condition, on_server = case
    wanted = make(published)
    expected = published.selected(lambda event: condition(published, event))
    source = JetStreamSource(
        lambda: connected(published.stream.settings), published.stream.name, published.stream.scheme
    )
    published.delivered()
    read = [position async for batch in source.batches(wanted, until=COUNT) for position in batch.positions]
    assert set(expected) <= set(read)
    assert read == sorted(set(read))
    assert published.delivered() == len(read)
    if wanted.start_position or wanted.start_time:
        assert not read or read[0] >= (wanted.start_position or 71)
    if on_server and len(expected) * 2 < COUNT:
        assert read == expected


class Sum(View):
    numbers: str = ""


def projector(wanted: EventFilter) -> type[Projector[Sum]]:
    """A projector with a filter: each aggregate's view tells the numbers of its events."""
    types = wanted.event_types or {"placed", "shipped"}

    class Sums(
        Projector[Sum],
        name="sums",
        aggregate=wanted.aggregate_types,
        start_time=wanted.start_time,
        start_position=wanted.start_position,
        predicate=wanted.predicate,
    ):
        if "placed" in types:

            @on(Placed, key=key)
            def placed(self, view: Sum, event: DomainEvent[Placed]) -> None:
                view.numbers += f" {number(event)}"

        if "shipped" in types:

            @on(Shipped, key=key)
            def shipped(self, view: Sum, event: DomainEvent[Shipped]) -> None:
                view.numbers += f" {number(event)}"

    return Sums


def key(event: DomainEvent[Any]) -> str:
    return f"{event.aggregate_type}-{event.aggregate_id}"


@cases
async def test_a_projection(published: Published, case: Case) -> None:
    make, condition, _ = case
    expected: dict[str, str] = {}
    for event in published.events:
        if condition(published, event):
            expected[key(event)] = expected.get(key(event), "") + f" {number(event)}"
    stream, sums = published.stream, projector(make(published))
    settings = {"nats_url": stream.settings.url, "database_url": "memory://", "stream": stream.name}
    app = App("sums", **settings, subject_prefix=stream.name)
    app.register(sums)
    async with app:
        (result,) = await app.rebuild()
        views = await app.views(sums).find_all()
    assert {view.id: view.numbers for view in views} == expected
    assert (result.complete, result.views) == (True, len(expected))
