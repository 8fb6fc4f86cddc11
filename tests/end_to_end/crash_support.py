"""A ledger that is rebuilt by the command line, in a process of its own, to be watched and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from refold import App, DomainEvent
from refold.jetstream.bulk_publisher import BulkPublisher

LEDGER: Final = """
import os
import msgspec
from refold import App, DomainEvent, Projector, RebuildLimits, View, event, on

@event("added")
class Added(msgspec.Struct, gc=False):
    amount: int

class Total(View):
    total: int = 0
    text: str = ""

class Totals(Projector[Total], name="totals", aggregate="account", version=1):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount
        view.text = "x" * 100

# So little memory that views go to the database, and come back, while the stream is read.
app = App("crash", limits=RebuildLimits(hot_views=300, packed_bytes=100_000, chunk_rows=300))
app.register(Totals)
"""

ACCOUNTS: Final = 3_000
DEADLINE: Final = 60.0

Rows = dict[str, int]


class Ledger:
    """The app in a folder, its stream and its database."""

    def __init__(self, folder: Path, nats_url: str, stream: str, database_url: str) -> None:
        (folder / "ledger.py").write_text(LEDGER)
        self.folder = folder
        self.stream = stream
        self.settings = {
            "nats_url": nats_url,
            "stream": stream,
            "subject_prefix": stream,
            "database_url": database_url,
        }
        self.engine = sa.create_engine(
            database_url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool
        )
        self.sqlite = database_url.startswith("sqlite")
        self.rounds = 0

    # -- What happens --------------------------------------------------------------------------------------------------

    def publish(self) -> Rows:
        """One more event of every account; the rows that there should be then."""
        self.rounds += 1
        asyncio.run(self._publish())
        return {f"a{i}": sum(i + j for j in range(self.rounds)) for i in range(ACCOUNTS)}

    async def _publish(self) -> None:
        async with App("crash", **self.settings | {"database_url": "memory://"}) as app:
            await app.create_stream()
            events = (self._event(app, i) for i in range(ACCOUNTS))
            result = await BulkPublisher(app.client, self.stream, app.codec, app.scheme).publish_many(events)
            assert (result.stored, result.failures) == (ACCOUNTS, ())

    def _event(self, app: App, i: int) -> DomainEvent[Any]:
        return DomainEvent(
            id=f"{i}-{self.rounds}",
            aggregate_id=f"a{i}",
            type="added",
            aggregate_type="account",
            timestamp=app._clock.now(),
            version=self.rounds,
            payload={"amount": i + self.rounds - 1},
        )

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begins a rebuild."""
        environment = {f"REFOLD_{name.upper()}": value for name, value in self.settings.items()}
        # What runs in the background has SIGINT ignored, and its children too.
        listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        program = f"{listening}; from refold.cli import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", program, "--app", "ledger:app", "rebuild", *arguments],
            cwd=self.folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rebuild(self) -> None:
        """A whole rebuild."""
        process = self.begin("--json")
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors

    def interrupted(self, moment: Callable[[], bool], how: signal.Signals) -> int:
        """Begins a rebuild, and ends it at a moment; its exit code. It may be over before."""
        process = self.begin()
        try:
            end = time.monotonic() + DEADLINE
            while process.poll() is None and not moment():
                assert time.monotonic() < end, "the moment did not come"
            if process.poll() is None:
                process.send_signal(how)
            _, errors = process.communicate(timeout=DEADLINE)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        assert "Traceback" not in errors, errors
        assert process.returncode in (0, 130, -signal.SIGKILL), errors
        assert process.returncode != 130 or "readers see what they saw" in errors, errors
        self.wait_for_sessions()
        return process.returncode

    # -- What there is -------------------------------------------------------------------------------------------------

    def ask(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(statement)))

    def rows(self) -> Rows:
        """What readers see."""
        return {row[0]: row[1] for row in self.ask("SELECT id, total FROM totals")}

    def generations(self, state: str) -> list[str]:
        statement = f"SELECT table_name FROM refold_checkpoints WHERE state = '{state}'"
        return [row[0] for row in self.ask(statement)]

    def written(self) -> int:
        """How many rows the generation has that is being written; 0 where there is none."""
        try:
            return sum(int(self.ask(f"SELECT count(*) FROM {table}")[0][0]) for table in self.generations("rebuilding"))
        except (sa.exc.OperationalError, sa.exc.ProgrammingError):
            return 0  # it was dropped in between

    def leftovers(self) -> set[str]:
        """Tables of generations that the catalog does not name, and files that nobody needs."""
        named = set(self.generations("active") + self.generations("retired") + self.generations("rebuilding"))
        tables = set(sa.inspect(self.engine).get_table_names())
        return {table for table in tables - named if "__v" in table} | {p.name for p in self.folder.glob("*.lock*")}

    def wait_for_sessions(self) -> None:
        """Waits until PostgreSQL has noticed that a process is dead."""
        mine = "FROM pg_stat_activity WHERE application_name = 'refold' AND datname = current_database()"
        end = time.monotonic() + DEADLINE
        while not self.sqlite and self.ask(f"SELECT count(*) {mine}")[0][0]:
            assert time.monotonic() < end, self.ask(f"SELECT state, query {mine}")
            time.sleep(0.01)

    @contextmanager
    def watched(self) -> Iterator[set[tuple[int, int]]]:
        """Asks for the number of rows and their sum all the time, as any reader might; all the answers there were."""
        answers: set[tuple[int, int]] = set()
        errors: list[BaseException] = []
        done = threading.Event()

        def watch() -> None:
            try:
                with self.engine.connect() as connection:
                    while not done.is_set():
                        with connection.begin():
                            count, total = connection.execute(sa.text("SELECT count(*), sum(total) FROM totals")).one()
                            answers.add((count, int(total)))
            except BaseException as error:  # noqa: BLE001 (told in the test's own thread)
                errors.append(error)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield answers
        finally:
            done.set()
            thread.join(DEADLINE)
        assert not errors, errors


def summed(rows: Rows) -> tuple[int, int]:
    return len(rows), sum(rows.values())
