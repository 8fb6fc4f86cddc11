"""Listing aggregates by the stream's index of subjects: more than a page of them, and no message read for it."""

from __future__ import annotations

import asyncio
import logging

import pytest
import pytest_asyncio
from jetstream_support import Placed, Proxy, Stream, collect

from refold.embedded import EmbeddedNats
from refold.errors import StreamError
from refold.jetstream import indexer
from refold.jetstream.connection import NatsSettings, connected

COUNT = 120_000
"""More than the 100,000 subjects that a server tells at once."""


def key(number: int) -> str:
    """Ids in an order that is not that of their making."""
    return f"{number * 7_919 % COUNT:06}"


async def fill(url: str, name: str) -> None:
    """One event of each of many aggregates, published as fast as a socket takes them; and some of another type."""
    async with connected(NatsSettings(url=url)) as client:
        stream = Stream(client, name, prefix=name)
        await stream.api.ensure_stream(name, [f"{name}.>"], memory=True)
        lines = [f"PUB {name}.order.{key(number)}.placed 0\r\n\r\n" for number in range(COUNT)]
        lines += [f"PUB {name}.order.{key(number)}.shipped 0\r\n\r\n" for number in range(5)]
        lines += [f"PUB {name}.parcel.{number}.placed 0\r\n\r\n" for number in range(7)]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b'CONNECT {"verbose": false}\r\n' + "".join(lines).encode() + b"PING\r\n")
        while b"PONG" not in await reader.readline():
            pass
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(60):
            while (await stream.info()).state.messages < len(lines):
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def large(nats: EmbeddedNats) -> str:
    """The name of a stream with more aggregates than a page holds."""
    await fill(nats.url, "INDEXING")
    return "INDEXING"


async def test_more_than_a_page_of_aggregates(large: str, proxy: Proxy) -> None:
    async with connected(NatsSettings(url=proxy.url)) as client:
        stream = Stream(client, large, prefix=large)
        orders = await collect(stream.indexer().aggregate_ids("order"))
        assert len(orders) == COUNT
        assert set(orders) == {key(number) for number in range(COUNT)}
        assert sorted(await collect(stream.indexer().aggregate_ids("parcel"))) == [str(n) for n in range(7)]
        assert await collect(stream.indexer().aggregate_ids("basket")) == []
    assert b"CONSUMER" not in proxy.seen_by_server
    assert b"$JS.API.STREAM.MSG.GET" not in proxy.seen_by_server
    assert b"$JS.API.DIRECT" not in proxy.seen_by_server
    assert proxy.seen_by_server.count(b"$JS.API.STREAM.INFO") == 4  # two pages, and one each
    assert b"$JS.ACK" not in proxy.seen_by_client


async def test_subjects_that_go_while_they_are_listed(nats: EmbeddedNats, stream_name: str) -> None:
    """Pages are made from what is there at the time; those that have slid are not trusted, so that nobody is left out."""
    await fill(nats.url, stream_name)
    async with connected(NatsSettings(url=nats.url)) as client:
        stream = Stream(client, stream_name, prefix=stream_name)
        gone = {f"{number:06}" for number in range(0, 90_000, 9_000)}
        listed = []
        async for aggregate_id in stream.indexer().aggregate_ids("order"):
            listed.append(aggregate_id)
            if len(listed) == 1:
                for each in gone:
                    await stream.command(f"STREAM.PURGE.{stream_name}", {"filter": f"{stream_name}.order.{each}.>"})
        assert len(listed) == len(set(listed))
        assert set(listed) - gone == {key(number) for number in range(COUNT)} - gone
        await stream.command(f"STREAM.DELETE.{stream_name}", {})


async def test_subjects_that_go_for_ever(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose pages never meet is given up."""
    monkeypatch.setattr(indexer, "_RESTARTS", 3)
    info = await stream.info()
    listing = stream.indexer()
    asked = 0

    async def stream_info(name: str, *, subjects_filter: str = "", offset: int = 0) -> object:
        nonlocal asked
        asked += 1
        assert asked < 100
        page = {f"{name}.order.{asked:03}{letter}.placed": 1 for letter in "ab"}
        state = type("State", (), {"subjects": page})
        return type("Info", (), {"state": state, "total": 10, "config": info.config})

    monkeypatch.setattr(listing._api, "stream_info", stream_info)
    with pytest.raises(StreamError, match="vanish faster than they can be listed"):
        await collect(listing.aggregate_ids("order"))


async def test_subjects_that_name_no_aggregate(stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await stream.publisher().publish("order", "a b", [Placed()])
    for subject in ("order.%FF.placed", "order.1.2.placed", "order"):
        await stream.client.jetstream().publish(f"{stream.name}.{subject}", b"")
    assert await collect(stream.indexer().aggregate_ids("order")) == ["a b"]
    (warning,) = caplog.records
    assert vars(warning)["subject"] == f"{stream.name}.order.%FF.placed"
