"""What peers share on the side of NATS: typed events of messages, and the clock of one run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, NoServersError

from refold.bench.model import OrderPaid, OrderPlaced, OrderShipped
from refold.codecs import JsonCodec
from refold.errors import NatsUnavailable
from refold.event import DomainEvent, event_type_of

__all__ = ["FETCH", "Event", "Stopwatch", "connected", "decode", "decode_body", "position"]

Event = DomainEvent[Any]

FETCH: Final = 1_000
"""Messages of one fetch: where more stopped making `nats-py` faster."""

_codec: Final = JsonCodec()
_decoders: Final = {
    known.name: _codec.decoder(known) for known in map(event_type_of, (OrderPlaced, OrderPaid, OrderShipped))
}


def decode_body(event_type: str, body: bytes) -> Event:
    """The typed event of a message's body, without its position."""
    return _decoders[event_type](body, None)


def decode(message: Msg) -> Event:
    """The typed event of a message of the benchmark."""
    event = decode_body(message.subject.rpartition(".")[2], message.data)
    msgspec.structs.force_setattr(event, "position", position(message))
    return event


def position(message: Msg) -> int:
    """The stream sequence of a message that a consumer delivered."""
    return int(message.reply.rsplit(".", 4)[1])


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A connection of the client library.

    Raises:
        NatsUnavailable: there is none to be had.
    """
    try:
        client = await nats.connect(url, allow_reconnect=False, connect_timeout=5)
    except (Error, NoServersError, OSError) as error:
        raise NatsUnavailable(f"no connection for the peers: {error}; check the URL and the server") from error
    try:
        yield client
    finally:
        await client.close()


class Stopwatch:
    """Time of one run.

    Args:
        limit: seconds until it is up.
    """

    def __init__(self, limit: float) -> None:
        self._start = time.perf_counter()
        self._limit = limit

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start

    @property
    def is_up(self) -> bool:
        """Whether the time is up."""
        return self.seconds >= self._limit
