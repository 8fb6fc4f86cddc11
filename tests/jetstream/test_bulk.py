"""The bulk reader against a real server: nothing lost, nothing twice, on good days and bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from refold import EventFilter, SubjectScheme
from refold.embedded import EmbeddedNats
from refold.errors import StreamNotFound
from refold.jetstream import consumer
from refold.jetstream.api import JetStreamApi
from refold.jetstream.bulk import BulkLimits, JetStreamSource
from refold.jetstream.connection import NatsSettings, connected
from refold.jetstream.wire import HookUnavailable

SCHEME = SubjectScheme()


def source_of(url: str, stream: str, **limits: Any) -> JetStreamSource:
    settings = NatsSettings(url=url)
    return JetStreamSource(lambda: connected(settings), stream, SCHEME, limits=BulkLimits(**limits))


async def fill(url: str, stream: str, count: int, *, size: int = 10) -> None:
    async with connected(NatsSettings(url=url)) as client:
        await JetStreamApi(client).ensure_stream(stream, [f"{stream}.>"])
        for number in range(count):
            headers = {"Nats-Msg-Id": str(number)} if number % 2 else None
            await client.publish(f"{stream}.{number % 7}.t{number % 3}", b"x" * size, headers=headers)
        await client.flush()
        async with asyncio.timeout(20):
            while (await JetStreamApi(client).stream_info(stream)).state.messages < count:
                await asyncio.sleep(0.01)


async def read(source: JetStreamSource, wanted: EventFilter | None = None) -> list[int]:
    state = await source.state()
    return [p async for b in source.batches(wanted or EventFilter(), until=state.last) for p in b.positions]


async def test_reads_everything_once_in_order(nats: EmbeddedNats, stream_name: str) -> None:
    await fill(nats.url, stream_name, 5_000)
    assert await read(source_of(nats.url, stream_name, messages=700)) == list(range(1, 5_001))


async def test_pulls_that_end_by_size(nats: EmbeddedNats, stream_name: str) -> None:
    """Several pulls, each ended by the server because the next message would not fit."""
    await fill(nats.url, stream_name, 60, size=200_000)
    assert await read(source_of(nats.url, stream_name, pull_bytes=1)) == list(range(1, 61))


async def test_start_position_end_and_filters(nats: EmbeddedNats, stream_name: str) -> None:
    await fill(nats.url, stream_name, 300)
    source = source_of(nats.url, stream_name)
    assert await read(source, EventFilter(start_position=290)) == list(range(290, 301))
    few = await read(source, EventFilter(aggregate_types=frozenset([stream_name]), event_types=frozenset(["t1"])))
    assert few == [p for p in range(1, 301) if (p - 1) % 3 == 1]  # a third: the server filters
    assert [p async for b in source.batches(EventFilter(), until=10) for p in b.positions] == list(range(1, 11))


async def test_deleted_messages_and_a_deleted_head(nats: EmbeddedNats, stream_name: str) -> None:
    await fill(nats.url, stream_name, 50)
    async with connected(NatsSettings(url=nats.url)) as client:
        js = client.jetstream()
        for position in (1, 20, 21, 50):
            await js.delete_msg(stream_name, position)
    assert await read(source_of(nats.url, stream_name)) == [p for p in range(2, 50) if p not in (20, 21)]


async def test_an_empty_stream_and_none_at_all(nats: EmbeddedNats, stream_name: str) -> None:
    await fill(nats.url, stream_name, 0)
    assert await read(source_of(nats.url, stream_name)) == []
    with pytest.raises(StreamNotFound, match="nowhere"):
        await source_of(nats.url, "nowhere").state()


async def test_the_public_path_where_the_hook_does_not_fit(
    nats: EmbeddedNats, stream_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise HookUnavailable("another release")

    monkeypatch.setattr(consumer, "install", refuse)
    await fill(nats.url, stream_name, 500)
    assert await read(source_of(nats.url, stream_name, messages=90)) == list(range(1, 501))
    assert "slow public path" in caplog.text


@pytest.mark.parametrize("version", ["2.11", "2.12", "2.14", "2.15"])
async def test_every_server_version(own_nats: Callable[..., EmbeddedNats], version: str) -> None:
    async with own_nats(version=version) as server:
        await fill(server.url, "S", 2_000)
        assert await read(source_of(server.url, "S", messages=300)) == list(range(1, 2_001))


async def test_a_server_that_is_killed_and_comes_back(own_nats: Callable[..., EmbeddedNats], tmp_path: Any) -> None:
    async with own_nats(tmp_path / "store") as server:
        await fill(server.url, "S", 20_000, size=2_000)
        source = source_of(server.url, "S", messages=500)
        got: list[int] = []
        async with aclosing(source.batches(EventFilter(), until=20_000)) as batches:
            async for batch in batches:
                got += batch.positions
                if len(got) > 3_000 and server.running and not getattr(server, "was_killed", False):
                    server.was_killed = True  # type: ignore[attr-defined]
                    await server.kill()
                    await server.restart()
        assert got == list(range(1, 20_001))
