"""The ports to streams: reading many events fast, reading some, indexing aggregates, publishing."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from refold.event import DomainEvent, NewEvent
from refold.filters import EventFilter

__all__ = [
    "AggregateIndexer",
    "EventReader",
    "EventSource",
    "PublishAck",
    "RawBatch",
    "RawMessage",
    "StreamIdentity",
    "StreamPublisher",
    "StreamReader",
    "StreamState",
    "anchor_of",
]


RawMessage = tuple[str, str, str, int, bytes | None, bytes]
"""A message as read: aggregate type, aggregate id and event type as tokens of its subject, encoded as they were published;
stream sequence; raw header block (its version line may be left out; None for a message without headers); body."""


@dataclasses.dataclass(frozen=True, slots=True)
class RawBatch:
    """Messages as read, in stream order.

    Attributes:
        messages: what was read, positions rising.
        last: sequence up to which the stream has been read with this batch; at least that of the last message.
        pending: about how many messages the reader has not got yet, as far as the server has told.
    """

    messages: Sequence[RawMessage]
    last: int
    pending: int = 0

    def __len__(self) -> int:
        return len(self.messages)

    def message(self, position: int) -> RawMessage | None:
        """The message at a stream sequence; None where it is not among these."""
        index = bisect_left(self.messages, position, key=itemgetter(3))
        if index < len(self.messages) and self.messages[index][3] == position:
            return self.messages[index]
        return None

    @property
    def positions(self) -> list[int]:
        """The stream sequences of the messages."""
        return [message[3] for message in self.messages]


def anchor_of(message: RawMessage) -> str:
    """What tells a stream that has this message at this position from one that has another there: position and digest."""
    kind, aggregate_id, event_type, position, _, body = message
    subject = f"{kind}.{aggregate_id}.{event_type}".encode("utf-8", "surrogateescape")
    digest = blake2b(body, digest_size=12, key=blake2b(subject).digest())
    return f"{position}:{digest.hexdigest()}"


@dataclasses.dataclass(frozen=True, slots=True)
class StreamIdentity:
    """What a checkpoint knows of its stream, so that another one in its place is noticed.

    Attributes:
        created: the stream's creation time, as the server writes it.
        position: the last sequence read.
        anchor: `anchor_of` a message at or before that position; None where none is known.
    """

    created: str
    position: int
    anchor: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StreamState:
    """A stream at one moment.

    Attributes:
        name: its name.
        created: when it was made, as the server writes it (RFC 3339); tells a stream from a later one of its name.
        first: sequence of the first message; one above `last` in an empty stream.
        last: sequence of the last message stored so far (the head); 0 in a stream that never had one.
        messages: how many messages it holds.
    """

    name: str
    created: str
    first: int
    last: int
    messages: int


class EventSource(ABC):
    """Reads a stream in bulk, in order, without a gap."""

    @abstractmethod
    async def state(self) -> StreamState:
        """The stream now.

        Raises:
            StreamNotFound: there is no such stream.
            StreamError: NATS or JetStream could not be asked.
        """

    @abstractmethod
    def batches(self, wanted: EventFilter, *, until: int) -> AsyncGenerator[RawBatch, None]:
        """Every message from the filter's start up to and including sequence `until`, in order, each exactly once.

        Messages that the filter does not want may be among them (only its start is exact); those it wants are never
        left out. Ends when nothing up to `until` is left. Reading goes on in the background only as far as a bounded
        buffer; close the iterator (``aclosing``) to stop early.

        Raises:
            ConfigurationError: the stream lets messages go once they were read (its retention is not by limits).
            ContinuityError: a message is missing, repeated or out of order, and reading again did not mend it.
            StreamError: the stream or the server went away and did not come back in time.
        """

    @abstractmethod
    def follow(
        self, wanted: EventFilter, identity: StreamIdentity, *, name: str = "", accept_expired: bool = False
    ) -> AsyncGenerator[RawBatch, None]:
        """Every message after a position, in order, each exactly once, without an end: what is there, then what comes.

        As `batches`, but for this: messages are given within a millisecond or so of their arrival. A batch without messages
        says that the stream has been read up to its `last`, though nothing wanted came: within a second or so of a time at
        which all there is has been read, `RawBatch.last` is the stream's head. An interruption is not mended but raised:
        call again with what was reached. Once a reader is set up on the server, and before anything is given, the stream is
        compared with `identity`.

        Args:
            wanted: which messages; its start counts where it lies after the position.
            identity: the stream as it was read so far.
            name: what the reader is called in the server's lists; a part that makes it unique is added.
            accept_expired: go on though messages after the position were removed by the stream's limits, or purged.

        Raises:
            StreamReplaced: another stream is in the place of the one that was read: views must be rebuilt.
            EventsExpired: messages after the position are gone from the stream's beginning.
            StreamNotFound, NotPermitted, ConfigurationError: nothing will help but a person.
            ContinuityError, StreamError: reading was interrupted; it can be taken up again.
        """

    @abstractmethod
    async def anchor(self, position: int) -> str | None:
        """`anchor_of` the message at a position; None where there is none, or where it is no event's."""


class AggregateIndexer(ABC):
    """Lists aggregates."""

    @abstractmethod
    def aggregate_ids(self, aggregate_type: str) -> AsyncIterator[str]:
        """The ids of every aggregate of a type that has events, each once, in no promised order.

        A stream that does not exist gives nothing, and a warning in the log.

        Raises:
            StreamError: NATS or JetStream could not be asked.
        """


class EventReader(ABC):
    """Reads the events of an aggregate type across its aggregates."""

    @abstractmethod
    def events(self, wanted: EventFilter) -> AsyncIterator[DomainEvent[Any]]:
        """Every wanted event stored when reading began, in position order.

        A stream that does not exist gives nothing, and a warning in the log. A message that cannot be decoded is logged
        as an error with its position, and passed over. Payloads are of the classes the reader was made with, else
        plain JSON.

        Raises:
            StreamError: NATS or JetStream could not be asked.
        """

    @abstractmethod
    async def latest(
        self, wanted: EventFilter, *, by_subject: bool = False
    ) -> dict[tuple[str, str, str], DomainEvent[Any]]:
        """The wanted event of the highest version for each aggregate type, aggregate id and event type.

        Args:
            wanted: which events.
            by_subject: ask the server for the last message of each subject instead of scanning: much quicker, and the
                same only where versions are known to rise with positions.
        """


class StreamReader(ABC):
    """Reads the events of one aggregate."""

    @abstractmethod
    def read(
        self,
        aggregate_type: str,
        aggregate_id: str,
        *,
        from_version: int = 1,
        from_position: int = 1,
        wanted: EventFilter | None = None,
    ) -> AsyncIterator[DomainEvent[Any]]:
        """The aggregate's events in position order, from a version and a position on.

        A stream that does not exist gives nothing, and a warning in the log.

        Args:
            aggregate_type: the aggregate's type.
            aggregate_id: its id.
            from_version: the lowest version.
            from_position: the lowest stream sequence.
            wanted: what else is asked of events; messages of other types are not even decoded.

        Raises:
            UndecodableEvent: a message is no event; its position is in the error.
            StreamError: NATS or JetStream could not be asked.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class PublishAck:
    """What was stored.

    Attributes:
        stream: the stream's name.
        position: sequence of the last event published.
        version: version of that event in its aggregate.
        event_ids: ids of the events, in order.
        duplicate: True where the stream held them already.
    """

    stream: str
    position: int
    version: int
    event_ids: tuple[str, ...]
    duplicate: bool = False


class StreamPublisher(ABC):
    """Appends events to aggregates."""

    @abstractmethod
    async def publish(
        self,
        aggregate_type: str,
        aggregate_id: str,
        events: Sequence[Any | NewEvent],
        *,
        expected_version: int | None = None,
        atomic: bool = True,
    ) -> PublishAck:
        """Appends events to one aggregate, with versions that follow its last event's.

        Args:
            aggregate_type: the aggregate's type.
            aggregate_id: its id.
            events: payloads of `event` classes, or `NewEvent`; at least one.
            expected_version: the aggregate's version that the caller decided upon; 0 for a new one; None for whatever
                it is.
            atomic: several events are stored all or none. False stores them one after another.

        Raises:
            VersionConflict: the aggregate is not at `expected_version`.
            AtomicPublishUnsupported: server or stream cannot store several as one.
            SubjectError: type or id cannot be written as a subject.
            PublishError: not stored, and why.
        """
