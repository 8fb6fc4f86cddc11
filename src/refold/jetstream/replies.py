"""What a delivered message says about itself beside its body: its place in the stream, its headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Delivery", "header_block", "parse_reply"]


class Delivery(NamedTuple):
    """Where a delivered message stands.

    Attributes:
        position: its sequence in the stream.
        delivery: its number among the messages that the consumer delivered, from 1.
        stored_at: when the server stored it, in nanoseconds since 1970.
        pending: how many messages the consumer had left after it.
    """

    position: int
    delivery: int
    stored_at: int
    pending: int


def parse_reply(subject: str) -> Delivery:
    """Reads the reply subject of a delivered message.

    Both forms are known: ``$JS.ACK.<stream>.<consumer>.<delivered>.<position>.<delivery>.<time>.<pending>``, and the
    later one with domain and account before the stream, which may grow further tokens at its end.

    Raises:
        ValueError: it is neither.
    """
    tokens = subject.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) < 9 or len(tokens) == 10:
        raise ValueError(f"{subject!r} is not the reply subject of a JetStream message")
    first = 5 if len(tokens) == 9 else 7
    try:
        return Delivery(*map(int, tokens[first : first + 4]))
    except ValueError:
        raise ValueError(f"{subject!r} is not the reply subject of a JetStream message") from None


def header_block(headers: Mapping[str, str] | None) -> bytes | None:
    """The raw header block of headers that the client has parsed; None where there are none."""
    if not headers:
        return None
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()
