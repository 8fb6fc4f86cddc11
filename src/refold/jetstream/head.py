"""The end of a stream, for telling how far behind projections are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from nats.aio.client import Client

from refold.errors import NatsUnavailable
from refold.jetstream.api import JetStreamApi
from refold.ports import StreamState

__all__ = ["JetStreamHead"]

_PATIENCE: Final = 2.0
"""Seconds to wait for an answer: people wait for what it says."""


class JetStreamHead:
    """Asks for a stream's end, and for when its messages were stored.

    Args:
        reach: gives the connection, or raises why there is none.
        stream: the stream's name.
    """

    def __init__(self, reach: Callable[[], Awaitable[Client]], stream: str) -> None:
        self._reach = reach
        self._stream = stream

    async def state(self) -> StreamState:
        """The stream now.

        Raises:
            StreamError: NATS or JetStream cannot be asked, or there is no such stream.
        """
        info = await (await self._api()).stream_info(self._stream)
        return StreamState(self._stream, info.created, info.state.first_seq, info.state.last_seq, info.state.messages)

    async def stored(self, position: int) -> datetime | None:
        """When the first message at a position or after it was stored; None where there is none.

        Raises:
            StreamError: NATS or JetStream cannot be asked.
        """
        message = await (await self._api()).message(self._stream, seq=position, next_by_subj=">")
        return None if message is None else datetime.fromisoformat(message.time)

    async def _api(self) -> JetStreamApi:
        client = await self._reach()
        if not client.is_connected:
            raise NatsUnavailable("the connection to NATS is lost: check the URL and that the server runs")
        return JetStreamApi(client, timeout=_PATIENCE)
