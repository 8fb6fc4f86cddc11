"""Fills a stream with the benchmark's events, byte for byte as the publisher writes them, but thousands at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

from refold.bench.connection import BareConnection
from refold.bench.model import AGGREGATE, Skew, draw
from refold.codecs import JsonCodec
from refold.errors import ConfigurationError, StreamError
from refold.event import DomainEvent
from refold.ports import Codec
from refold.subjects import SubjectScheme

__all__ = ["Filling", "Publications", "fill"]

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
    start = time.perf_counter()
    with Filling(url, stream, draw(events, aggregates, skew=skew, seed=seed), progress=progress) as filling:
        filling.more(events)
    return time.perf_counter() - start


class Filling:
    """A new stream that is filled as far as it is asked for, now and further later, from one drawing; a context manager.

    Args:
        url: of the NATS server.
        stream: name of the stream, which must not exist yet.
        drawn: the events.
        aggregate: their aggregate type, whose subjects the stream takes.
        progress: called with the number of messages stored so far.

    Attributes:
        events: how many were taken from the drawing.

    Raises:
        ConfigurationError: an argument makes no sense.
        StreamError: on entering: the stream exists, or the server refuses it.
    """

    def __init__(
        self,
        url: str,
        stream: str,
        drawn: Iterable[DomainEvent[Any]],
        *,
        aggregate: str = AGGREGATE,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        scheme = SubjectScheme()
        self.events = 0
        self._stream = stream
        self._drawn = iter(drawn)
        self._subject = scheme.pattern(aggregate)
        self._publications = Publications(stream, JsonCodec(), scheme)
        self._connection = BareConnection(url)
        self._others = 0
        self._tell = progress or (lambda _: None)

    def __enter__(self) -> Self:
        self._connection.__enter__()
        try:
            _create(self._connection, self._stream, self._subject)
        except BaseException:
            self._connection.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.__exit__(kind, error, trace)

    @property
    def stored(self) -> int:
        """How many messages the stream holds when all that was sent is stored, those of others before `settle` among them."""
        return self._others + self.events

    def more(self, events: int) -> None:
        """Fills the stream with that many more events, and waits until all of them are stored.

        Raises:
            StreamError: they were not, or others publish to the stream.
        """
        sent = stored = self.stored
        last = sent + events
        while chunk := self.lines(min(_CHUNK, last - sent)):
            self.send(chunk)
            sent = self.stored
            if sent - stored >= _AHEAD:
                stored = _wait(self._connection, self._stream, sent - _AHEAD // 2)
                self._tell(stored)
        self._tell(_wait(self._connection, self._stream, sent))
        state = self._connection.api("STREAM.INFO", self._stream)["state"]
        if (state["messages"], state["first_seq"], state["last_seq"]) != (sent, 1, sent):
            raise StreamError(
                f"stream {self._stream!r} holds {state['messages']} messages ({state['first_seq']} to {state['last_seq']}) "
                f"after {sent} were published: use a new stream that nobody else publishes to"
            )

    def share(self) -> None:
        """Others publish to the stream from now on: events are sent without the check that nothing came in between."""
        self._publications.checked = False

    def settle(self, events: int) -> int:
        """Waits until the stream holds that many messages, those of others among them, which publish no more.

        Returns:
            How many it holds.

        Raises:
            StreamError: it stays below.
        """
        messages = _wait(self._connection, self._stream, events)
        self._others = messages - self.events
        return messages

    def lines(self, events: int) -> bytes:
        """The lines that publish the next events, to be sent in this order."""
        chunk = list(islice(self._drawn, events))
        self.events += len(chunk)
        return b"".join(map(self._publications.lines, chunk))

    def send(self, lines: bytes) -> None:
        """Publishes what `lines` gave; nobody waits for its being stored."""
        self._connection.send(lines)


class Publications:
    """The protocol lines that publish events to a stream that begins with them.

    Subjects, headers and bodies are those of `refold.jetstream.publisher.JetStreamPublisher`, concurrency check
    included: the server refuses an event where one before it was lost.

    Args:
        stream: the stream's name.
        codec: how events are written.
        scheme: how subjects are written.

    Attributes:
        checked: False leaves the concurrency check out, for streams that others publish to as well.
    """

    def __init__(self, stream: str, codec: Codec, scheme: SubjectScheme) -> None:
        self._codec = codec
        self._scheme = scheme
        self._stream = stream
        self.checked = True
        self._position = 0
        self._last: dict[tuple[str, str], tuple[str, int]] = {}

    def lines(self, event: DomainEvent[Any], reply: str = "") -> bytes:
        """The lines that publish the stream's next event, with the subject for the acknowledgement, if one is wanted."""
        self._position += 1
        aggregate = event.aggregate_type, event.aggregate_id
        known = self._last.get(aggregate)
        pattern, after = known or (self._scheme.pattern(*aggregate), 0)
        self._last[aggregate] = pattern, self._position
        body, headers = self._codec.encode(event)
        further = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        check = (
            f"Nats-Expected-Last-Subject-Sequence: {after}\r\nNats-Expected-Last-Subject-Sequence-Subject: {pattern}\r\n"
            if self.checked
            else ""
        )
        head = (
            f"NATS/1.0\r\nNats-Msg-Id: {event.id}\r\n{further}{check}Nats-Expected-Stream: {self._stream}\r\n\r\n"
        ).encode()
        subject = self._scheme.format(*aggregate, event.type) + (f" {reply}" if reply else "")
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(head), len(head) + len(body), head, body)


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
