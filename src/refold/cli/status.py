"""``refold status``: how projections stand, once or again and again."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from enum import Enum
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from refold.app import App
from refold.cli.text import console_on, moment, number, span, table
from refold.engine.live.status import ProjectionStatus
from refold.errors import StoreError, printable
from refold.ports import Status

__all__ = ["exit_code", "run_status"]

_EVERY: Final = 1.0
"""Seconds between two looks."""

_STYLES: Final = {
    Status.LIVE: "green",
    Status.DEGRADED: "yellow",
    Status.FAULTED: "bold red",
    Status.PAUSED: "cyan",
    Status.STOPPED: "dim",
}


async def run_status(app: App, names: Sequence[str], *, watch: bool, as_json: bool) -> int:
    """Tells how projections stand; the exit code: see `exit_code`."""
    app.chosen(names)  # a wrong name is told before anything is connected
    async with app.database_alone():
        if watch:
            return await _watch(app, names, as_json=as_json)
        found = await app.status(*names)
    if as_json:
        sys.stdout.write(json.dumps(_plain(found), indent=2) + "\n")
    else:
        console_on(sys.stdout).print(_shown(app, found))
    return exit_code(found)


def exit_code(found: Sequence[ProjectionStatus]) -> int:
    """0 where all is well; 1 where a projection needs help; else 2 where something could not be told."""
    if any(one.needs_help for one in found):
        return 1
    return 2 if any(one.unknown for one in found) else 0


async def _watch(app: App, names: Sequence[str], *, as_json: bool) -> int:
    """Looks every second until it is interrupted, also while the database is away."""
    console = console_on(sys.stdout)
    on_screen = console.is_terminal and not as_json
    before: Sequence[ProjectionStatus] = ()
    with Live(console=console, auto_refresh=False) if on_screen else nullcontext() as live:
        try:
            while True:
                try:
                    before = await app.status(*names, before=before)
                    _look(app, before, console, live, as_json=as_json)
                except StoreError as error:
                    sys.stderr.write(f"refold: {error}\n")
                await asyncio.sleep(_EVERY)
        except asyncio.CancelledError:  # Ctrl-C, which is how watching ends
            return exit_code(before)


def _look(app: App, found: Sequence[ProjectionStatus], console: Console, live: Live | None, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(_plain(found)) + "\n")
        sys.stdout.flush()
    elif live is not None:
        live.update(_shown(app, found), refresh=True)
    else:
        console.print(_shown(app, found))


def _shown(app: App, found: Sequence[ProjectionStatus]) -> RenderableType:
    head = next((one.head for one in found if one.head is not None), None)
    why = next((one.unknown for one in found if one.head is None), "")
    end = f"ends at {head:,}" if head is not None else f"cannot be asked: {why}"
    lines: list[RenderableType] = [Text(printable(f"stream {app.stream} {end}"), "yellow" if head is None else "")]
    shown = table("projection", "state", "since", "position ", "lag ", "behind ", "rate ", "letters ", "quarantined ")
    for one in found:
        since = "" if one.since is None else span((one.looked - one.since).total_seconds())
        shown.add_row(
            f"{one.projection} v{one.version}",
            Text(one.status.value, _STYLES.get(one.status, "")),
            since,
            number(one.position),
            number(one.lag_events),
            span(one.lag_seconds),
            number(one.rate, "/s"),
            number(one.dead_letters),
            number(one.quarantined),
        )
    notes = [Text(printable(note)) for one in found for note in _notes(one)]
    return Group(*lines, shown, *notes)


def _notes(one: ProjectionStatus) -> list[str]:
    """What does not fit into the table."""
    notes = []
    if one.reason:
        notes.append(f"{one.status.value} since {moment(one.since)} UTC: {one.reason}" if one.since else one.reason)
    if one.unknown and one.head is not None:
        notes.append(one.unknown)
    if one.building is not None and one.position is not None:
        built = one.building
        notes.append(
            f"version {built.version}, generation {built.generation}, is being built by {built.owner} "
            f"since {moment(built.since)} UTC"
        )
    if one.owner is not None:
        notes.append(f"{'last ' if one.status is Status.STOPPED else ''}run by {one.owner}")
    return [f"{one.projection}: {note}" for note in notes]


def _plain(found: Sequence[ProjectionStatus]) -> list[dict[str, Any]]:
    return [_values(dataclasses.asdict(one)) for one in found]


def _values(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in fields.items()}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return _values(value) if isinstance(value, dict) else value
