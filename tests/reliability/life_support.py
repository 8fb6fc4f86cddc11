"""A stream with a random history, a database, processes that run the app, and what its views should be.

The expected views are folded by loops of this file alone, one event after the other.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import life_app
import sqlalchemy as sa
from life_app import Added, Broken, Closed, Noted

from refold import App, DomainEvent
from refold.jetstream.bulk_publisher import BulkPublisher

HERE: Final = Path(__file__).parent
DEADLINE: Final = 60.0
START: Final = datetime(2026, 1, 1, tzinfo=UTC)

_LOG = {
    "postgresql": (
        "CREATE TABLE applied_log (position bigint)",
        "CREATE FUNCTION log_applied() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO applied_log VALUES (NEW.position); RETURN NEW; END $$",
        "CREATE TRIGGER applied AFTER INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION log_applied()",
    ),
    "sqlite": (
        "CREATE TABLE applied_log (position integer)",
        "CREATE TRIGGER applied AFTER INSERT ON {} BEGIN INSERT INTO applied_log VALUES (NEW.position); END",
        "CREATE TRIGGER applied_again AFTER UPDATE ON {} BEGIN INSERT INTO applied_log VALUES (NEW.position); END",
    ),
}


class Life:
    """The app's stream and database, and the history that was published.

    Args:
        nats_url: where the workers find NATS.
        stream: the stream's name, and the prefix of its subjects.
        database_url: where the workers find the database.
        seed: of the history.
        broken: how many of a thousand events no handler can take.
    """

    def __init__(
        self, nats_url: str, stream: str, database_url: str, *, seed: int, broken: int = 0, accounts: int = 40
    ) -> None:
        self.settings = {
            "nats_url": nats_url,
            "stream": stream,
            "subject_prefix": stream,
            "database_url": database_url,
        }
        self.random = random.Random(seed)
        self.broken = broken
        self.accounts = accounts
        self.events: list[DomainEvent[Any]] = []
        self.published = 0
        self.versions: dict[str, int] = {}
        self.engine = self.engine_of(database_url)

    def engine_of(self, url: str) -> sa.Engine:
        return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)

    def app(self, **changes: str) -> App:
        app = App("life", **self.settings | changes, environment=False)
        app.register(*life_app.PROJECTORS)
        return app

    # -- The history -----------------------------------------------------------------------------------------------------

    def draw(self, count: int) -> list[DomainEvent[Any]]:
        """So many more events; now and then one comes again, as its publisher had not heard of its success."""
        drawn = []
        for _ in range(count):
            position = self.published + len(drawn) + 1
            known = self.events + drawn
            if known and self.random.random() < 0.02:
                drawn.append(self._at(self.random.choice(known[-50:]), position))
                continue
            account = f"a{self.random.randrange(self.accounts)}"
            version = self.versions[account] = self.versions.get(account, 0) + 1
            drawn.append(self._make(account, version, position))
        return drawn

    def _make(self, account: str, version: int, position: int) -> DomainEvent[Any]:
        payload = self._payload(position)
        return DomainEvent(
            id=f"e{position}",
            aggregate_id=account,
            type=type(payload).__name__.lower(),
            aggregate_type="account",
            timestamp=START + timedelta(milliseconds=position),
            version=version,
            payload=payload,
            position=position,
        )

    def _at(self, event: DomainEvent[Any], position: int) -> DomainEvent[Any]:
        import msgspec

        return msgspec.structs.replace(event, position=position)

    def _payload(self, position: int) -> Any:
        kind = self.random.random()
        if self.random.randrange(1000) < self.broken:
            return Broken()
        if kind < 0.1:
            return Closed()
        if kind < 0.3:
            return Noted(f"note {position}")
        tags = self.random.sample(["red", "green", "blue", "übel *"], self.random.randrange(3))
        return Added(Decimal(self.random.randrange(1000)) / 100, tags)

    @property
    def head(self) -> int:
        """The last position that was published."""
        return self.published

    async def create(self) -> None:
        """Makes the stream; messages may come again with the same id, as after the window for duplicates."""
        async with self.app(database_url="memory://") as app:
            prefix = self.settings["subject_prefix"]
            await app.api.ensure_stream(app.stream, [f"{prefix}.>"], duplicate_window=0.1)

    async def publish(self, count: int) -> None:
        """Publishes more events, and remembers them."""
        drawn = self.draw(count)
        async with self.app(database_url="memory://") as app:
            context = app.client.jetstream()
            for event in drawn:
                body, _ = app.codec.encode(event)
                subject = app.scheme.format("account", event.aggregate_id, event.type)
                ack = await context.publish(subject, body)
                assert ack.seq == event.position
        self.events += drawn
        self.published += count

    def publish_bulk(self, count: int) -> None:
        """Publishes many more events, without any that come again."""
        asyncio.run(self._publish_bulk(count))

    async def _publish_bulk(self, count: int) -> None:
        drawn = []
        for _ in range(count):
            account = f"a{self.random.randrange(self.accounts)}"
            version = self.versions[account] = self.versions.get(account, 0) + 1
            drawn.append(self._make(account, version, self.published + len(drawn) + 1))
        async with self.app(database_url="memory://") as app:
            result = await BulkPublisher(app.client, app.stream, app.codec, app.scheme).publish_many(iter(drawn))
            assert (result.stored, result.failures) == (count, ())
        self.events += drawn
        self.published += count

    # -- What there should be ----------------------------------------------------------------------------------------------

    def expected(self, *, upto: int | None = None) -> dict[str, dict[str, Any]]:
        """The rows of every projection, and under ``log`` how often each position was applied."""
        accounts: dict[str, Any] = {}
        tags: dict[str, Any] = {}
        entries: dict[str, Any] = {}
        handled: dict[str, int] = {}
        added: dict[str, int] = {}
        own: dict[str, int] = {}
        stuck: set[str] = set()
        for e in self.events[:upto]:
            if e.version > handled.get(e.aggregate_id, 0):
                handled[e.aggregate_id] = e.version
                entries[e.id] = (1, e.aggregate_id, e.position)
            if e.type == "added" and e.version > added.get(e.aggregate_id, 0):
                added[e.aggregate_id] = e.version
                for tag in e.payload.tags:
                    count, total, _ = tags.get(tag, (0, Decimal(0), 0))
                    tags[tag] = (count + 1, total + e.payload.amount, e.position)
            self._account(e, accounts, own, stuck)
        log = {position: 1 for _, _, position in entries.values()}
        return {"accounts": accounts, "tags": tags, "entries": entries, "log": log}

    def _account(self, e: DomainEvent[Any], accounts: dict[str, Any], handled: dict[str, int], stuck: set[str]) -> None:
        key = e.aggregate_id
        if key in stuck or e.version <= handled.get(key, 0):
            return
        if e.type == "broken":
            stuck.add(key)
            return
        handled[key] = e.version
        if e.type == "closed":
            accounts.pop(key, None)
            return
        if e.type == "noted" and key not in accounts:
            return
        total, last, notes, _, _ = accounts.get(key, (Decimal(0), "", [], 0, 0))
        if e.type == "added":
            total, last = total + e.payload.amount, e.id
        else:
            notes = [*notes, e.payload.text]
        accounts[key] = (total, last, notes, e.version, e.position)

    # -- What there is -----------------------------------------------------------------------------------------------------

    async def views(self, **changes: str) -> dict[str, dict[str, Any]]:
        """The rows of every projection, and the applied-log."""
        async with self.app(**changes) as app:
            accounts = await app.views(life_app.Accounts).find_all()
            tags = await app.views(life_app.Tags).find_all()
            entries = await app.views(life_app.Entries).find_all()
        return {
            "accounts": {v.id: (v.total, v.last, v.notes, v.version, v.position) for v in accounts},
            "tags": {v.id: (v.events, v.total, v.position) for v in tags},
            "entries": {v.id: (v.applied, v.account, v.position) for v in entries},
            "log": self.applied(),
        }

    def applied(self) -> dict[int, int]:
        """How often each position was applied, as the database itself has logged."""
        return Counter(row[0] for row in self.ask("SELECT position FROM applied_log"))

    def forget(self, positions: Collection[int]) -> None:
        """Some events were deleted before anybody read them."""
        self.events = [event for event in self.events if event.position not in set(positions)]

    async def check(self) -> None:
        """Views and applied-log are exactly what they should be."""
        found, expected = await self.views(), self.expected()
        for name in expected:
            wrong = {
                key: (found[name].get(key), expected[name].get(key))
                for key in found[name].keys() | expected[name].keys()
                if found[name].get(key) != expected[name].get(key)
            }
            assert not wrong, f"{name}: found, expected: {dict(list(wrong.items())[:5])} and {len(wrong)} in all"

    def ask(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(statement)))

    def position(self, name: str = "entries") -> int:
        """The checkpoint; -1 where there is none."""
        try:
            rows = self.ask(f"SELECT position FROM refold_checkpoints WHERE projection = '{name}' AND state = 'active'")
        except (sa.exc.OperationalError, sa.exc.ProgrammingError):
            return -1
        return int(rows[0][0]) if rows else -1

    def status(self, name: str = "entries") -> tuple[str, str]:
        """How a projection stands, and why."""
        row = self.ask(
            f"SELECT status, reason FROM refold_checkpoints WHERE projection = '{name}' AND state = 'active'"
        )[0]
        return str(row[0]), str(row[1] or "")

    def table(self, name: str) -> str:
        """The physical table that readers see."""
        row = self.ask(f"SELECT table_name FROM refold_checkpoints WHERE projection = '{name}' AND state = 'active'")[0]
        return str(row[0])

    def log_applied(self) -> None:
        """Has the database write the applied-log from now on; the projections must have been built, from nothing."""
        table = self.ask("SELECT table_name FROM refold_checkpoints WHERE projection = 'entries' AND state = 'active'")
        with self.engine.begin() as connection:
            for statement in _LOG[self.engine.dialect.name]:
                connection.exec_driver_sql(statement.format(table[0][0]))

    # -- Processes ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def worker(self, settings: Mapping[str, str] | None = None, **more: str) -> Iterator[Worker]:
        """A process that runs the app; killed at the end if it still runs."""
        environment = {f"REFOLD_{name.upper()}": value for name, value in (settings or self.settings).items()}
        worker = Worker({**os.environ, **environment, **more})
        try:
            yield worker
        finally:
            worker.end()

    async def begin(self) -> None:
        """Makes the stream, and builds the projections from nothing, so that the applied-log sees everything."""
        await self.create()
        async with self.app() as app:
            await app.rebuild()
        self.log_applied()

    def wait(self, what: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Waits until something is true."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"it did not happen within {seconds:g} s; positions: {self.position()}"
            time.sleep(0.005)

    def wait_for_head(self, seconds: float = DEADLINE) -> None:
        """Waits until all projections include everything that was published."""
        head = self.head
        self.wait(lambda: all(self.position(p.spec.name) >= head for p in life_app.PROJECTORS), seconds)


class Worker:
    """One process that runs the app."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "life_worker.py")],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.errors += line

    def told(self) -> str:
        """What it has said so far."""
        return self.errors

    def sleeps(self) -> bool:
        """Whether it is stopped (Linux)."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def join(self, seconds: float = DEADLINE) -> int:
        """Waits until it has ended; its exit code."""
        self.process.wait(timeout=seconds)
        self._reading.join(seconds)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return self.process.returncode

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.send_signal(signal.SIGCONT)
        self.join()
