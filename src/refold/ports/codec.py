"""The port between bytes and events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from refold.event import DomainEvent, EventType

__all__ = ["Codec", "PayloadDecoder"]

PayloadDecoder = Callable[[bytes, bytes | None], DomainEvent[Any]]
"""Body and raw header block (None without headers) to an event; position and raw_headers are left for the caller to set."""


class Codec(ABC):
    """One way to write events as messages. Stateless; one instance may be shared.

    Every codec keeps timestamps as aware UTC datetimes in microseconds: finer digits are cut off, never rounded, and
    naive timestamps are refused. Decoded events always carry a version of at least 1.
    """

    name: ClassVar[str]
    """What it is called in configuration and on the command line."""

    @abstractmethod
    def encode(self, event: DomainEvent[Any]) -> tuple[bytes, Mapping[str, str]]:
        """The body of an event's message, and the headers that belong to it (the publisher adds its own).

        Raises:
            UndecodableEvent: the payload cannot be written as JSON.
        """

    @abstractmethod
    def decoder(self, event_type: EventType) -> PayloadDecoder:
        """What decodes messages of one event type to events with payloads of its class, upcast where they are older.

        The decoder raises `UndecodableEvent`, and nothing else, for any bytes whatever.
        """

    @abstractmethod
    def envelope(self, body: bytes, headers: bytes | None) -> DomainEvent[Any]:
        """An event whose payload is decoded as far as plain JSON goes (dict, list, str, …): no event class is needed.

        Raises:
            UndecodableEvent: the bytes are no envelope of this codec.
        """
