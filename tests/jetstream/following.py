"""Somebody who follows a stream, and goes on where he was when reading is interrupted."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import Any

from jetstream_support import Stream

from refold import EventFilter
from refold.errors import EventsExpired, NotPermitted, StreamError, StreamNotFound, StreamReplaced
from refold.jetstream.bulk import BulkLimits, JetStreamSource
from refold.jetstream.connection import NatsSettings, connected
from refold.ports import RawMessage, StreamIdentity

FINAL = (StreamReplaced, EventsExpired, StreamNotFound, NotPermitted)


def source_of(stream: Stream, url: str = "", **limits: Any) -> JetStreamSource:
    """Reads a stream, by another address if one is given."""
    settings = NatsSettings(url=url) if url else stream.settings
    return JetStreamSource(lambda: connected(settings), stream.name, stream.scheme, limits=BulkLimits(**limits))


class Reading:
    """What has come so far.

    Attributes:
        messages: all that came.
        last: up to where the stream was read.
        told: `last` of batches without messages.
        interruptions: why reading was taken up again.
    """

    def __init__(self, identity: StreamIdentity) -> None:
        self.identity = identity
        self.messages: list[RawMessage] = []
        self.last = identity.position
        self.told: list[int] = []
        self.interruptions: list[StreamError] = []
        self.task: asyncio.Task[None] | None = None

    @property
    def positions(self) -> list[int]:
        return [message[3] for message in self.messages]

    @property
    def begun(self) -> bool:
        return bool(self.messages or self.told)

    async def run(self, source: JetStreamSource, wanted: EventFilter, pause: float, **options: Any) -> None:
        while True:
            identity = dataclasses.replace(self.identity, position=self.last)
            try:
                async with aclosing(source.follow(wanted, identity, **options)) as batches:
                    async for batch in batches:
                        assert batch.last >= self.last
                        assert all(self.last < position <= batch.last for position in batch.positions)
                        self.messages += batch.messages
                        self.last = batch.last
                        if not len(batch):
                            self.told.append(batch.last)
                        await asyncio.sleep(pause)
            except FINAL:
                raise
            except StreamError as error:
                self.interruptions.append(error)
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], bool], deadline: float = 15.0) -> None:
        """Waits until a condition holds; raises what ended reading."""
        end = monotonic() + deadline
        assert self.task is not None
        while not condition():
            if self.task.done():
                self.task.result()
            assert monotonic() < end, f"not in time; read up to {self.last}, interrupted by {self.interruptions}"
            await asyncio.sleep(0.005)

    async def reaches(self, position: int, deadline: float = 15.0) -> None:
        await self.until(lambda: self.last >= position, deadline)


@asynccontextmanager
async def following(
    source: JetStreamSource,
    identity: StreamIdentity | None = None,
    wanted: EventFilter | None = None,
    *,
    pause: float = 0,
    **options: Any,
) -> AsyncIterator[Reading]:
    """Follows a stream in the background, from its beginning if nothing else is said, with a pause after each batch."""
    reading = Reading(identity or StreamIdentity((await source.state()).created, 0))
    reading.task = asyncio.create_task(reading.run(source, wanted or EventFilter(), pause, **options))
    try:
        yield reading
    finally:
        reading.task.cancel()
        await asyncio.gather(reading.task, return_exceptions=True)


async def publish(stream: Stream, *subjects: str, body: bytes = b"x", headers: dict[str, str] | None = None) -> int:
    """Publishes messages under the stream's prefix; the position of the last one."""
    position = 0
    for subject in subjects:
        ack = await stream.client.jetstream().publish(f"{stream.name}.{subject}", body, headers=headers)
        position = ack.seq
    return position


async def publish_many(stream: Stream, count: int, *, body: bytes = b"x", first: int = 0) -> None:
    """Publishes messages without waiting for each; returns when they are stored."""
    before = (await stream.info()).state.last_seq
    for number in range(first, first + count):
        await stream.client.publish(f"{stream.name}.order.{number % 7}.t{number % 3}", body)
    await stream.client.flush()
    async with asyncio.timeout(20):
        while (await stream.info()).state.last_seq < before + count:
            await asyncio.sleep(0.01)
