"""The JetStream API: typed requests and answers over a NATS connection.

Subjects, requests and answers: https://docs.nats.io/reference/reference-protocols/nats_api_reference
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from refold.errors import JetStreamUnavailable, NatsUnavailable, NotPermitted, StreamError, StreamNotFound
from refold.jetstream.connection import NatsConnection

__all__ = [
    "ApiError",
    "ApiFailure",
    "ConsumerInfo",
    "JetStreamApi",
    "StoredMessage",
    "StreamConfig",
    "StreamInfo",
    "request",
    "translated",
    "unless_denied",
]

_STREAM_NOT_FOUND: Final = 10059
_MESSAGE_NOT_FOUND: Final = 10037
_STREAM_EXISTS: Final = 10058
_DISABLED: Final = frozenset({10039, 10076})

T = TypeVar("T")


class ApiError(msgspec.Struct, frozen=True):
    """An error as the server tells it."""

    code: int
    err_code: int = 0
    description: str = ""


class ApiFailure(StreamError):
    """The server refused a request.

    Args:
        what: what was asked.
        error: what the server said.
    """

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: the server says {error.description!r} (code {error.code}, {error.err_code})")
        self.error = error


class StreamConfig(msgspec.Struct, frozen=True):
    """The part of a stream's configuration that refold looks at."""

    name: str
    subjects: Sequence[str] = ()
    retention: str = "limits"
    allow_direct: bool = False
    allow_atomic: bool = False
    duplicate_window: int = 0


class StreamNumbers(msgspec.Struct, frozen=True):
    """A stream's state; `subjects` (with their message counts) only where asked for."""

    messages: int
    first_seq: int
    last_seq: int
    num_subjects: int = 0
    subjects: dict[str, int] | None = None


class ClusterInfo(msgspec.Struct, frozen=True):
    """Which server answers for a stream."""

    leader: str = ""


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream at a time by the server's clock (`ts`); `total`, `offset` and `limit` are about the page of subjects."""

    config: StreamConfig
    created: str
    state: StreamNumbers
    ts: datetime | None = None
    cluster: ClusterInfo = ClusterInfo()
    total: int = 0
    offset: int = 0
    limit: int = 0


class Deliveries(msgspec.Struct, frozen=True):
    """How far a consumer is: how many messages it has delivered, and the position of the last."""

    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerInfo(msgspec.Struct, frozen=True):
    """A consumer; `num_pending` is how many messages it has not delivered yet, `num_waiting` how many pulls it serves."""

    name: str
    num_pending: int
    num_waiting: int = 0
    delivered: Deliveries = Deliveries()

    def owed(self, received: int) -> int:
        """How many messages are still to come to who has received so many, those on their way included."""
        return self.num_pending + max(0, self.delivered.consumer_seq - received)


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as the stream holds it; `hdrs` is the raw header block."""

    subject: str
    seq: int
    time: str = ""
    data: bytes = b""
    hdrs: bytes | None = None


class _Message(msgspec.Struct, frozen=True):
    message: StoredMessage


class _Refusal(msgspec.Struct, frozen=True):
    error: ApiError


class _Done(msgspec.Struct, frozen=True):
    success: bool


async def request(
    client: Client,
    subject: str,
    body: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
    timeout: float = 5.0,
) -> Msg:
    """Sends a request and gives the answer.

    Raises:
        JetStreamUnavailable: nobody listens at the subject.
        NotPermitted: the server forbids to publish to it, or to subscribe to the answers.
        NatsUnavailable: no answer came in time (the request may have been served), or the connection is closed.
        StreamError: the client refuses the request.
    """
    with translated(subject, timeout):
        if isinstance(client, NatsConnection):
            client.forget_denial(subject)
        return await unless_denied(client, subject, client.request(subject, body, timeout=timeout, headers=headers))


@contextmanager
def translated(subject: str, timeout: float) -> Iterator[None]:
    """Translates what the client raises about a message to a subject; see `request`."""
    try:
        yield
    except nats.errors.NoRespondersError as error:
        raise JetStreamUnavailable(
            f"JetStream does not answer at {subject!r}: start the server with JetStream on, and check that the account "
            "has it and that the stream has a leader"
        ) from error
    except nats.errors.TimeoutError as error:
        raise NatsUnavailable(
            f"no answer at {subject!r} within {timeout:g} s: check the connection and the NATS user's permissions"
        ) from error
    except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
        raise NatsUnavailable("the connection to NATS is closed: check the server, and connect again") from error
    except nats.errors.OutboundBufferLimitError as error:
        raise NatsUnavailable(
            "the connection to NATS is lost, and too much waits to be sent: check the server"
        ) from error
    except nats.errors.Error as error:
        raise StreamError(f"the message to {subject!r} could not be sent: {error}") from error


async def unless_denied(client: Client, subject: str, answer: Coroutine[Any, Any, T]) -> T:
    """What comes in answer to a message to a subject; it need not be waited for where the server forbids the message.

    Raises:
        NotPermitted: the server forbids to publish to the subject, or to subscribe to the answers.
    """
    if not isinstance(client, NatsConnection):
        return await answer
    answering = asyncio.ensure_future(answer)
    denial = asyncio.ensure_future(client.until_denied(subject))
    try:
        await asyncio.wait((answering, denial), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise NotPermitted(denial.result())
    finally:
        for task in (answering, denial):
            task.cancel()
        await asyncio.gather(answering, denial, return_exceptions=True)


class JetStreamApi:
    """The JetStream API of a connection's account.

    Every method raises `JetStreamUnavailable`, `NotPermitted`, `NatsUnavailable`, `StreamNotFound` where it names a
    stream that does not exist, and `ApiFailure` with the server's words for any other refusal.

    Args:
        client: connected.
        timeout: seconds to wait for an answer.
        domain: the JetStream domain, where it is not the connection's own.
    """

    def __init__(self, client: Client, *, timeout: float = 5.0, domain: str = "") -> None:
        self._client = client
        self._timeout = timeout
        self.prefix = f"$JS.{domain}.API" if domain else "$JS.API"

    async def stream_info(self, stream: str, *, subjects_filter: str = "", offset: int = 0) -> StreamInfo:
        """A stream, and with a filter one page of its subjects (100,000 at most), from an offset on."""
        body = {"subjects_filter": subjects_filter, "offset": offset} if subjects_filter else None
        return await self._ask(f"STREAM.INFO.{stream}", body, StreamInfo, stream)

    async def ensure_stream(
        self,
        name: str,
        subjects: Sequence[str],
        *,
        replicas: int = 1,
        memory: bool = False,
        duplicate_window: float | None = None,
    ) -> StreamInfo:
        """The stream of a name: made if there is none; one that exists is given as it is, never changed.

        A new stream keeps everything (limits retention), allows direct reads and, where the server knows them (2.12),
        atomic batches.

        Args:
            name: the stream's name.
            subjects: what a new stream stores.
            replicas: on how many servers.
            memory: keep it in the server's memory instead of in files.
            duplicate_window: for how many seconds the server knows message ids again; the server's default is 120.
        """
        try:
            return await self.stream_info(name)
        except StreamNotFound:
            pass
        config: dict[str, Any] = {
            "name": name,
            "subjects": list(subjects),
            "retention": "limits",
            "storage": "memory" if memory else "file",
            "num_replicas": replicas,
            "allow_direct": True,
            "allow_atomic": True,  # servers before 2.12 ignore what they do not know
        }
        if duplicate_window is not None:
            config["duplicate_window"] = int(duplicate_window * 1e9)
        try:
            return await self._ask(f"STREAM.CREATE.{name}", config, StreamInfo, name)
        except ApiFailure as failure:
            if failure.error.err_code != _STREAM_EXISTS:
                raise
        return await self.stream_info(name)  # another process was quicker

    async def create_consumer(self, stream: str, config: Mapping[str, Any]) -> ConsumerInfo:
        """Makes a consumer: ephemeral, named by the server, unless the configuration has a ``name``.

        Args:
            stream: the stream's name.
            config: the consumer's configuration in the server's words.
        """
        name = config.get("name")
        verb = f"CONSUMER.CREATE.{stream}.{name}" if name else f"CONSUMER.CREATE.{stream}"
        return await self._ask(verb, {"stream_name": stream, "config": config}, ConsumerInfo, stream)

    async def consumer_info(self, stream: str, consumer: str) -> ConsumerInfo:
        """A consumer."""
        return await self._ask(f"CONSUMER.INFO.{stream}.{consumer}", None, ConsumerInfo, stream)

    async def delete_consumer(self, stream: str, consumer: str) -> None:
        """Removes a consumer."""
        await self._ask(f"CONSUMER.DELETE.{stream}.{consumer}", None, _Done, stream)

    async def message(self, stream: str, **which: Any) -> StoredMessage | None:
        """One message, from the stream's leader; None where there is none.

        Args:
            stream: the stream's name.
            which: ``seq=``; ``last_by_subj=`` (may have wildcards); or ``seq=`` with ``next_by_subj=`` for the first
                one at or after a sequence.
        """
        try:
            found = await self._ask(f"STREAM.MSG.GET.{stream}", which, _Message, stream)
        except ApiFailure as failure:
            if failure.error.err_code == _MESSAGE_NOT_FOUND:
                return None
            raise
        return found.message

    async def _ask(self, verb: str, body: Mapping[str, Any] | None, kind: type[T], stream: str) -> T:
        if not stream or any(c in stream for c in " \t\r\n.*>/\\"):
            raise StreamError(f"{stream!r} is no stream name: leave out blanks, dots, slashes and wildcards")
        encoded = b"" if body is None else msgspec.json.encode(body)
        answer = await request(self._client, f"{self.prefix}.{verb}", encoded, timeout=self._timeout)
        try:
            return msgspec.json.decode(answer.data, type=kind)
        except msgspec.DecodeError as error:
            raise _refusal(answer.data, verb, stream) from error


def _refusal(data: bytes, verb: str, stream: str) -> StreamError:
    try:
        error = msgspec.json.decode(data, type=_Refusal).error
    except msgspec.DecodeError:
        return StreamError(f"{verb}: the server's answer is not understood: {data[:200]!r}")
    if error.err_code == _STREAM_NOT_FOUND:
        return StreamNotFound(stream)
    if error.err_code in _DISABLED:
        return JetStreamUnavailable(
            f"JetStream is not enabled ({error.description}): start the server with JetStream on, or check the account"
        )
    return ApiFailure(verb, error)
