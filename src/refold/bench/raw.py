"""The raw limit: how fast a bare Python socket can take a stream off the server when it does nothing with it."""

from __future__ import annotations

import json
import time
from typing import Final

from refold.bench.connection import BareConnection
from refold.errors import StreamError

__all__ = ["raw_limit"]

_BATCH: Final = 100_000
_IN_FLIGHT: Final = 2
_PULL_BYTES: Final = 24 * 2**20
"""Most bytes of one pull: a server cuts off a client that lags 64 MiB behind, and two pulls are in flight."""
_BUFFER: Final = 2**18
"""Longest stretch taken from the socket at once, in bytes."""
_USUAL: Final = {b" %d" % size: size + 4 for size in range(200, 1000)}
"""How far a frame reaches beyond its first line, by the end of that line: quicker to look up than to work out. Smaller
ones may be the server's status messages, and sizes of more than three digits take a look at the whole line."""


def raw_limit(url: str, stream: str, *, rounds: int = 3) -> float:
    """Events a second that a bare socket takes from a stream: the yardstick for a rebuild.

    An unfiltered ephemeral pull consumer in memory without acks, batches of 100,000, two requests in flight; frames are
    walked by the lengths that the protocol gives, and counted; nothing is kept or decoded.

    Args:
        url: of the NATS server.
        stream: a stream that nobody writes to meanwhile.
        rounds: how often to read it; the best counts.

    Raises:
        StreamError: the stream is empty, or the server stopped sending, cut this reader off, or sent too little.
    """
    return max(_Reader(url, stream).events_per_s() for _ in range(rounds))


class _Reader:
    """Reads a stream once."""

    def __init__(self, url: str, stream: str) -> None:
        self._url = url
        self._connection = BareConnection(url)
        self._stream = stream
        self._pull = b""
        self._open = 0
        self._counted = 0

    def events_per_s(self) -> float:
        with self._connection as connection:
            events: int = connection.api("STREAM.INFO", self._stream)["state"]["messages"]
            if not events:
                raise StreamError(f"stream {self._stream!r} is empty: there is nothing to measure")
            consumer = self._consumer()
            start = time.perf_counter()
            try:
                self._count(events)
            except OSError as error:
                raise StreamError(
                    f"the server stopped after {self._counted} of {events} events of stream {self._stream!r}: {error} "
                    "(does its log say 'Slow Consumer'? then something else keeps the processor busy)"
                ) from error
            seconds = time.perf_counter() - start
        if self._counted != events:
            raise StreamError(f"{self._counted} events came from stream {self._stream!r}, which holds {events}")
        with BareConnection(self._url) as other:
            other.api(f"CONSUMER.DELETE.{self._stream}", consumer)
        return events / seconds

    def _consumer(self) -> str:
        config = {
            "deliver_policy": "all",
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 300 * 10**9,
        }
        request = {"stream_name": self._stream, "config": config}
        name: str = self._connection.api("CONSUMER.CREATE", self._stream, request)["name"]
        inbox = f"{self._connection.inbox}.raw"
        body = json.dumps({"batch": _BATCH, "max_bytes": _PULL_BYTES}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}"
        self._pull = f"PUB {subject} {inbox} {len(body)}\r\n".encode() + body + b"\r\n"
        self._connection.send(f"SUB {inbox} 2\r\n".encode())
        return name

    def _count(self, events: int) -> None:
        """Counts messages until so many came, keeping two requests open."""
        receive, data, position = self._connection.socket.recv, b"", 0
        while self._counted < events:
            self._request()
            received = receive(_BUFFER)
            if not received:
                raise ConnectionError("the connection was closed")
            data = data[position:] + received
            position, count = self._walk(data)
            self._counted += count

    def _walk(self, data: bytes) -> tuple[int, int]:
        """The length of the complete frames that data begins with, and how many of them are messages."""
        position = count = 0
        size, find, usual = len(data), data.find, _USUAL.get
        while (line_end := find(b"\r\n", position)) >= 0:
            length = usual(data[line_end - 4 : line_end])
            if length is not None:
                end = line_end + length
                if end > size:
                    break
                count += 1
            else:
                end, is_message = self._look_closely(data, position, line_end)
                if end > size:
                    break
                count += is_message
            position = end
        return position, count

    def _look_closely(self, data: bytes, position: int, line_end: int) -> tuple[int, bool]:
        """Where a frame ends that may be anything, and whether it is a message; deals with it if it is complete."""
        words = data[position:line_end].split()
        if words[0] in (b"MSG", b"HMSG"):
            end = line_end + 4 + int(words[-1])
            is_message = len(words) == (6 if words[0] == b"HMSG" else 5)  # status messages have no reply subject
            if not is_message and end <= len(data):
                self._status(data[line_end + 2 : end])
            return end, is_message
        if words[0] == b"PING":
            self._connection.send(b"PONG\r\n")
        elif words[0] == b"-ERR":
            raise ConnectionError(data[position:line_end].decode("utf-8", "replace"))
        return line_end + 2, False

    def _status(self, block: bytes) -> None:
        """Every request that limits its bytes ends with a status, whether it was served in full or not."""
        status = block.split(b"\r\n", 1)[0]
        if b" 409 Batch Completed" not in status and b" 409 Message Size Exceeds MaxBytes" not in status:
            raise ConnectionError(status.decode("utf-8", "replace"))
        self._open -= 1

    def _request(self) -> None:
        while self._open < _IN_FLIGHT:
            self._open += 1
            self._connection.send(self._pull)
