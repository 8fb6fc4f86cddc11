"""``refold`` as a person uses it for live running: an app in a folder, commands, and processes that go on until a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refold import App, Checkpoint, View
from refold.view import ViewSchema
from servers import run

LEDGER = """
import os, time
import msgspec
from refold import App, DomainEvent, Projector, View, event, on

@event("added")
class Added(msgspec.Struct, gc=False):
    amount: int
    note: str = ""

class Total(View):
    total: int = 0

class Totals(Projector[Total], name="totals", aggregate="account", on_error=os.environ.get("ON_ERROR", "quarantine")):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        if event.payload.amount == 13 and "MENDED" not in os.environ:
            raise ValueError("unlucky")
        if event.payload.amount == 99:
            open("slow", "w").close()
            time.sleep(60)
        view.total += event.payload.amount

class Count(View):
    events: int = 0

class Counts(Projector[Count], name="counts", aggregate="account"):
    @on(Added, key=lambda event: "all")
    def added(self, view: Count, event: DomainEvent[Added]) -> None:
        view.events += 1

app = App("ledger")
app.register(Totals, Counts)
"""


class Total(View):
    """As in the ledger."""

    total: int = 0


MAIN = "from refold.cli import main; main()"
WITH_SHORT_LEASE = f"from refold import App; App.run.__kwdefaults__['lease'] = 1.0; {MAIN}"


def eventually(condition: Callable[[], Any], what: Callable[[], Any] = lambda: "", deadline: float = 20) -> Any:
    """Waits until a condition gives something true, and gives that."""
    until = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {deadline} s: {what()}"
        time.sleep(0.02)
    return found


class Running:
    """A ``refold`` process that goes on until it is told to stop; `said` is what it wrote to stderr so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)  # line by line, as they come

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def says(self, *words: str) -> None:
        """Waits until it has written all of some words."""
        eventually(lambda: all(word in self.said for word in words), lambda: f"{words} in {self.said!r}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout: float = 20) -> int:
        """Waits for its end; the exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        assert "Traceback" not in self.said, self.said
        return code

    @property
    def printed(self) -> str:
        """All that it wrote to stdout, once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Shell:
    """Runs ``refold`` with an app in a folder.

    Attributes:
        settings: environment variables.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self._versions: dict[str, int] = {}
        (folder / "ledger.py").write_text(LEDGER)

    def __call__(self, *arguments: str, stdin: str = "", **changed: str) -> subprocess.CompletedProcess[str]:
        """Runs one command on the app."""
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "--app", "ledger:app", *arguments],
            cwd=self.folder,
            env=self.environment(changed),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def environment(self, changed: dict[str, str]) -> dict[str, str]:
        return os.environ | self.settings | {"PYTHONUNBUFFERED": "1"} | changed

    @contextmanager
    def started(self, *arguments: str, code: str = MAIN, **changed: str) -> Iterator[Running]:
        """A process that goes on; killed in the end where it has not ended."""
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--app", "ledger:app", *arguments],
            cwd=self.folder,
            env=self.environment(changed),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running = Running(process)
        try:
            yield running
        finally:
            running.kill()

    def app(self, **settings: Any) -> App:
        """The same database and stream, without projectors, to look into from the test."""
        given = {name.removeprefix("REFOLD_").lower(): value for name, value in self.settings.items()}
        return App("ledger", environment=False, **given | settings)

    def publish(self, *events: tuple[str, Any]) -> None:
        """Appends events, given as account and amount (or the whole payload)."""
        bodies = []
        for account, given in events:
            self._versions[account] = version = self._versions.get(account, 0) + 1
            envelope = {
                "id": f"{account}-{version}",
                "aggregate_id": account,
                "event_type": "added",
                "aggregate_type": "account",
                "timestamp": "2026-01-01T00:00:00Z",
                "version": version,
                "payload": given if isinstance(given, dict) else {"amount": given},
            }
            bodies.append((account, json.dumps(envelope).encode()))

        async def append() -> None:
            async with self.app() as app:
                await app.create_stream()
                for account, body in bodies:
                    await app.client.jetstream().publish(app.scheme.format("account", account, "added"), body)

        run(append())

    def checkpoint(self, name: str) -> Checkpoint | None:
        """What the database says of a projection."""

        async def look() -> Checkpoint | None:
            async with self.app().database_alone() as app:
                rows = await app.store.generations("ledger", name)
            return next((row for row in rows if row.role == "active"), None)

        return run(look())

    def stands(self, name: str, **expected: Any) -> Checkpoint:
        """Waits until the database says so of a projection."""
        last: list[Checkpoint | None] = []

        def look() -> Checkpoint | None:
            last[:] = [self.checkpoint(name)]
            return last[0] if all(getattr(last[0], field, None) == value for field, value in expected.items()) else None

        found: Checkpoint = eventually(look, lambda: f"{expected} in {last}")
        return found

    def total(self, account: str) -> int:
        """What a reader sees of an account."""

        async def look() -> int:
            async with self.app().database_alone() as app:
                view = await app.store.repository(ViewSchema.of(Total), "totals").find_by_id(account)
            assert view is not None
            return int(view.total)

        return run(look())
