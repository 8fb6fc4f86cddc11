"""Publishing: events appended to one aggregate, with optimistic concurrency.

The server checks that nothing was appended to the aggregate since its last event was read
(``Nats-Expected-Last-Subject-Sequence`` over the aggregate's subjects, nats-server 2.11 or later), so versions have no
gap and none comes twice; it also makes sending the same message again harmless, whether or not its id is still known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import msgspec
import stamina
from nats.aio.client import Client

from refold.clock import Clock, SystemClock
from refold.errors import (
    AtomicPublishUnsupported,
    DefinitionError,
    JetStreamUnavailable,
    NatsUnavailable,
    PublishError,
    RefoldError,
    UndecodableEvent,
    VersionConflict,
)
from refold.event import DomainEvent, EventType, NewEvent, event_type_of, parse_headers
from refold.jetstream.api import ApiError, JetStreamApi, request, translated
from refold.jetstream.messages import MSG_ID, Outgoing, PubAck, outgoing
from refold.ports import Codec, PublishAck, StreamPublisher
from refold.subjects import SubjectScheme

__all__ = ["JetStreamPublisher"]

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_EXPECTED_STREAM: Final = "Nats-Expected-Stream"
_HEADER_RESERVE: Final = 512
"""Bytes that the publisher's own headers take at most, the aggregate's subjects and the stream's name not counted."""

_WRONG_SEQUENCE: Final = frozenset({10071, 10164})
_OTHER_STREAM: Final = 10060
_ATOMIC_DISABLED: Final = 10174
_DUPLICATE_IN_BATCH: Final = 10201
_MAX_BATCH: Final = 1000


class _OvertakenError(Exception):
    """Something was appended to the aggregate since its last event was read."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Draft:
    """An event that has no version yet. Id and time stay as they are however often it is tried."""

    event_type: EventType
    payload: Any
    id: str
    timestamp: datetime
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class _Last:
    """Where an aggregate ends."""

    position: int = 0
    version: int = 0
    event_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Aggregate:
    type: str
    id: str
    pattern: str


class JetStreamPublisher(StreamPublisher):
    """A `StreamPublisher` over one stream; for concurrent use.

    When an acknowledgement is lost, it looks in the stream whether the events are there, and sends them again where
    they are not. It gives up with a `PublishError` that says so; the events may then still be stored, once.

    Args:
        client: connected.
        stream: the stream's name.
        codec: how events are written.
        scheme: how subjects are written.
        clock: tells the time of events that have none.
        timeout: seconds to wait for one acknowledgement.
        attempts: how often to try after a lost acknowledgement, or, without an expected version, after being overtaken.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        codec: Codec,
        scheme: SubjectScheme,
        clock: Clock | None = None,
        *,
        timeout: float = 5.0,
        attempts: int = 10,
    ) -> None:
        self._client = client
        self._api = JetStreamApi(client, timeout=timeout)
        self._stream = stream
        self._codec = codec
        self._scheme = scheme
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._attempts = attempts
        self._atomic = False

    async def publish(
        self,
        aggregate_type: str,
        aggregate_id: str,
        events: Sequence[Any | NewEvent],
        *,
        expected_version: int | None = None,
        atomic: bool = True,
    ) -> PublishAck:
        """Appends events to one aggregate, with versions that follow its last event's."""
        drafts = self._drafts(events)
        aggregate = _Aggregate(aggregate_type, aggregate_id, self._scheme.pattern(aggregate_type, aggregate_id))
        if len(drafts) == 1 or atomic:
            if len(drafts) > 1:
                await self._require_atomic(len(drafts))
            return await self._append(aggregate, drafts, expected_version, None)
        return await self._one_by_one(aggregate, drafts, expected_version)

    # -- What to publish ---------------------------------------------------------------------------------------------

    def _drafts(self, events: Sequence[Any | NewEvent]) -> list[_Draft]:
        if not events:
            raise PublishError("there is no event to publish; give at least one")
        now = self._clock.now()
        drafts = [
            self._draft(event if isinstance(event, NewEvent) else NewEvent(payload=event), now) for event in events
        ]
        if len({draft.id for draft in drafts}) < len(drafts):
            raise PublishError("two of the events have the same id; leave ids out, or give each its own")
        return drafts

    def _draft(self, event: NewEvent, now: datetime) -> _Draft:
        try:
            event_type = event_type_of(type(event.payload))
        except DefinitionError:
            if event.type is None:
                raise
            event_type = EventType(event.type, dict)
        else:
            if event.type not in (None, event_type.name):
                raise DefinitionError(
                    f"{type(event.payload).__name__} belongs to event type {event_type.name!r}, not {event.type!r}"
                )
        timestamp = event.timestamp or now
        if timestamp.tzinfo is None:
            raise PublishError(f"the timestamp of a {event_type.name!r} event has no time zone; use aware datetimes")
        event_id = str(uuid4()) if event.id is None else event.id
        return _Draft(event_type, event.payload, event_id, timestamp, event.headers or {})

    def _messages(self, aggregate: _Aggregate, drafts: Sequence[_Draft], version: int) -> list[Outgoing]:
        """Messages for drafts, the first of which has a version."""
        reserve = _HEADER_RESERVE + len(aggregate.pattern.encode()) + len(self._stream.encode())
        return [
            outgoing(
                DomainEvent(
                    id=draft.id,
                    aggregate_id=aggregate.id,
                    type=draft.event_type.name,
                    aggregate_type=aggregate.type,
                    timestamp=draft.timestamp,
                    version=version + i,
                    payload=draft.payload,
                    payload_version=draft.event_type.payload_version,
                ),
                self._codec,
                self._scheme,
                max_payload=self._client.max_payload - reserve,
                extra=draft.headers,
            )
            for i, draft in enumerate(drafts)
        ]

    # -- Appending ---------------------------------------------------------------------------------------------------

    async def _one_by_one(
        self, aggregate: _Aggregate, drafts: Sequence[_Draft], expected_version: int | None
    ) -> PublishAck:
        self._messages(aggregate, drafts, 1)  # what cannot be written is told before anything is stored
        ack: PublishAck | None = None
        last: _Last | None = None
        for stored, draft in enumerate(drafts):
            expected = None if expected_version is None else expected_version + stored
            try:
                ack = await self._append(aggregate, [draft], expected, last)
            except RefoldError as error:
                if not stored:
                    raise
                raise PublishError(f"{stored} of {len(drafts)} events were stored, then: {error}") from error
            last = _Last(ack.position, ack.version, draft.id)
        assert ack is not None  # noqa: S101 - there is at least one draft
        return dataclasses.replace(ack, event_ids=tuple(draft.id for draft in drafts))

    async def _append(
        self, aggregate: _Aggregate, drafts: Sequence[_Draft], expected_version: int | None, last: _Last | None
    ) -> PublishAck:
        """Appends all or none; `last` is where the aggregate ends, if that is known."""
        ids = tuple(draft.id for draft in drafts)
        for _ in range(self._attempts):
            last = last or await self._last(aggregate)
            if ids == (last.event_id,):  # sent before, by a caller who did not learn of it
                return PublishAck(self._stream, last.position, last.version, ids, duplicate=True)
            if expected_version is not None and last.version != expected_version:
                raise VersionConflict(aggregate.type, aggregate.id, expected_version, last.version)
            messages = self._messages(aggregate, drafts, last.version + 1)
            try:
                ack = await self._store(aggregate, messages, last.position)
            except _OvertakenError:
                last = None
                continue
            if ack.duplicate:
                return await self._duplicate(ack, messages[-1])
            return PublishAck(self._stream, ack.seq, last.version + len(drafts), ids)
        raise PublishError(
            f"{aggregate.type} {aggregate.id!r}: others appended to it {self._attempts} times in between; try again"
        )

    async def _store(self, aggregate: _Aggregate, messages: Sequence[Outgoing], after: int) -> PubAck:
        """Stores messages behind a position of the aggregate, once, however often they must be sent.

        Raises:
            _OvertakenError: the aggregate does not end there, and the messages are not in the stream.
        """
        try:
            async for attempt in stamina.retry_context(
                on=(NatsUnavailable, JetStreamUnavailable),
                attempts=self._attempts,
                timeout=6 * self._timeout,
                wait_initial=0.05,
                wait_max=2.0,
            ):
                with attempt:
                    return await self._send_once(aggregate, messages, after, again=attempt.num > 1)
        except JetStreamUnavailable as error:
            raise PublishError(
                f"not stored: nothing takes messages at {messages[0].subject!r}; check that the subjects of stream "
                f"{self._stream!r} include it, and that the stream has a leader"
            ) from error
        except NatsUnavailable as error:
            raise PublishError(
                f"no acknowledgement from stream {self._stream!r}, so events {[m.event_id for m in messages]} may be "
                "stored or not: read the aggregate before publishing them again"
            ) from error
        raise AssertionError("a retry ends with a result or an error")  # pragma: no cover

    async def _send_once(
        self, aggregate: _Aggregate, messages: Sequence[Outgoing], after: int, *, again: bool
    ) -> PubAck:
        if again:
            found = await self._read_back(aggregate, messages, after)
            if found is not None:
                return found
        try:
            return await self._send(aggregate, messages, after)
        except (_OvertakenError, PublishError):
            # The one before may have come in between; servers since 2.12 see that before they see its id.
            found = await self._read_back(aggregate, messages, after) if again else None
            if found is None:
                raise
            return found

    async def _send(self, aggregate: _Aggregate, messages: Sequence[Outgoing], after: int) -> PubAck:
        expected = {_EXPECTED: str(after), _EXPECTED_SUBJECT: aggregate.pattern, _EXPECTED_STREAM: self._stream}
        headers = [dict(message.headers) for message in messages]
        headers[0].update(expected)
        if len(messages) > 1:
            batch = uuid4().hex
            for i, block in enumerate(headers):
                block.update({"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(i + 1)})
            headers[-1]["Nats-Batch-Commit"] = "1"
            for message, block in zip(messages[:-1], headers[:-1], strict=True):
                with translated(message.subject, self._timeout):
                    await self._client.publish(message.subject, message.body, headers=block)
        last = messages[-1]
        answer = await request(self._client, last.subject, last.body, headers=headers[-1], timeout=self._timeout)
        try:
            ack = msgspec.json.decode(answer.data, type=PubAck)
        except msgspec.DecodeError as error:
            raise PublishError(f"not an acknowledgement at {last.subject!r}: {answer.data[:200]!r}") from error
        if ack.error is not None:
            raise self._refusal(ack.error)
        return ack

    def _refusal(self, error: ApiError) -> Exception:
        if error.err_code in _WRONG_SEQUENCE:
            return _OvertakenError()
        if error.err_code == _ATOMIC_DISABLED:
            self._atomic = False
            return self._atomic_unsupported()
        if error.err_code == _OTHER_STREAM:
            return PublishError(f"not stored: the subject belongs to another stream than {self._stream!r}")
        if error.err_code == _DUPLICATE_IN_BATCH:
            return PublishError(f"not stored: stream {self._stream!r} holds an event of one of these ids already")
        return PublishError(
            f"stream {self._stream!r} did not store it: {error.description} (code {error.code}, {error.err_code})"
        )

    # -- What the stream holds ---------------------------------------------------------------------------------------

    async def _last(self, aggregate: _Aggregate) -> _Last:
        found = await self._api.message(self._stream, last_by_subj=aggregate.pattern)
        if found is None:
            return _Last()
        try:
            event = self._codec.envelope(found.data, found.hdrs)
        except UndecodableEvent as error:
            raise PublishError(
                f"the version of {aggregate.type} {aggregate.id!r} is not known, because its last message, at position "
                f"{found.seq} of stream {self._stream!r}, is no event: {error}"
            ) from error
        return _Last(found.seq, event.version, event.id)

    async def _read_back(self, aggregate: _Aggregate, messages: Sequence[Outgoing], after: int) -> PubAck | None:
        """An acknowledgement of messages, if they are what stands behind a position of the aggregate."""
        position = after
        for message in messages:
            found = await self._api.message(self._stream, seq=position + 1, next_by_subj=aggregate.pattern)
            if found is None or parse_headers(found.hdrs or b"").get(MSG_ID) != message.event_id:
                return None
            position = found.seq
        return PubAck(self._stream, position)

    async def _duplicate(self, ack: PubAck, message: Outgoing) -> PublishAck:
        """What became of an event whose id the server knew already."""
        found = await self._api.message(self._stream, seq=ack.seq)
        if found is None or found.subject != message.subject:
            raise PublishError(
                f"not stored: an event of id {message.event_id!r} was stored at position {ack.seq} before, for another "
                "aggregate or type, or has been deleted since; give each event an id of its own"
            )
        version = self._codec.envelope(found.data, found.hdrs).version
        return PublishAck(self._stream, ack.seq, version, (message.event_id,), duplicate=True)

    async def _require_atomic(self, count: int) -> None:
        """Asks the stream first: servers before 2.12 ignore what makes a batch one, and would store its parts."""
        if count > _MAX_BATCH:
            raise PublishError(
                f"{count} events at once, and a server takes {_MAX_BATCH} as one: publish fewer, or use atomic=False"
            )
        if not self._atomic:
            self._atomic = (await self._api.stream_info(self._stream)).config.allow_atomic
        if not self._atomic:
            raise self._atomic_unsupported()

    def _atomic_unsupported(self) -> AtomicPublishUnsupported:
        return AtomicPublishUnsupported(
            f"stream {self._stream!r} cannot store several events all or none, which needs nats-server 2.12 or later "
            "and the stream setting allow_atomic; publish with atomic=False to store them one after another"
        )
