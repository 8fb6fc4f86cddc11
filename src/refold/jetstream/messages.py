"""Events as messages to publish, checked before anything is sent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from refold.errors import PublishError
from refold.event import DomainEvent
from refold.jetstream.api import ApiError
from refold.ports.codec import Codec
from refold.subjects import SubjectScheme

__all__ = ["MSG_ID", "Outgoing", "PubAck", "outgoing"]

MSG_ID: Final = "Nats-Msg-Id"

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class PubAck(msgspec.Struct, frozen=True):
    """The server's answer to a publication."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish."""

    event_id: str
    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes that count against the server's limit: body and header block."""
        lines = sum(len(name) + len(value.encode()) + 4 for name, value in self.headers.items())
        return len(self.body) + lines + len("NATS/1.0\r\n\r\n")


def outgoing(
    event: DomainEvent[Any],
    codec: Codec,
    scheme: SubjectScheme,
    *,
    max_payload: int,
    extra: Mapping[str, str] | None = None,
) -> Outgoing:
    """The message of an event, checked.

    Args:
        event: what to publish.
        codec: how to write it.
        scheme: how to write its subject.
        max_payload: what the server takes at most, in bytes.
        extra: further headers.

    Raises:
        SubjectError: type or id cannot be written as a subject.
        UndecodableEvent: the payload cannot be written.
        PublishError: the id or a header is malformed, or the message is too large.
    """
    subject = scheme.format(event.aggregate_type, event.aggregate_id, event.type)
    body, headers = codec.encode(event)
    _check_id(event.id)
    message = Outgoing(event.id, subject, body, {MSG_ID: event.id, **headers, **_checked(extra or {})})
    if message.size > max_payload:
        raise PublishError(
            f"event {event.id!r} ({event.type}) is {message.size} bytes long, headers included, and the server takes "
            f"{max_payload}: publish less, or raise max_payload of the server"
        )
    return message


def _check_id(event_id: str) -> None:
    """Ids that the client would trim or change on their way would not be found again."""
    if not event_id or event_id != event_id.strip() or _CONTROL.search(event_id):
        raise PublishError(f"event id {event_id!r} is empty, has blanks around it or control characters")


def _checked(extra: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in extra.items():
        if not _HEADER_NAME.fullmatch(name) or not isinstance(value, str) or _CONTROL.search(value):
            raise PublishError(f"header {name!r} has a malformed name, or a value with control characters")
        if name.lower().startswith("nats-"):
            raise PublishError(f"header {name!r}: names that begin with 'Nats-' are the server's; use another")
    return extra
