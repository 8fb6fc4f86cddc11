"""Reading events where speed is not the point: one aggregate's, or some across aggregates."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.client import Client

from refold.errors import EventError, IdentityMismatch, StreamNotFound, UndecodableEvent
from refold.event import DomainEvent, EventType
from refold.filters import EventFilter
from refold.jetstream.api import JetStreamApi
from refold.jetstream.scan import Delivered, scan
from refold.ports import Codec, EventReader, PayloadDecoder, StreamReader
from refold.subjects import Identity, SubjectScheme

__all__ = ["JetStreamEventReader", "JetStreamStreamReader"]

log = logging.getLogger(__name__)


class _Reader:
    """What both readers share."""

    def __init__(
        self,
        client: Client,
        stream: str,
        codec: Codec,
        scheme: SubjectScheme,
        event_types: Mapping[str, EventType] | None = None,
        *,
        page: int = 1000,
    ) -> None:
        self._client = client
        self._stream = stream
        self._codec = codec
        self._scheme = scheme
        self._page = page
        self._decoders: dict[str, PayloadDecoder] = {
            name: codec.decoder(event_type) for name, event_type in (event_types or {}).items()
        }

    async def _messages(self, consumer: Mapping[str, Any]) -> AsyncGenerator[Delivered, None]:
        """Messages up to the head of now; none, and a warning, where the stream does not exist."""
        try:
            head = (await JetStreamApi(self._client).stream_info(self._stream)).state.last_seq
            messages = scan(self._client, self._stream, consumer, until=head, page=self._page)
            async with aclosing(messages):
                async for message in messages:
                    yield message
        except StreamNotFound:
            log.warning("stream does not exist; nothing to read", extra={"stream": self._stream})

    def _event(self, message: Delivered, identity: Identity) -> DomainEvent[Any]:
        decode = self._decoders.get(identity.event_type, self._codec.envelope)
        event = decode(message.body, message.headers)
        if (event.aggregate_type, event.aggregate_id, event.type) != identity:
            raise IdentityMismatch(
                f"subject {message.subject!r} and envelope disagree: the envelope is of {event.aggregate_type} "
                f"{event.aggregate_id!r}, type {event.type!r}"
            )
        return msgspec.structs.replace(event, position=message.at.position, raw_headers=message.headers)


class JetStreamStreamReader(_Reader, StreamReader):
    """A `StreamReader` over one stream.

    Args:
        client: connected.
        stream: the stream's name.
        codec: how events are written.
        scheme: how subjects are written.
        event_types: types to decode payloads of, by name; others are plain JSON.
        page: how many messages to ask for at once.
    """

    async def read(
        self,
        aggregate_type: str,
        aggregate_id: str,
        *,
        from_version: int = 1,
        from_position: int = 1,
        wanted: EventFilter | None = None,
    ) -> AsyncGenerator[DomainEvent[Any], None]:
        """The aggregate's events in position order.

        Raises:
            IdentityMismatch: subject and body of a message disagree; beside what the port says.
        """
        wanted = wanted or EventFilter()
        consumer: dict[str, Any] = {
            "filter_subject": self._scheme.pattern(aggregate_type, aggregate_id),
            **(_start(wanted) if from_position <= 1 else _from_position(from_position)),
        }
        since = 0 if wanted.start_time is None else _nanoseconds(wanted.start_time)
        async with aclosing(self._messages(consumer)) as messages:
            async for message in messages:
                try:
                    identity = self._scheme.parse(message.subject)
                    if wanted.event_types is not None and identity.event_type not in wanted.event_types:
                        continue
                    event = self._event(message, identity)
                except IdentityMismatch as error:
                    raise IdentityMismatch(self._where(message, error)) from error
                except EventError as error:
                    raise UndecodableEvent(self._where(message, error)) from error
                if event.version >= from_version and message.at.stored_at >= since and wanted.accepts(event):
                    yield event

    def _where(self, message: Delivered, error: EventError) -> str:
        return f"stream {self._stream!r}, position {message.at.position}: {error}"


class JetStreamEventReader(_Reader, EventReader):
    """An `EventReader` over one stream.

    Args:
        client: connected.
        stream: the stream's name.
        codec: how events are written.
        scheme: how subjects are written.
        event_types: types to decode payloads of, by name; others are plain JSON.
        page: how many messages to ask for at once.
    """

    async def events(self, wanted: EventFilter) -> AsyncGenerator[DomainEvent[Any], None]:
        """Every wanted event stored when reading began, in position order."""
        consumer = {"filter_subjects": list(wanted.subjects(self._scheme)), **_start(wanted)}
        async with aclosing(self._messages(consumer)) as messages:
            async for message in messages:
                event = self._wanted(message, wanted)
                if event is not None:
                    yield event

    async def latest(
        self, wanted: EventFilter, *, by_subject: bool = False
    ) -> dict[tuple[str, str, str], DomainEvent[Any]]:
        """The newest wanted event of each subject. With a predicate it always scans: the last message may fail it."""
        newest: dict[tuple[str, str, str], DomainEvent[Any]] = {}
        events = self._last_ones(wanted) if by_subject and wanted.predicate is None else self.events(wanted)
        async with aclosing(events):
            async for event in events:
                key = (event.aggregate_type, event.aggregate_id, event.type)
                known = newest.get(key)
                if known is None or event.version > known.version:
                    newest[key] = event
        return newest

    async def _last_ones(self, wanted: EventFilter) -> AsyncGenerator[DomainEvent[Any], None]:
        subjects = list(wanted.subjects(self._scheme)) or [self._scheme.pattern()]
        consumer = {"deliver_policy": "last_per_subject", "filter_subjects": subjects}
        since = 0 if wanted.start_time is None else _nanoseconds(wanted.start_time)
        async with aclosing(self._messages(consumer)) as messages:
            async for message in messages:
                event = self._wanted(message, wanted) if message.at.stored_at >= since else None
                if event is not None:
                    yield event

    def _wanted(self, message: Delivered, wanted: EventFilter) -> DomainEvent[Any] | None:
        try:
            identity = self._scheme.parse(message.subject)
            if wanted.aggregate_types is not None and identity.aggregate_type not in wanted.aggregate_types:
                return None
            if wanted.event_types is not None and identity.event_type not in wanted.event_types:
                return None
            event = self._event(message, identity)
        except EventError as error:
            log.error(  # noqa: TRY400 - a trace says nothing about bad data
                "message cannot be decoded and is passed over",
                extra={
                    "stream": self._stream,
                    "position": message.at.position,
                    "subject": message.subject,
                    "reason": str(error),
                },
            )
            return None
        return event if wanted.accepts(event) else None


def _start(wanted: EventFilter) -> dict[str, Any]:
    if wanted.start_time is not None:
        moment = wanted.start_time.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return {"deliver_policy": "by_start_time", "opt_start_time": moment}
    return _from_position(wanted.start_position or 1)


def _from_position(position: int) -> dict[str, Any]:
    if position <= 1:
        return {"deliver_policy": "all"}
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": position}


def _nanoseconds(moment: datetime) -> int:
    """Nanoseconds since 1970, exactly: a float has not the digits."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
