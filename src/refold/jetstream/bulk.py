"""Reading a stream in bulk, from a position to another, or following it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final

import stamina
from nats.aio.client import Client

from refold.errors import NotPermitted, StreamError, StreamNotFound
from refold.filters import EventFilter
from refold.jetstream.api import JetStreamApi
from refold.jetstream.consumer import BulkLimits, Consumer
from refold.jetstream.fence import anchor_in, check_retention
from refold.jetstream.follow import Follower
from refold.jetstream.selection import Selection
from refold.ports import EventSource, RawBatch, StreamIdentity, StreamState
from refold.subjects import SubjectScheme

__all__ = ["BulkLimits", "JetStreamSource"]

log = logging.getLogger(__name__)

_STARVED: Final = 2
"""Connections that may be lost before anything came, until less is asked for."""

Connect = Callable[[], AbstractAsyncContextManager[Client]]
"""Makes a connection for one reader."""


class JetStreamSource(EventSource):
    """An `EventSource` over one JetStream stream.

    Args:
        connect: makes a connection that serves this reader alone.
        stream: the stream's name.
        scheme: how its subjects are written.
        limits: how much to take at once.
    """

    def __init__(
        self, connect: Connect, stream: str, scheme: SubjectScheme, *, limits: BulkLimits | None = None
    ) -> None:
        self._connect = connect
        self._stream = stream
        self._scheme = scheme
        self._limits = limits or BulkLimits()
        self._starved = 0

    async def state(self) -> StreamState:
        """The stream now."""
        async with self._connect() as client:
            info = await JetStreamApi(client).stream_info(self._stream)
        return StreamState(self._stream, info.created, info.state.first_seq, info.state.last_seq, info.state.messages)

    async def anchor(self, position: int) -> str | None:
        """`anchor_of` the message at a position, asked of the stream's leader."""
        if position < 1:
            return None
        async with self._connect() as client:
            return anchor_in(await JetStreamApi(client).message(self._stream, seq=position), self._scheme)

    async def follow(
        self, wanted: EventFilter, identity: StreamIdentity, *, name: str = "", accept_expired: bool = False
    ) -> AsyncGenerator[RawBatch, None]:
        """Every message after a position, without an end."""
        selection = Selection(wanted, self._scheme)
        while True:  # another consumer takes its place where the selection turns
            async with self._connect() as client:
                follower = Follower(client, self._stream, self._scheme, self._limits, wanted, selection)
                reading = follower.batches(identity, name=name, accept_expired=accept_expired)
                try:
                    async with aclosing(reading) as batches:
                        async for batch in batches:
                            yield batch
                finally:
                    if follower.consumer is not None:
                        self._adapt(follower.consumer)
            identity = dataclasses.replace(identity, position=follower.last)

    async def batches(self, wanted: EventFilter, *, until: int) -> AsyncGenerator[RawBatch, None]:
        """Every message up to `until`; taken up again where it stopped when the connection or the consumer is lost."""
        last, failed_at = 0, -1
        selection = Selection(wanted, self._scheme)
        retry = stamina.retry_context(
            on=_may_pass, attempts=self._limits.attempts, timeout=None, wait_initial=0.1, wait_max=5.0
        )
        async for attempt in retry:
            with attempt:
                while True:
                    try:
                        async with aclosing(self._read_once(wanted, selection, last, until)) as batches:
                            async for batch in batches:
                                last = batch.last
                                yield batch
                    except StreamError as error:
                        if not _may_pass(error):
                            raise
                        log.warning(
                            "reading was interrupted and is taken up again",
                            extra={"stream": self._stream, "position": last, "reason": str(error)},
                        )
                        if last == failed_at:
                            raise
                        failed_at = last  # it got somewhere: once more at once, before attempts are counted
                    else:
                        if not selection.turned:
                            return

    async def _read_once(
        self, wanted: EventFilter, selection: Selection, last: int, until: int
    ) -> AsyncGenerator[RawBatch, None]:
        async with self._connect() as client:
            api = JetStreamApi(client)
            check_retention(await api.stream_info(self._stream))
            consumer = Consumer(client, api, self._stream, self._scheme, self._limits, selection)
            try:
                await consumer.open(wanted, last, until)
                async with aclosing(consumer.batches(last, until)) as batches:
                    async for batch in batches:
                        yield batch
            finally:
                self._adapt(consumer)
                await consumer.close()

    def _adapt(self, consumer: Consumer) -> None:
        """Asks for less after the connection was lost twice before anything came: a server cuts off those whom it has to hold
        too much for.
        """
        self._starved = self._starved + 1 if consumer.starved else 0
        if self._starved >= _STARVED:
            self._limits = dataclasses.replace(self._limits, pull_bytes=self._limits.pull_bytes // 4)
            log.warning(
                "the connection is lost before anything comes; less is asked for at once from now on",
                extra={"stream": self._stream, "pull_bytes": self._limits.pull_bytes},
            )


def _may_pass(error: Exception) -> bool:
    return isinstance(error, StreamError) and not isinstance(error, (StreamNotFound, NotPermitted))
