"""Reading messages of a stream through an ephemeral pull consumer, a page at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from refold.errors import ContinuityError, NatsUnavailable, StreamError
from refold.jetstream.api import JetStreamApi, translated, unless_denied
from refold.jetstream.replies import Delivery, header_block, parse_reply

__all__ = ["Delivered", "scan"]

_HEARTBEAT: Final = 1.0
_SILENCE: Final = 10.0
_EXPIRES: Final = 30.0
_INACTIVE: Final = 300.0


class Delivered(NamedTuple):
    """A message as it was delivered."""

    subject: str
    headers: bytes | None
    body: bytes
    at: Delivery


async def scan(
    client: Client, stream: str, consumer: Mapping[str, Any], *, until: int, page: int = 1000
) -> AsyncGenerator[Delivered, None]:
    """Messages that a consumer selects, in stream order, each once, up to a position. Leaves no consumer behind.

    Args:
        client: connected.
        stream: the stream's name.
        consumer: the consumer's configuration, as far as it is about what to deliver.
        until: the last position to deliver.
        page: how many messages to ask for at once.

    Raises:
        StreamNotFound: there is no such stream.
        ContinuityError: a message is missing, repeated or out of order.
        StreamError: the consumer or the server went away.
    """
    api = JetStreamApi(client)
    config = {
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": int(_INACTIVE * 1e9),
        **consumer,
    }
    made = await api.create_consumer(stream, config)
    inbox = _Inbox(client, api, stream, made.name, page)
    try:
        await inbox.open()
        pending, last, delivery, missed = made.num_pending, 0, 0, False
        while pending and last < until:
            message = await inbox.next()
            if message is None:
                info = await api.consumer_info(stream, made.name)
                pending, sent = info.owed(delivery), info.delivered.consumer_seq > delivery
                if missed and sent:  # it may have been on its way the first time
                    raise ContinuityError(
                        f"stream {stream!r}: messages after position {last} were sent and have not come; read again"
                    )
                missed = sent
                continue
            missed = False
            if message.at.delivery != delivery + 1 or message.at.position <= last:
                raise ContinuityError(
                    f"stream {stream!r}: after position {last} came position {message.at.position} as delivery "
                    f"{message.at.delivery}, not {delivery + 1}; read again"
                )
            pending, last, delivery = message.at.pending, message.at.position, message.at.delivery
            if last <= until:
                yield message
    finally:
        await inbox.close()


class _Inbox:
    """Where a consumer's messages come in."""

    def __init__(self, client: Client, api: JetStreamApi, stream: str, consumer: str, page: int) -> None:
        self._client = client
        self._api = api
        self._stream = stream
        self._consumer = consumer
        self._page = page
        self._subject = client.new_inbox()
        self._arrived = asyncio.Event()
        self._messages: deque[Msg] = deque()
        self._owed = 0

    async def open(self) -> None:
        with translated(self._subject, _SILENCE):
            self._subscription = await self._client.subscribe(
                self._subject, cb=self._take, pending_msgs_limit=0, pending_bytes_limit=0
            )

    async def close(self) -> None:
        """Removes subscription and consumer; the server would remove the consumer itself after five minutes."""
        with suppress(NatsError, AttributeError):
            await self._subscription.unsubscribe()
        if self._client.is_connected:
            with suppress(StreamError):
                await self._api.delete_consumer(self._stream, self._consumer)

    async def next(self) -> Delivered | None:
        """The next message; None after a heartbeat instead of one.

        Raises:
            StreamError: the consumer is gone, or nothing comes, not even heartbeats.
        """
        while True:
            if not self._messages:
                await self._more()
            message = self._messages.popleft()
            if message.reply:
                self._owed -= 1
                return Delivered(message.subject, header_block(message.headers), message.data, _place(message.reply))
            if self._is_heartbeat(message.headers or {}):
                return None

    async def _take(self, message: Msg) -> None:
        self._messages.append(message)
        self._arrived.set()

    async def _more(self) -> None:
        self._arrived.clear()  # before anything is awaited, so that no message comes unnoticed
        subject = f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        if self._owed <= 0:
            self._owed = self._page
            body = {"batch": self._page, "expires": int(_EXPIRES * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
            with translated(subject, _SILENCE):
                await self._client.publish(subject, msgspec.json.encode(body), self._subject)
        try:
            async with asyncio.timeout(_SILENCE):
                await unless_denied(self._client, subject, self._arrived.wait())
        except TimeoutError:
            raise NatsUnavailable(
                f"reading stream {self._stream!r}: nothing came for {_SILENCE:g} s, not even a heartbeat; check the "
                "connection to NATS"
            ) from None

    def _is_heartbeat(self, headers: Mapping[str, str]) -> bool:
        status = headers.get("Status", "")
        if status in ("404", "408"):
            self._owed = 0
        elif status != "100":
            raise StreamError(
                f"reading stream {self._stream!r} stopped: the server says {status} {headers.get('Description', '')}; "
                "read again"
            )
        return status == "100"


def _place(reply: str) -> Delivery:
    try:
        return parse_reply(reply)
    except ValueError as error:
        raise StreamError(f"{error}; this server is newer than refold knows") from error
