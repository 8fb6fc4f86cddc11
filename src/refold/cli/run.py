"""``refold run``: what happens, one line each, and progress while views are built for the first time."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from refold.app import App
from refold.cli.rebuild import Bars, progress_told
from refold.cli.text import console_on, tell
from refold.engine.live.hooks import BatchApplied, LiveEvent, Quarantine, Retrying, StateChanged
from refold.engine.outcome import Progress
from refold.ports import LetterKind, Status
from refold.running import run

__all__ = ["LiveConsole", "run_live"]

_STYLES: Final = {
    Status.LIVE: "green",
    Status.DEGRADED: "yellow",
    Status.FAULTED: "red",
    Status.STOPPED: "dim",
    Status.PAUSED: "cyan",
}

_EVERY: Final = 10.0
"""Seconds between two lines of progress where no bar can be shown."""

_TOLD_BY_HOOKS: Final = frozenset(
    {
        "a projection stopped",
        "a projection failed and is tried again",
        "a projection is not run here",
        "events became dead letters",
        "reading was interrupted and is taken up again",
        "the database could not do it and is asked again",
    }
)
_WORTH_TELLING: Final = frozenset({"nats connection made again"})


def run_live(app: App, names: Sequence[str], *, accept_truncated: bool, verbose: bool) -> None:
    """Runs projections until a signal, and says what happens."""
    if not verbose:
        _quieten()
    with LiveConsole() as shown:
        run(app, *names, accept_truncated=accept_truncated, hook=shown.hook, progress=shown.progress)
        shown.line("ended in order")


def _quieten() -> None:
    """Leaves to the log what the hooks do not tell."""
    logging.getLogger("refold").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg in _WORTH_TELLING or (record.levelno >= logging.WARNING and record.msg not in _TOLD_BY_HOOKS)


class LiveConsole:
    """Writes to stderr what happens to running projections. A context manager."""

    def __init__(self) -> None:
        self._console = console_on(sys.stderr)
        self._bars: Bars | None = None
        self._rebuilding: set[str] = set()
        self._told = 0.0
        self._retrying: dict[tuple[tuple[str, ...], str], str] = {}
        self._failing: dict[str, float] = {}
        self._states: dict[str, set[tuple[bool, str]]] = {}

    def __enter__(self) -> LiveConsole:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bars()

    def hook(self, event: LiveEvent) -> None:
        """Tells what happened."""
        if isinstance(event, StateChanged):
            self._state(event)
        elif isinstance(event, Quarantine):
            self._letters(event)
        elif isinstance(event, Retrying):
            if self._retrying.get((event.projections, event.what)) != event.reason:
                self._retrying[event.projections, event.what] = event.reason
                self.line(f"{', '.join(event.projections)}: tried again: {event.what}: {event.reason}", "yellow")
        elif isinstance(event, BatchApplied):
            self._retrying = {key: why for key, why in self._retrying.items() if key[0] != event.projections}

    def progress(self, progress: Progress) -> None:
        """Shows how far a first build is."""
        if self._console.is_terminal:
            if self._bars is None:
                self._bars = Bars(self._console, transient=True).__enter__()
            self._bars.show(progress)
        elif progress.phase == "reading" and time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            self.line(f"{', '.join(progress.projections)}: {progress_told(progress)}")

    def _state(self, event: StateChanged) -> None:
        if event.now is Status.REBUILDING:
            self._rebuilding.add(event.projection)
        else:
            self._rebuilding.discard(event.projection)
            if not self._rebuilding:
                self._end_bars()
        if self._is_told(event):
            return
        why = f": {event.reason}" if event.reason else ""
        at = f" at position {event.position:,}" if event.position else ""
        self.line(f"{event.projection}: {event.now.value}{at}{why}", _STYLES.get(event.now, ""))

    def _letters(self, event: Quarantine) -> None:
        """Tells of events that failed, not of those behind them, and not more often than a person can read."""
        failed = [letter for letter in event.letters if letter.kind is not LetterKind.PARKED]
        if not failed or time.monotonic() - self._failing.get(event.projection, -_EVERY) < _EVERY:
            return
        self._failing[event.projection] = time.monotonic()
        first, more = failed[0], f", and {len(failed) - 1:,} more" if len(failed) > 1 else ""
        self.line(
            f"{event.projection}: dead letter: position {first.position}: {first.reason}{more} (refold dead-letters list)",
            "yellow",
        )

    def _is_told(self, event: StateChanged) -> bool:
        """Whether it goes round in the circle of failing and trying again, which was told once."""
        told = self._states.setdefault(event.projection, set())
        if event.now is Status.LIVE:
            told.clear()
        state = (event.now is Status.FAULTED, event.reason or event.now.value)
        if state in told:
            return True
        told.add(state)
        return False

    def line(self, text: str, style: str = "") -> None:
        """Writes a line with the time."""
        tell(self._console, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", style)

    def _end_bars(self) -> None:
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.__exit__()
