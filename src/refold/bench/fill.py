"""Fills a stream with the benchmark's events, byte for byte as the publisher writes them, but thousands at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from refold.bench.connection import BareConnection
from refold.bench.model import AGGREGATE, Skew, draw
from refold.codecs import JsonCodec
from refold.errors import ConfigurationError, StreamError
from refold.event import DomainEvent
from refold.ports import Codec
from refold.subjects import SubjectScheme

__all__ = ["Publications", "fill"]

_CHUNK: Final = 1_000
_AHEAD: Final = 20_000
"""How many messages may be on their way: more would only queue up in the server's memory."""
_STALLED: Final = 30.0


def fill(
    url: str,
    stream: str,
    *,
    events: int,
    aggregates: int,
    skew: Skew = "uniform",
    seed: int = 1,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Makes a stream in file storage and fills it.

    Args:
        url: of the NATS server.
        stream: name of the stream, which must not exist yet; it takes the subjects of the benchmark's aggregate type.
        events, aggregates, skew, seed: see `draw`.
        progress: called with the number of events stored so far.

    Returns:
        Seconds it took.

    Raises:
        ConfigurationError: an argument makes no sense.
        StreamError: the stream exists, the server refuses it, or not exactly these events are in it at the end.
    """
    scheme = SubjectScheme()
    lines = Publications(stream, JsonCodec(), scheme).lines
    drawn = draw(events, aggregates, skew=skew, seed=seed)
    tell = progress or (lambda _: None)
    start = time.perf_counter()
    with BareConnection(url) as connection:
        _create(connection, stream, scheme.pattern(AGGREGATE))
        sent = stored = 0
        while chunk := list(islice(drawn, _CHUNK)):
            connection.send(b"".join([lines(event) for event in chunk]))
            sent += len(chunk)
            if sent - stored >= _AHEAD:
                stored = _wait(connection, stream, sent - _AHEAD // 2)
                tell(stored)
        tell(_wait(connection, stream, events))
        state = connection.api("STREAM.INFO", stream)["state"]
    if (state["messages"], state["first_seq"], state["last_seq"]) != (events, 1, events):
        raise StreamError(
            f"stream {stream!r} holds {state['messages']} messages ({state['first_seq']} to {state['last_seq']}) after "
            f"{events} were published: use a new stream that nobody else publishes to"
        )
    return time.perf_counter() - start


class Publications:
    """The protocol lines that publish events to a stream that begins with them, without a reply subject.

    Subjects, headers and bodies are those of `refold.jetstream.publisher.JetStreamPublisher`, concurrency check
    included: the server refuses an event where one before it was lost.

    Args:
        stream: the stream's name.
        codec: how events are written.
        scheme: how subjects are written.
    """

    def __init__(self, stream: str, codec: Codec, scheme: SubjectScheme) -> None:
        self._codec = codec
        self._scheme = scheme
        self._stream = stream
        self._position = 0
        self._last: dict[tuple[str, str], tuple[str, int]] = {}

    def lines(self, event: DomainEvent[Any]) -> bytes:
        """The lines that publish the stream's next event."""
        self._position += 1
        aggregate = event.aggregate_type, event.aggregate_id
        known = self._last.get(aggregate)
        pattern, after = known or (self._scheme.pattern(*aggregate), 0)
        self._last[aggregate] = pattern, self._position
        body, headers = self._codec.encode(event)
        further = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = (
            f"NATS/1.0\r\nNats-Msg-Id: {event.id}\r\n{further}"
            f"Nats-Expected-Last-Subject-Sequence: {after}\r\n"
            f"Nats-Expected-Last-Subject-Sequence-Subject: {pattern}\r\n"
            f"Nats-Expected-Stream: {self._stream}\r\n\r\n"
        ).encode()
        subject = self._scheme.format(*aggregate, event.type).encode()
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(head), len(head) + len(body), head, body)


def _create(connection: BareConnection, stream: str, subject: str) -> None:
    if not stream or any(c in stream for c in " .*>/\\\t\r\n"):
        raise ConfigurationError(f"{stream!r} is no name of a stream")
    config = {"name": stream, "subjects": [subject], "storage": "file", "num_replicas": 1, "allow_direct": True}
    made = connection.api("STREAM.CREATE", stream, config)  # which an equal stream passes for, too
    if made["state"]["last_seq"]:
        raise StreamError(f"stream {stream!r} exists and is not new: delete it, or give another name")


def _wait(connection: BareConnection, stream: str, wanted: int) -> int:
    """Waits until the stream holds so many messages; how many it holds."""
    stored, changed = -1, time.monotonic()
    while True:
        messages: int = connection.api("STREAM.INFO", stream)["state"]["messages"]
        if messages >= wanted:
            return messages
        if messages != stored:
            stored, changed = messages, time.monotonic()
        elif time.monotonic() - changed > _STALLED:
            raise StreamError(
                f"stream {stream!r} stays at {messages} messages for {_STALLED:.0f} s, {wanted} were sent: "
                "look for limits of the server's account and for its disk space"
            )
        time.sleep(0.002)
