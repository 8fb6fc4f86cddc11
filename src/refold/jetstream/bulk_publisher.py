"""Loading: many events that have their versions already, published as fast as the client can."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from refold.errors import EventError, NotPermitted, PublishError, StreamError
from refold.event import DomainEvent
from refold.jetstream.api import JetStreamApi, translated, unless_denied
from refold.jetstream.connection import NatsConnection
from refold.jetstream.messages import Outgoing, PubAck, outgoing
from refold.ports import Codec
from refold.subjects import SubjectScheme

__all__ = ["BulkFailure", "BulkPublisher", "BulkResult"]

_CHUNK: Final = 250
"""Messages to send before the event loop gets a turn."""

_PAUSE: Final = 0.5

_ack: Final = msgspec.json.Decoder(PubAck).decode


@dataclasses.dataclass(frozen=True, slots=True)
class BulkFailure:
    """An event that was not stored, or not where it belongs.

    Attributes:
        index: its number among the events given, from 0.
        event_id: its id.
        reason: what happened.
    """

    index: int
    event_id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of the events.

    Attributes:
        stored: how many were stored.
        duplicates: how many the stream held already.
        failures: the others, in order.
        position: highest stream sequence of those stored or held; 0 where there is none.
    """

    stored: int
    duplicates: int
    failures: tuple[BulkFailure, ...]
    position: int


@dataclasses.dataclass(slots=True)
class _Item:
    """An event on its way; `ack` is what the server said, `problem` why it said nothing."""

    index: int
    message: Outgoing
    ack: PubAck | None = None
    problem: str = ""


class BulkPublisher:
    """Publishes events as they are, versions included, with many acknowledgements outstanding. One call at a time.

    Events are stored in the order given. Where acknowledgements stay away, what has none is sent again, in order; the
    server stores a message again whose id it does not know any more, so the stream's duplicate window must be longer
    than ``timeout * attempts`` (by default 30 s of 2 min). An event that thereby came to stand before an earlier one of
    its aggregate is a failure too.

    Args:
        client: connected.
        stream: the stream's name.
        codec: how events are written.
        scheme: how subjects are written.
        window: how many acknowledgements may be outstanding.
        timeout: seconds without any acknowledgement before sending again.
        attempts: how often to send.
        max_failures: how many failures to take before stopping.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        codec: Codec,
        scheme: SubjectScheme,
        *,
        window: int = 4_000,
        timeout: float = 10.0,
        attempts: int = 3,
        max_failures: int = 100,
    ) -> None:
        self._client = client
        self._stream = stream
        self._codec = codec
        self._scheme = scheme
        self._window = window
        self._timeout = timeout
        self._attempts = attempts
        self._max_failures = max_failures

    async def publish_many(self, events: Iterable[DomainEvent[Any]]) -> BulkResult:
        """Publishes events, and waits until each is stored or refused.

        Args:
            events: complete events; consumed as they are sent.

        Raises:
            PublishError: acknowledgements stayed away, or there were too many failures; says how many events are stored
                for certain. Nothing after them was sent but one window.
            StreamError: the stream does not exist, or NATS could not be reached.
        """
        await JetStreamApi(self._client).stream_info(self._stream)
        if isinstance(self._client, NatsConnection):
            self._client.forget_denial()
        run = _Run(self._client, self._stream, self._window)
        with translated(self._stream, self._timeout):
            subscription = await self._client.subscribe(
                f"{run.inbox}.*", cb=run.on_ack, pending_msgs_limit=0, pending_bytes_limit=0
            )
        try:
            await self._publish(run, events)
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()
        return run.result()

    async def _publish(self, run: _Run, events: Iterable[DomainEvent[Any]]) -> None:
        remaining = iter(events)
        index = 0
        while chunk := list(islice(remaining, _CHUNK)):
            with translated(self._stream, self._timeout):
                for event in chunk:
                    await self._send_first(run, index, event)
                    index += 1
            await asyncio.sleep(0)
            await self._settle(run, self._window)
        await self._settle(run, 0)

    async def _send_first(self, run: _Run, index: int, event: DomainEvent[Any]) -> None:
        try:
            message = outgoing(event, self._codec, self._scheme, max_payload=self._client.max_payload)
        except (EventError, PublishError) as error:
            run.failures.append(BulkFailure(index, event.id, str(error)))
            return
        run.items[index] = _Item(index, message)
        run.waiting += 1
        await self._client.publish(message.subject, message.body, f"{run.inbox}.{index}", message.headers)

    async def _settle(self, run: _Run, most: int) -> None:
        """Waits until at most so many acknowledgements are outstanding; then forgets what is done, in order."""
        attempt = 1
        while run.waiting > most:
            progress = run.progress(most, self._timeout)
            if await unless_denied(self._client, run.first.message.subject, progress):
                continue
            attempt += 1
            if attempt > self._attempts:
                raise self._given_up(run)
            await self._send_again(run)
            most = 0  # whether the order was kept can be told when everything has its position
        run.retire()
        if len(run.failures) > self._max_failures:
            first = run.failures[0]
            raise PublishError(
                f"stopped after {len(run.failures)} failures, with {run.stored} events stored and {run.duplicates} "
                f"held already; the first: event {first.event_id!r} (number {first.index}): {first.reason}"
            )

    async def _send_again(self, run: _Run) -> None:
        if run.problems:
            await asyncio.sleep(_PAUSE)  # nobody took it: a leader is being elected, or there is no such stream
        run.problems = 0
        run.sent_again = True
        with translated(self._stream, self._timeout):
            for item in list(run.items.values()):
                if item.ack is None:
                    item.problem = ""
                    message = item.message
                    await self._client.publish(
                        message.subject, message.body, f"{run.inbox}.{item.index}", message.headers
                    )

    def _given_up(self, run: _Run) -> StreamError:
        run.retire()
        item = run.first
        denied = self._client.denied(item.message.subject) if isinstance(self._client, NatsConnection) else None
        if denied:
            return NotPermitted(denied)
        reason = item.problem or f"no acknowledgement within {self._timeout:g} s, {self._attempts} times"
        return PublishError(
            f"event {item.message.event_id!r} (number {item.index}) is not known to be stored: {reason}; those before "
            f"it are settled ({run.stored} stored, {run.duplicates} held already), so go on from there"
        )


class _Run:
    """The events of one call that are on their way, and what became of the others."""

    def __init__(self, client: Client, stream: str, window: int) -> None:
        self.inbox = client.new_inbox()
        self.items: dict[int, _Item] = {}
        self.waiting = 0
        self.failures: list[BulkFailure] = []
        self.stored = 0
        self.duplicates = 0
        self.sent_again = False
        self._stream = stream
        self._position = 0
        self._most = window
        self._enough = asyncio.Event()
        self._acks = 0
        self.problems = 0

    async def on_ack(self, answer: Msg) -> None:
        """Takes one answer; a strange one is a problem of its event, never lost."""
        item = self.items.get(int(answer.subject.rpartition(".")[2]))
        if item is None or item.ack is not None:
            return
        try:
            item.ack = _ack(answer.data)
        except msgspec.DecodeError:
            status = (answer.headers or {}).get("Status", "")
            item.problem = (
                "nothing takes messages at its subject" if status == "503" else "the answer is not understood"
            )
            self.problems += 1
            if self.problems >= self.waiting:
                self._enough.set()
            return
        self.waiting -= 1
        self._acks += 1
        if self.waiting <= self._most:
            self._enough.set()

    @property
    def first(self) -> _Item:
        """The first event without an acknowledgement; there must be one."""
        return next(item for item in self.items.values() if item.ack is None)

    async def progress(self, most: int, timeout: float) -> bool:
        """Waits until at most so many are outstanding; False when acknowledgements stay away."""
        self._most = most
        self._enough.clear()
        seen = self._acks
        if self.waiting > most and self.problems < self.waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._enough.wait()
        return self._acks > seen

    def retire(self) -> None:
        """Counts and forgets the events at the front that are settled."""
        latest: dict[str, int] = {}
        for item in list(self.items.values()):
            if item.ack is None:
                return
            del self.items[item.index]
            self._count(item, item.ack, latest)
        self.sent_again = False

    def _count(self, item: _Item, ack: PubAck, latest: dict[str, int]) -> None:
        reason = self._reason(ack)
        if not reason and self.sent_again:
            aggregate = item.message.subject.rpartition(".")[0]
            if ack.seq < latest.get(aggregate, 0):
                reason = (
                    f"after a loss, an earlier event of the aggregate came to stand behind it ({latest[aggregate]})"
                )
            latest[aggregate] = max(ack.seq, latest.get(aggregate, 0))
        if reason:
            self.failures.append(BulkFailure(item.index, item.message.event_id, reason))
            return
        self._position = max(self._position, ack.seq)
        self.duplicates += ack.duplicate
        self.stored += not ack.duplicate

    def _reason(self, ack: PubAck) -> str:
        if ack.error is not None:
            return f"{ack.error.description} (code {ack.error.code}, {ack.error.err_code})"
        if ack.stream != self._stream:
            return f"stored in stream {ack.stream!r}, which its subject belongs to"
        return ""

    def result(self) -> BulkResult:
        """What became of the events."""
        failures = tuple(sorted(self.failures, key=lambda failure: failure.index))
        return BulkResult(self.stored, self.duplicates, failures, self._position)
