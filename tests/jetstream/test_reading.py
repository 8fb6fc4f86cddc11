"""Reading one aggregate from a version or a position, and the latest events of many."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import msgspec
import pytest
from jetstream_support import CODEC, Placed, Shipped, Stream, collect, numbered

from refold import EventFilter
from refold.errors import IdentityMismatch, UndecodableEvent

ORDER = [("1", 3), ("2", 1), ("1", 1), ("2", 2), ("1", 2), ("3", 7)]
"""Aggregates and versions as they stand in the stream: those of aggregate 1 do not rise."""


async def fill(stream: Stream) -> None:
    """Each event in two types."""
    for payload in (Placed(), Shipped()):
        events = [numbered(key, version, payload=payload) for key, version in ORDER]
        events = [msgspec.structs.replace(event, id=f"{event.type}-{event.id}") for event in events]
        assert (await stream.bulk().publish_many(events)).failures == ()


async def latest(stream: Stream, wanted: EventFilter, *, by_subject: bool = False) -> dict[tuple[str, str], int]:
    found = await stream.events(page=4).latest(wanted, by_subject=by_subject)
    assert all(key == (event.aggregate_type, event.aggregate_id, event.type) for key, event in found.items())
    return {key[1:]: event.version for key, event in found.items()}


async def consumers(stream: Stream) -> int:
    info = await stream.command(f"STREAM.INFO.{stream.name}", {})
    count: int = info["state"]["consumer_count"]
    return count


# -- Latest ----------------------------------------------------------------------------------------------------------------


async def test_the_highest_version_is_found_by_scanning(stream: Stream) -> None:
    await fill(stream)
    expected = {("1", "placed"): 3, ("2", "placed"): 2, ("3", "placed"): 7}
    expected |= {(key, "shipped"): version for (key, _), version in expected.items()}
    assert await latest(stream, EventFilter()) == expected
    assert await latest(stream, EventFilter(event_types=frozenset(["placed"]))) == {
        key: version for key, version in expected.items() if key[1] == "placed"
    }
    assert await consumers(stream) == 0


async def test_the_last_of_each_subject_is_quicker_and_another(stream: Stream) -> None:
    """It is the highest version only where versions rise with positions; here aggregate 1 shows the difference."""
    await fill(stream)
    wanted = EventFilter(event_types=frozenset(["placed"]))
    by_subject = {("1", "placed"): 2, ("2", "placed"): 2, ("3", "placed"): 7}
    assert await latest(stream, wanted, by_subject=True) == by_subject
    assert len(await latest(stream, EventFilter(), by_subject=True)) == 6
    assert await consumers(stream) == 0


@pytest.mark.parametrize("by_subject", [False, True])
async def test_latest_with_other_conditions(stream: Stream, by_subject: bool) -> None:
    """With a predicate it scans in any case: the last message may be one that is not wanted."""
    await fill(stream)
    first = EventFilter(predicate=lambda event: event.version == 1)
    assert await latest(stream, first, by_subject=by_subject) == {
        (key, kind): 1 for key in ("1", "2") for kind in ("placed", "shipped")
    }
    assert await latest(stream, EventFilter(start_position=10), by_subject=by_subject) == {
        ("1", "shipped"): 2,
        ("2", "shipped"): 2,
        ("3", "shipped"): 7,
    }
    moment = datetime.now(UTC)
    assert await latest(stream, EventFilter(start_time=moment), by_subject=by_subject) == {}
    await stream.publisher().publish("order", "3", [Placed()])
    assert await latest(stream, EventFilter(start_time=moment), by_subject=by_subject) == {("3", "placed"): 8}
    assert await latest(stream, EventFilter(aggregate_types=frozenset(["parcel"])), by_subject=by_subject) == {}


# -- One aggregate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_version", [1, 2, 4, 9, 10])
@pytest.mark.parametrize("from_position", [1, 2, 7, 18, 99])
async def test_from_a_version_and_a_position(stream: Stream, from_version: int, from_position: int) -> None:
    """Positions of the stream, versions of the aggregate; each message of another aggregate in between is left out."""
    written = []
    for version in range(1, 10):
        await stream.publisher().publish("order", "1", [Placed(str(version))])
        written.append((version, 2 * version - 1, str(version)))
        await stream.publisher().publish("order", "10", [Shipped()])
    read = await collect(
        stream.aggregates(page=2).read("order", "1", from_version=from_version, from_position=from_position)
    )
    expected = [one for one in written if one[0] >= from_version and one[1] >= from_position]
    assert [(event.version, event.position, event.payload.customer) for event in read] == expected


async def test_versions_that_do_not_rise_are_chosen_one_by_one(stream: Stream) -> None:
    await fill(stream)
    read = await stream.read("order", "1", from_version=2)
    assert [(event.type, event.version) for event in read] == [
        ("placed", 3),
        ("placed", 2),
        ("shipped", 3),
        ("shipped", 2),
    ]


@pytest.mark.parametrize("key", ["a b", "d.o.t", "ünï", "*", ">", "new\nline", "100%", "$JS", "x" * 1_500])
async def test_odd_ids(stream: Stream, key: str) -> None:
    await stream.publisher().publish("order", key, [Placed()])
    await stream.publisher().publish("order", "other", [Placed()])
    (event,) = await stream.read("order", key)
    assert event.aggregate_id == key


async def test_what_is_stored_while_reading_is_not_waited_for(stream: Stream) -> None:
    """Reading ends with what was there when it began."""
    for _ in range(5):
        await stream.publisher().publish("order", "1", [Placed()])
    read = []
    async for event in stream.aggregates(page=2).read("order", "1"):
        read.append(event.version)
        await stream.publisher().publish("order", "1", [Shipped()])
    assert read == [1, 2, 3, 4, 5]


async def test_leaving_early_leaves_no_consumer(stream: Stream) -> None:
    await fill(stream)
    reading = stream.aggregates(page=2).read("order", "1")
    assert (await anext(reading)).version == 3
    assert await consumers(stream) == 1
    await reading.aclose()
    assert await consumers(stream) == 0
    task = asyncio.create_task(collect(stream.aggregates().read("order", "1")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# -- Messages that are no events -------------------------------------------------------------------------------------------


BAD = {
    "undecodable": (b"{nonsense", UndecodableEvent),
    "no version": (b'{"id":"x","aggregate_id":"1","event_type":"placed","aggregate_type":"order"}', UndecodableEvent),
    "another's": (CODEC.encode(numbered("2", 1))[0], IdentityMismatch),
}


@pytest.mark.parametrize(("body", "kind"), BAD.values(), ids=BAD)
async def test_bad_messages(
    stream: Stream, body: bytes, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Who reads one aggregate is told; who reads many finds them in the log."""
    await stream.publisher().publish("order", "1", [Placed()])
    subject = f"{stream.name}.order.1.placed"
    await stream.client.jetstream().publish(subject, body)
    await stream.publisher().publish("order", "2", [Placed()])
    with pytest.raises(kind, match=f"stream '{stream.name}', position 2: "):
        await stream.read("order", "1")
    caplog.set_level(logging.ERROR)
    assert [event.position async for event in stream.events().events(EventFilter())] == [1, 3]
    (record,) = caplog.records
    assert (vars(record)["position"], vars(record)["subject"]) == (2, subject)
