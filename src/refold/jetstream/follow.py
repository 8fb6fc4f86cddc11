"""Following a stream: what is there, then what comes, and how far it was read where nothing wanted comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from nats.aio.client import Client

from refold.errors import ContinuityError, NatsUnavailable
from refold.filters import EventFilter
from refold.jetstream.api import JetStreamApi, StreamInfo
from refold.jetstream.consumer import BulkLimits, Consumer
from refold.jetstream.fence import Fence, check_retention
from refold.jetstream.frames import Frames
from refold.jetstream.selection import Selection
from refold.ports import RawBatch, RawMessage, StreamIdentity
from refold.subjects import SubjectScheme

__all__ = ["Follower"]

_QUIET: Final = 1.0
"""Seconds without a message after which the stream is asked for its head."""
_OVERDUE: Final = 10.0
"""Seconds after which a message that is in the stream must have come."""


class Follower:
    """Follows a stream through one consumer, on a connection of its own.

    The stream has been read up to its head when its leader finds no wanted message behind the last one that came. The
    consumer's own count would not do: it lags behind the stream, on another server by as much as that is behind.

    Args:
        client: the connection.
        stream: the stream's name.
        scheme: how its subjects are written.
        limits: how much to take at once.
        wanted: which messages.
        selection: whether the server leaves out what is not wanted. Reading ends where it turns.

    Attributes:
        last: up to where the stream was read.
        consumer: what it reads through, once there is one.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        scheme: SubjectScheme,
        limits: BulkLimits,
        wanted: EventFilter,
        selection: Selection,
    ) -> None:
        self._client = client
        self._api = JetStreamApi(client)
        self._stream = stream
        self._scheme = scheme
        self._limits = limits
        self._wanted = wanted
        self._selection = selection
        self.last = 0
        self.consumer: Consumer | None = None
        self._told = -1
        self._missed = False
        self._awaited: tuple[int, float] | None = None

    async def batches(
        self, identity: StreamIdentity, *, name: str, accept_expired: bool
    ) -> AsyncGenerator[RawBatch, None]:
        """What comes after a position; see `refold.ports.EventSource.follow`."""
        self.last, self._told = identity.position, identity.position - 1
        self._fence = Fence(self._api, self._stream, self._scheme, identity)
        info = await self._fence.state(self.last)
        check_retention(info)
        moment = self._wanted.start_time
        while (
            moment is not None and info.ts is not None and info.ts <= moment
        ):  # nothing that is stored by now is wanted
            await self._fence.check_anchor()
            if self._is_news(info.state.last_seq):
                yield RawBatch((), self.last)
            await asyncio.sleep(_QUIET)
            info = await self._fence.state(self.last)
        self._start = await self._first_wanted(info)
        self.consumer = self._consumer = Consumer(
            self._client, self._api, self._stream, self._scheme, self._limits, self._selection, name or "refold"
        )
        try:
            await self._consumer.open(self._wanted, self._start - 1, info.state.last_seq)
            await self._compare(accept_expired=accept_expired)
            async with aclosing(self._read()) as batches:
                async for batch in batches:
                    yield batch
        except NatsUnavailable:
            self._consumer.give_up()
            raise
        finally:
            await self._consumer.close()

    # -- Where to begin ----------------------------------------------------------------------------------------------

    async def _first_wanted(self, info: StreamInfo) -> int:
        """Where reading begins: after what was read, and not before the filter's start."""
        start = self.last + 1
        if self._wanted.start_time is not None:
            since = await self._position_at(self._wanted.start_time)
            if since > info.state.first_seq:  # else earlier messages may be gone, wanted ones among them
                start = max(start, since)
        return max(start, self._wanted.start_position or 1)

    async def _position_at(self, moment: datetime) -> int:
        """The position of the first message that was stored at a time or later: where a consumer would begin."""
        written = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        config: dict[str, Any] = {"deliver_policy": "by_start_time", "opt_start_time": written, "ack_policy": "none"}
        made = await self._api.create_consumer(self._stream, {**config, "mem_storage": True, "num_replicas": 1})
        return made.delivered.stream_seq + 1

    async def _compare(self, *, accept_expired: bool) -> None:
        """Makes sure, now that the consumer is there, that this is the stream which was read."""
        info = await self._fence.state(self.last)
        check_retention(info)
        await self._fence.check_anchor()
        self._fence.check_beginning(info, self._start, accept=accept_expired)
        await self._consumer.look(self.last, False)  # so that a missing right shows at once, not some night

    # -- Reading -----------------------------------------------------------------------------------------------------

    async def _read(self) -> AsyncGenerator[RawBatch, None]:
        consumer, selection = self._consumer, self._selection
        look = None if consumer.pending else self._begin_look()
        try:
            while not selection.turned:
                frames = await consumer.next(_QUIET)
                if frames is None and look is None:
                    look = self._begin_look()
                elif frames is None and look is not None and look.done():
                    head, look = look.result(), None
                    if head is not None and self._is_news(head):
                        yield RawBatch((), self.last)
                while frames is not None:
                    self._missed = False
                    more = consumer.more()
                    messages = self._not_told(frames)
                    self.last = self._told = max(self.last, frames.last)
                    yield RawBatch(messages, self.last, consumer.pending + len(more or ()))
                    selection.look(frames)
                    frames = more or consumer.more()
        finally:
            if look is not None:
                look.cancel()
                await asyncio.gather(look, return_exceptions=True)

    def _not_told(self, frames: Frames) -> Sequence[RawMessage]:
        """Messages but those up to a position that was told: they were deleted before they came."""
        return frames if frames[0][3] > self.last else [message for message in frames if message[3] > self.last]

    def _is_news(self, head: int) -> bool:
        """Takes note that the stream was read up to its head; whether that was not told yet."""
        if head <= self._told:
            return False
        self.last = self._told = head
        return True

    # -- Progress without messages -----------------------------------------------------------------------------------

    def _begin_look(self) -> asyncio.Task[int | None]:
        """Asks in the background, for messages may come any time."""
        look = asyncio.create_task(self._look(max(self.last, self._consumer.came)), name="refold-look")
        look.add_done_callback(lambda _: self._consumer.wake())
        return look

    async def _look(self, reached: int) -> int | None:
        """The stream's head; None where wanted messages are still to come.

        Args:
            reached: position of the last message that came.
        """
        info = await self._fence.state(reached)
        head = info.state.last_seq
        begin = max(reached + 1, self._start)
        for pattern in self._consumer.filters if begin <= head else ():
            message = await self._api.message(self._stream, seq=begin, next_by_subj=pattern)
            if message is not None and message.seq <= head:
                self._missed = await self._consumer.look(reached, self._missed)
                self._await(message.seq)
                return None
        if begin <= head and (await self._fence.state(reached)).cluster.leader != info.cluster.leader:
            return None  # a new leader may not have had all messages yet when it was asked for them
        self._awaited = None
        return head

    def _await(self, position: int) -> None:
        """Makes sure that a message which is in the stream comes within some time, as from a paused consumer it would not."""
        now = asyncio.get_running_loop().time()
        if self._awaited is None or self._awaited[0] != position:
            self._awaited = (position, now)
        elif now - self._awaited[1] > _OVERDUE:
            raise ContinuityError(f"stream {self._stream!r}: the message at position {position} does not come")
