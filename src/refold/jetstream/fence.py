"""Whether a stream is still the one that was read, and whether views can be made of it at all."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from refold.errors import ConfigurationError, EventsExpired, StreamReplaced
from refold.jetstream.api import JetStreamApi, StoredMessage, StreamInfo
from refold.ports import StreamIdentity, anchor_of
from refold.subjects import SubjectScheme

__all__ = ["Fence", "anchor_in", "check_retention"]

log = logging.getLogger(__name__)

_GRACE: Final = 3.0
"""Seconds that a stream's leader gets to know of all its messages: one that has just been elected may know less at first."""
_POLL: Final = 0.2
_REBUILD: Final = "if so, views must be built anew: refold --app … reset NAME"


def check_retention(info: StreamInfo) -> None:
    """Makes sure that a stream keeps its messages, whoever has read them.

    Raises:
        ConfigurationError: it does not.
    """
    if info.config.retention != "limits":
        raise ConfigurationError(
            f"stream {info.config.name!r} has {info.config.retention} retention: messages go once they were read, so views "
            "cannot be built from it; set its retention to limits, or read a stream with limits retention that sources it"
        )


def anchor_in(message: StoredMessage | None, scheme: SubjectScheme) -> str | None:
    """`anchor_of` a message of a stream; None where there is none, or where its subject is none of the scheme's."""
    prefix = f"{scheme.prefix}." if scheme.prefix else ""
    if message is None or not message.subject.startswith(prefix):
        return None
    tokens = message.subject.removeprefix(prefix).split(".")
    if len(tokens) != 3:
        return None
    return anchor_of((tokens[0], tokens[1], tokens[2], message.seq, message.hdrs, message.data))


class Fence:
    """Compares a stream with what is known of it.

    Args:
        api: of the connection.
        stream: the stream's name.
        scheme: how its subjects are written.
        identity: the stream as it was read.
    """

    def __init__(self, api: JetStreamApi, stream: str, scheme: SubjectScheme, identity: StreamIdentity) -> None:
        self._api = api
        self._stream = stream
        self._scheme = scheme
        self._identity = identity

    async def state(self, position: int) -> StreamInfo:
        """The stream now, which is still the one that was made when it was, and was read up to a position.

        Raises:
            StreamReplaced: it is another one, or has lost its end.
            StreamError: it could not be asked.
        """
        created = self._identity.created
        deadline = asyncio.get_running_loop().time() + _GRACE
        while True:
            info = await self._api.stream_info(self._stream)
            if info.created != created:
                raise StreamReplaced(
                    f"stream {self._stream!r} was made at {info.created}, and the one that was read at {created}: it was "
                    "deleted and made anew. Only a person can tell for sure, as a nats-server before 2.14.6 may also write "
                    f"another time after it was restarted; {_REBUILD}"
                )
            if info.state.last_seq >= position:
                return info
            if asyncio.get_running_loop().time() >= deadline:
                raise StreamReplaced(
                    f"stream {self._stream!r} ends at position {info.state.last_seq}, and was read up to {position}: it has "
                    f"lost its end, as where an older copy of it was put back; {_REBUILD}"
                )
            await asyncio.sleep(_POLL)

    async def check_anchor(self) -> None:
        """Makes sure that the message which was read is still the same; one that is gone tells nothing.

        Raises:
            StreamReplaced: there is another one.
            StreamError: it could not be asked for.
        """
        expected = self._identity.anchor
        position = int(expected.partition(":")[0]) if expected else max(1, self._identity.position)
        message = await self._api.message(
            self._stream, seq=position
        )  # in any case, so that a missing right shows at once
        if expected is None or message is None or "\ufffd" in message.subject:  # which stands for what is no UTF-8
            return
        found = anchor_in(message, self._scheme)
        if found != expected:
            raise StreamReplaced(
                f"stream {self._stream!r} has another message at position {position} than was read there (expected "
                f"{expected}, found {found or message.subject}): it has lost its end and got another, as where an older copy "
                f"of it was put back; {_REBUILD}"
            )

    def check_beginning(self, info: StreamInfo, start: int, *, accept: bool) -> None:
        """Makes sure that messages from a position on are still there.

        Raises:
            EventsExpired: the stream begins later, and that is not accepted.
        """
        first = info.state.first_seq
        if first <= start:
            return
        if not accept:
            raise EventsExpired(
                f"stream {self._stream!r} begins at position {first}, and the next one to read is {start}: messages were "
                "removed before they were read, by its limits or a purge. Keep messages longer (max_age, max_bytes, "
                "max_msgs); build the views anew from what is left (refold --app … reset NAME), or go on without those"
            )
        log.warning(
            "messages were removed before they were read; reading goes on without them",
            extra={"stream": self._stream, "position": start, "first": first},
        )
