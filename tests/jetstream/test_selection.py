"""In streams of many subjects the server is asked to select only after it has shown that most messages are unwanted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jetstream_support import Stream

from refold import EventFilter
from refold.jetstream import selection
from refold.jetstream.api import JetStreamApi
from refold.jetstream.bulk import BulkLimits, JetStreamSource
from refold.jetstream.connection import connected

COUNT = 600
MESSAGES = 20
"""Of one pull, so that it shows before all are there."""
WANTED = EventFilter(aggregate_types=frozenset(["order"]), event_types=frozenset(["paid", "sent"]))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The filter subjects of each consumer that is made; after every 100 messages it is seen how many were wanted."""
    made: list[list[str]] = []
    create = JetStreamApi.create_consumer

    async def noted(self: JetStreamApi, stream: str, config: Any) -> Any:
        made.append(config.get("filter_subjects", []))
        return await create(self, stream, config)

    monkeypatch.setattr(JetStreamApi, "create_consumer", noted)
    monkeypatch.setattr(selection, "_FEW_SUBJECTS", 50)
    monkeypatch.setattr(selection, "_WINDOW", 100)
    monkeypatch.setattr(selection, "_EVERY", 1)
    return made


async def publish(stream: Stream, subjects: list[str]) -> None:
    for subject in subjects:
        await stream.client.publish(f"{stream.name}.{subject}", b"x")
    await stream.client.flush()
    async with asyncio.timeout(20):
        while (await stream.info()).state.messages < len(subjects):
            await asyncio.sleep(0.01)


async def read(stream: Stream) -> list[int]:
    limits = BulkLimits(messages=MESSAGES)
    source = JetStreamSource(lambda: connected(stream.settings), stream.name, stream.scheme, limits=limits)
    return [p async for batch in source.batches(WANTED, until=COUNT) for p in batch.positions]


async def test_where_most_is_wanted(stream: Stream, asked: list[list[str]]) -> None:
    await publish(stream, [f"order.{n}.{'paid' if n % 3 else 'seen'}" for n in range(COUNT)])
    assert await read(stream) == list(range(1, COUNT + 1))
    assert asked == [[]]


@pytest.mark.parametrize("other", ["order.{}.seen", "parcel.{}.paid", "no.event.{}.sent"])
async def test_where_it_shows_that_little_is_wanted(stream: Stream, asked: list[list[str]], other: str) -> None:
    subjects = [f"order.{n}.sent" if n < 300 or n % 50 == 0 else other.format(n) for n in range(COUNT)]
    await publish(stream, subjects)
    found = await read(stream)
    assert set(found) >= {
        n + 1 for n, subject in enumerate(subjects) if subject.startswith("order.") and "sent" in subject
    }
    assert found == sorted(set(found))
    assert [len(filters) for filters in asked] == [0, 2]
    if not other.startswith("no."):
        assert len(found) < 500  # the last ones came from the server's selection


async def test_where_little_shows_but_the_rest_is_wanted(stream: Stream, asked: list[list[str]]) -> None:
    """The server then says so, and reading goes on with everything."""
    await publish(stream, [f"order.{n}.{'sent' if n >= 150 else 'seen'}" for n in range(COUNT)])
    assert await read(stream) == list(range(1, COUNT + 1))
    assert [len(filters) for filters in asked] == [0, 2, 0]


async def test_where_subjects_are_few(stream: Stream, asked: list[list[str]]) -> None:
    await publish(stream, [f"order.{n % 20}.{'paid' if n % 3 == 0 else 'seen'}" for n in range(COUNT)])
    assert await read(stream) == list(range(1, COUNT + 1, 3))
    assert [len(filters) for filters in asked] == [2]
