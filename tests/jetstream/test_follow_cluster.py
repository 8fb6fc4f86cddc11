"""Following a stream of a cluster whose leaders change and whose servers die."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
from following import following, source_of
from jetstream_support import Stream

from refold import EventFilter
from refold.embedded import EmbeddedNats
from refold.errors import StreamError
from refold.jetstream.connection import NatsSettings, connected
from servers import nats_cluster


async def persist(stream: Stream, first: int, count: int) -> None:
    """Publishes messages one after another, each until it is stored; the server knows those that it has by their ids."""
    js = stream.client.jetstream(timeout=1)
    for number in range(first, first + count):
        async with asyncio.timeout(20):
            while True:
                try:
                    await js.publish(f"S.order.{number}.paid", b"x", headers={"Nats-Msg-Id": str(number)})
                    break
                except (nats.errors.Error, nats.js.errors.Error):
                    await asyncio.sleep(0.05)


async def leader(stream: Stream) -> str:
    async with asyncio.timeout(20):
        while True:
            try:
                if name := (await stream.info()).cluster.leader:
                    return name
            except StreamError:
                pass
            await asyncio.sleep(0.05)


async def home(stream: Stream) -> str:
    """The server where the reader's consumer lives."""
    async with asyncio.timeout(20):
        while True:
            try:
                listed: Any = (await stream.command("CONSUMER.LIST.S", {}))["consumers"]
                if listed and listed[0].get("cluster", {}).get("leader"):
                    return str(listed[0]["cluster"]["leader"])
            except (AssertionError, nats.errors.Error):
                pass
            await asyncio.sleep(0.05)


async def test_leaders_that_step_down_and_servers_that_die(tmp_path: Path) -> None:
    async with nats_cluster(tmp_path) as servers:
        named: dict[str, EmbeddedNats] = {f"n{number}": server for number, server in enumerate(servers, 1)}
        async with connected(NatsSettings(url=",".join(server.url for server in servers))) as client:
            stream = Stream(client, "S", prefix="S")
            await stream.api.ensure_stream("S", ["S.>"], replicas=3)
            async with following(source_of(stream), name="shop-e1") as reading:
                await persist(stream, 0, 50)
                await reading.reaches(50, 5)
                await stream.command("STREAM.LEADER.STEPDOWN.S", {})
                await persist(stream, 50, 50)
                await reading.reaches(100)
                for server in (named[await leader(stream)], named[await home(stream)]):
                    if server.running:
                        await server.kill()
                    await persist(stream, 100, 1)
                    await server.start()
                await persist(stream, 101, 49)
                await reading.reaches((await stream.info()).state.last_seq)
                assert reading.task is not None
            stored = [
                message
                async for batch in source_of(stream).batches(EventFilter(), until=reading.last)
                for message in batch.messages
            ]
    assert [message[:4] for message in reading.messages] == [message[:4] for message in stored]
    assert [message[1] for message in reading.messages] == [str(number) for number in range(150)]
