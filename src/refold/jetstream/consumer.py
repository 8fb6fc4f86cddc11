"""A consumer that sends a stream in bulk: an ephemeral pull consumer without acks, on a connection of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from refold.errors import ContinuityError, NotPermitted, StreamError
from refold.filters import EventFilter
from refold.jetstream.api import ConsumerInfo, JetStreamApi, translated
from refold.jetstream.connection import NatsConnection
from refold.jetstream.frames import Frames, frame_parser
from refold.jetstream.selection import Selection
from refold.jetstream.wire import BulkProtocol, HookUnavailable, install
from refold.ports import RawBatch
from refold.subjects import SubjectScheme

__all__ = ["BulkLimits", "Consumer"]

log = logging.getLogger(__name__)

_PULLS_IN_FLIGHT: Final = 2
_SILENCE: Final = 5.0
"""Seconds without a message after which the server is asked how it stands. Neither heartbeats nor times of expiry are asked
for: with either, a server looks at its clock for every message, which costs it some hundredths of its time."""
_INACTIVE: Final = 300.0
"""Seconds after which the server removes a consumer that nobody asks anything of. One with waiting pulls it keeps, as long as
their sender is connected."""
_LAST_WORDS: Final = 1.0
"""Seconds to wait for a consumer to be deleted."""
_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST: Final = 200
"""A server takes names of 255 characters."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BulkLimits:
    """How much a bulk reader takes at once.

    Attributes:
        messages: most messages of one pull.
        pull_bytes: most bytes of one pull; two are in flight. A server cuts off a client that lags 64 MiB behind.
        attempts: how often reading is taken up again without any progress in between.
    """

    messages: int = 100_000
    pull_bytes: int = 24 * 2**20
    attempts: int = 10


class Consumer:
    """One server-side consumer and what it sends.

    Args:
        client: a connection that serves it alone.
        api: of that connection.
        stream: the stream's name.
        scheme: how its subjects are written.
        limits: how much to take at once.
        selection: whether the server leaves out what is not wanted.
        name: what it is called in the server's lists, before a part that makes it unique; where there is none the server
            chooses.

    Attributes:
        filters: patterns of the subjects that it sends, once it is open.
    """

    def __init__(
        self,
        client: Client,
        api: JetStreamApi,
        stream: str,
        scheme: SubjectScheme,
        limits: BulkLimits,
        selection: Selection,
        name: str = "",
    ) -> None:
        self._client = client
        self._api = api
        self._stream = stream
        self._scheme = scheme
        self._selection = selection
        self._label = _FORBIDDEN.sub("_", name)[:_LONGEST]
        self._messages = limits.messages
        # A message larger than a pull would never come.
        self._bytes = max(limits.pull_bytes, 2 * client.max_payload)
        self._counted = 0
        self._arrived = asyncio.Event()
        self._error: Exception | None = None
        self._deaf = self._woken = False
        self._pulls: deque[int] = deque()
        self._inbox = client.new_inbox()
        self._name = ""
        self.filters: Sequence[str] = ()
        self._pending = 0
        self._parser = frame_parser(0, scheme)
        self._denial: asyncio.Task[None] | None = None

    async def open(self, wanted: EventFilter, last: int, until: int) -> None:
        """Makes the consumer and the subscription that it sends to. The connection is not made again when it is lost."""
        self._client.options["allow_reconnect"] = False
        config = self._config(wanted, last)
        created = await self._create_filtered(config, last, until) if self._selection.subjects else None
        if created is None:
            created, self.filters = await self._create(config), (">",)
        self._name, self._pending = created.name, created.num_pending
        self._subject = f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        await self._subscribe()
        if isinstance(self._client, NatsConnection):
            self._denial = asyncio.create_task(self._until_denied(self._client), name="refold-denial")

    async def _create_filtered(self, config: Mapping[str, Any], last: int, until: int) -> ConsumerInfo | None:
        """A consumer of what is wanted; None where that is, or may be, most of the stream: then an unfiltered one is quicker,
        and the rest is dropped by its subject.
        """
        everything = (await self._api.stream_info(self._stream)).state
        self._selection.begin(everything.num_subjects)
        if not self._selection.asks:
            return None
        self.filters = self._selection.subjects
        created = await self._create({**config, "filter_subjects": list(self.filters)})
        if created.num_pending * 2 <= min(until, everything.last_seq) - max(last, everything.first_seq - 1):
            return created
        with suppress(NotPermitted):  # it goes by itself after a while
            await self._api.delete_consumer(self._stream, created.name)
        return None

    async def _create(self, config: Mapping[str, Any]) -> ConsumerInfo:
        name = {"name": f"{self._label}-{secrets.token_hex(4)}"} if self._label else {}
        return await self._api.create_consumer(self._stream, {**config, **name})

    def _config(self, wanted: EventFilter, last: int) -> dict[str, Any]:
        config: dict[str, Any] = {
            "deliver_policy": "all",
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "max_waiting": 2 * _PULLS_IN_FLIGHT,
            "inactive_threshold": int(_INACTIVE * 1e9),
        }
        start = max(last + 1, wanted.start_position or 1)
        if start > 1:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
        elif wanted.start_time is not None:
            moment = wanted.start_time.astimezone(UTC).isoformat().replace("+00:00", "Z")
            config |= {"deliver_policy": "by_start_time", "opt_start_time": moment}
        return config

    async def _subscribe(self) -> None:
        with translated(self._inbox, _SILENCE):
            subscription = await self._client.subscribe(self._inbox, cb=self._on_message)
            await self._client.flush()
        sid: int = subscription._id  # noqa: SLF001 (the id on the wire; guarded by the hook's checks and tests)
        self._parser = frame_parser(sid, self._scheme)

        def make(inner: asyncio.Protocol) -> BulkProtocol:
            return BulkProtocol(
                inner, self._parser, sid, on_frames=self._on_frames, on_status=self._on_status, on_error=self._on_loss
            )

        try:
            install(self._client, make)
        except HookUnavailable as reason:
            log.warning("bulk reading takes the slow public path", extra={"reason": str(reason)})

    async def close(self) -> None:
        """Deletes the consumer, if that takes no time; the server would do so by itself after five minutes. Never raises."""
        if self._denial is not None:
            self._denial.cancel()
            await asyncio.wait([self._denial])
        if self._deaf and isinstance(self._client, NatsConnection):
            self._client.deaf = True
        elif self._name and self._client.is_connected:
            with suppress(StreamError, TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await self._api.delete_consumer(self._stream, self._name)

    def give_up(self) -> None:
        """The server does not answer any more: `close` is not to wait for it."""
        self._deaf = True

    @property
    def starved(self) -> bool:
        """Whether the connection was lost before anything came of what was asked for."""
        return self._deaf and bool(self._pulls) and self._pending > 0 and not self._parser.delivered

    # -- Batches -----------------------------------------------------------------------------------------------------

    async def batches(self, last: int, until: int) -> AsyncGenerator[RawBatch, None]:
        """What the consumer sends, until nothing up to `until` is left."""
        missed = False
        while self._pending and last < until:
            await self._pull()
            frames = await self._next()
            if frames is None and (self._selection.turned or not self._pending):
                break
            if frames is None:
                missed = await self.look(last, missed)
                continue
            missed = False
            while frames is not None:  # more buffers may have come than one, the last of the stream among them
                self._pending = self._parser.pending
                frames.truncate(until)
                last = frames.last
                yield RawBatch(frames, last)
                self._selection.look(frames)
                frames = self._parser.take() if last < until else None

    async def look(self, last: int, missed: bool) -> bool:
        """Asks the consumer why nothing comes; whether it says that messages were sent which have not come.

        Args:
            last: position of the last message that came.
            missed: whether it said so the time before, and nothing has come since.

        Raises:
            ContinuityError: it says so again.
            StreamError: it could not be asked, or is gone.
        """
        info = await self._api.consumer_info(self._stream, self._name)
        came = self._parser.delivered
        self._pending = info.owed(came)
        sent = info.delivered.consumer_seq > came
        if not info.num_waiting and not sent:
            self._pulls.clear()  # they were lost, as when the consumer has moved to another server
        if missed and sent:  # they may have been on their way the first time
            raise ContinuityError(
                f"stream {self._stream!r}: messages after position {last} were sent and have not come"
            )
        return sent

    async def _pull(self) -> None:
        while len(self._pulls) < _PULLS_IN_FLIGHT:
            self._pulls.append(self._messages)
            request = {"batch": self._messages, "max_bytes": self._bytes}
            with translated(self._subject, _SILENCE):
                await self._client.publish(self._subject, json.dumps(request).encode(), self._inbox)

    async def _next(self) -> Frames | None:
        """Messages that came; None where none did for a while, or no more are to come from this consumer."""
        while True:
            self._check()
            if (frames := self._parser.take()) is not None:
                return frames
            if self._selection.judge(self._parser.delivered):
                return None
            if self._parser.delivered and not self._parser.pending:
                self._pending = 0  # the last messages were none of the scheme's
                return None
            if not await self._wait(asyncio.get_running_loop().time() + _SILENCE):
                return None

    def _check(self) -> None:
        if isinstance(self._error, NotPermitted):
            raise self._error
        if self._error is not None:
            kind = type(self._error) if isinstance(self._error, ContinuityError) else StreamError
            raise kind(f"reading stream {self._stream!r} stopped: {self._error}") from self._error

    async def _wait(self, deadline: float) -> bool:
        """Waits for whatever happens next; whether something did."""
        self._arrived.clear()
        await self._pull()
        try:
            async with asyncio.timeout_at(deadline):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    # -- Without an end ----------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many messages it has not sent yet, as far as it has told."""
        return self._parser.pending if self._parser.delivered else self._pending

    @property
    def came(self) -> int:
        """Position of the last message that came, given or not."""
        return self._parser.last

    async def next(self, patience: float) -> Frames | None:
        """Messages that came; None where none did for so many seconds, where `wake` was called, or where the selection turned.

        Raises:
            ContinuityError, StreamError, NotPermitted: reading was interrupted.
        """
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            self._check()
            if (frames := self._parser.take()) is not None:
                return frames
            if self._woken or self._selection.judge(self._parser.delivered):
                self._woken = False
                return None
            if not await self._wait(deadline):
                return None

    def more(self) -> Frames | None:
        """Messages that have come already; None where there are none."""
        return self._parser.take()

    def wake(self) -> None:
        """Ends a `next` that has nothing to give."""
        self._woken = True
        self._arrived.set()

    # -- What the connection tells -----------------------------------------------------------------------------------

    def _on_frames(self) -> None:
        count = self._parser.delivered - self._counted
        self._counted += count
        if not count:
            return
        while count and self._pulls:
            served = min(count, self._pulls[0])
            self._pulls[0] -= served
            count -= served
            if not self._pulls[0]:
                self._pulls.popleft()
        self._arrived.set()

    def _on_status(self, block: bytes) -> None:
        status = block.split(b"\r\n", 1)[0].decode("utf-8", "replace")
        code = status[9:12]
        if "Batch Completed" in status:
            pass  # its messages were counted
        elif code in ("404", "408") or "Exceeds MaxBytes" in status:
            if self._pulls:  # this pull has ended; what it had left is asked for again
                self._pulls.popleft()
        else:
            self._error = StreamError(f"the server says {status[9:].strip()!r}")
        self._arrived.set()

    async def _until_denied(self, client: NatsConnection) -> None:
        """Pulls are not answered where they are not allowed."""
        self._on_error(NotPermitted(await client.until_denied(self._subject)))

    def _on_loss(self, error: Exception) -> None:
        """Nothing is heard from the connection any more."""
        self._deaf = True
        self._on_error(error)

    def _on_error(self, error: Exception) -> None:
        self._error = self._error or error
        self._arrived.set()

    async def _on_message(self, message: Msg) -> None:
        """The public path: one message at a time, through the client's subscription."""
        if self._error is not None:
            return  # as where the client has connected anew, and old requests are still answered
        headers = _block(message)
        if not message.reply:
            self._on_status(headers or b"")
            return
        content = (headers or b"") + message.data
        operation = "HMSG" if headers else "MSG"
        sizes = f"{len(headers)} {len(content)}" if headers else str(len(content))
        line = f"{operation} {message.subject} {message._sid} {message.reply} {sizes}\r\n".encode()  # noqa: SLF001
        try:
            self._feed(line + content + b"\r\n")
        except (ContinuityError, ValueError) as error:
            self._on_error(error)
        self._on_frames()

    def _feed(self, data: bytes) -> None:
        while data:
            space = self._parser.space()
            part, data = data[: len(space)], data[len(space) :]
            space[: len(part)] = part
            self._parser.received(len(part))


def _block(message: Msg) -> bytes | None:
    """A message's headers as a block again."""
    if not message.headers:
        return None
    status = message.headers.get("Status")
    lines = [f"NATS/1.0 {status} {message.headers.get('Description', '')}" if status else "NATS/1.0"]
    lines += [f"{name}: {value}" for name, value in message.headers.items() if name not in ("Status", "Description")]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
