"""The `eventsourcing` library: a projection with a tracking recorder, run by its `ProjectionRunner`.

Its events lie in its own application recorder, as they must: in PostgreSQL, or in memory where the views go to SQLite,
because its SQLite recorder has no subscriptions. Each event's upsert and its tracking are one transaction, as
documented. Text ids, one row of tracking, and a mapper with msgspec (as in refold) in place of the general transcoder.
Filling is not timed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from refold.bench.peers import PeerResult
from refold.bench.peers.source import FETCH, Stopwatch, connected, decode_body
from refold.bench.peers.table import Table
from refold.errors import ConfigurationError

try:
    from eventsourcing.application import Application
    from eventsourcing.persistence import (
        ApplicationRecorder,
        InfrastructureFactory,
        JSONTranscoder,
        Mapper,
        StoredEvent,
        Tracking,
    )
    from eventsourcing.popo import POPOApplicationRecorder
    from eventsourcing.projection import Projection, ProjectionRunner
    from eventsourcing.utils import Environment
except ImportError as error:
    raise ConfigurationError("this peer needs a package: pip install 'eventsourcing[postgres]'") from error

__all__ = ["run"]

_NAME: Final = "bench_eventsourcing"
_FIRST: Final = 2_000
"""Events of the first leg, whose pace tells how many are worth filling in."""


async def run(nats_url: str, stream: str, database_url: str, seconds: float) -> PeerResult:
    """Runs the projection until all events are done or the time is up; see `refold.bench.peers.run_peer`."""
    events, spent, wanted = 0, 0.0, _FIRST
    async with connected(nats_url) as client:
        feed = await _Feed.opened(client, stream)
        with Table.opened(_NAME, database_url) as table, _recorder(table, database_url) as recorder:
            projection = _Run(table, recorder, _environment(table, database_url))
            while spent < seconds:
                messages = await feed.take(wanted)
                if not messages:
                    break
                await asyncio.to_thread(_insert, recorder, messages)
                done, took = await asyncio.to_thread(projection.process, len(messages), seconds - spent)
                events, spent = events + done, spent + took
                wanted = max(_FIRST, int(done / took * (seconds - spent) * 1.1))
    return PeerResult("eventsourcing", events, spent)


class _Feed:
    """Messages of the stream in order."""

    def __init__(self, subscription: JetStreamContext.PullSubscription, left: int) -> None:
        self._subscription = subscription
        self._left = left

    @classmethod
    async def opened(cls, client: Client, stream: str) -> _Feed:
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=300)
        subscription = await client.jetstream().pull_subscribe("", stream=stream, config=config)
        return cls(subscription, (await subscription.consumer_info()).num_pending or 0)

    async def take(self, count: int) -> list[Msg]:
        """The next messages; fewer at the end, none after it."""
        taken: list[Msg] = []
        while len(taken) < count and self._left:
            more = await self._subscription.fetch(min(FETCH, count - len(taken), self._left), timeout=10)
            taken += more
            self._left -= len(more)
        return taken


def _insert(recorder: ApplicationRecorder, messages: Sequence[Msg]) -> None:
    for start in range(0, len(messages), FETCH):
        recorder.insert_events([_stored(message) for message in messages[start : start + FETCH]])


def _stored(message: Msg) -> StoredEvent:
    kind = message.subject.rpartition(".")[2]
    event = decode_body(kind, message.data)
    return StoredEvent(event.aggregate_id, event.version, kind, message.data)


# -- The library's side ------------------------------------------------------------------------------------------------


class _MsgspecMapper(Mapper[str]):
    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return decode_body(stored_event.topic, stored_event.state)


class _Summaries(Projection[Any]):
    name = _NAME

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:  # pyright: ignore  # its parameter is called so in the docs
        self.view.write(domain_event, tracking)


class _Run:
    """Runs the projection, a leg at a time, each from where the one before ended."""

    def __init__(self, table: Table, recorder: ApplicationRecorder, environment: dict[str, str]) -> None:
        self._environment = environment
        self._view_class = _view_class(table)

        class Orders(Application[str]):
            name = f"{_NAME}_orders"

            def construct_mapper(self) -> Mapper[str]:
                return _MsgspecMapper(JSONTranscoder())

            def construct_recorder(self) -> ApplicationRecorder:
                return recorder

        self._application_class = Orders

    def process(self, count: int, limit: float) -> tuple[int, float]:
        """Processes so many events, or as many as can be in some seconds; how many, in how many seconds."""
        view_class = self._view_class
        view_class.left, view_class.finished = count, threading.Event()
        watch = Stopwatch(limit)
        with ProjectionRunner(
            application_class=self._application_class,
            projection_class=_Summaries,
            view_class=view_class,
            env=self._environment,
        ) as runner:
            while not (view_class.finished.wait(0.02) or watch.is_up or runner.is_interrupted.is_set()):
                pass
            done, took = count - view_class.left, watch.seconds
        runner.view.datastore.close()
        return done, took


def _view_class(table: Table) -> Any:
    """The tracking recorder that also writes the views."""
    statement = table.dialect.event
    if table.dialect.path is None:
        from eventsourcing.postgres import PostgresTrackingRecorder as Base
    else:
        from eventsourcing.sqlite import SQLiteTrackingRecorder as Base  # type: ignore[assignment]

    class Summaries(Base):  # pyright: ignore[reportGeneralTypeIssues]  # made at run time
        left: int
        finished: threading.Event

        def write(self, event: Any, tracking: Tracking) -> None:
            msgspec.structs.force_setattr(event, "position", tracking.notification_id)
            with self.datastore.transaction(commit=True) as cursor:
                self._insert_tracking(cursor, tracking)
                cursor.execute(*statement(event))
            cls = type(self)
            cls.left -= 1
            if not cls.left:
                cls.finished.set()

    return Summaries


@contextmanager
def _recorder(table: Table, database_url: str) -> Iterator[ApplicationRecorder]:
    """An empty application recorder, beside an empty table of tracking."""
    if table.dialect.path is not None:
        table.drop("tracking")
        yield POPOApplicationRecorder()
        return
    table.drop(f"{_NAME}_events")
    table.drop(f"{_NAME}_tracking")
    factory: InfrastructureFactory[Any] = InfrastructureFactory.construct(
        Environment(_NAME, _environment(table, database_url))
    )
    with closing(factory):
        yield factory.application_recorder()


def _environment(table: Table, database_url: str) -> dict[str, str]:
    common = {"ORIGINATOR_ID_TYPE": "text"}
    if table.dialect.path is not None:
        return common | {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": table.dialect.path}
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    given = conninfo_to_dict(url)  # the host may stand behind the question mark, as a folder with a socket
    return common | {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(given.get("dbname", "")),
        "POSTGRES_HOST": str(given.get("host", "")),
        "POSTGRES_PORT": str(given.get("port", 5432)),
        "POSTGRES_USER": str(given.get("user", "")),
        "POSTGRES_PASSWORD": str(given.get("password", "")),
    }
