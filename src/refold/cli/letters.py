"""``refold dead-letters``: what was not applied, looked at, applied, or thrown away."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from refold.app import App
from refold.cli.text import confirm, console_on, moment, number, table, tell
from refold.errors import ConfigurationError, ProjectionError, printable
from refold.ports import DeadLetter, LetterKind

__all__ = ["run_discard", "run_list", "run_retry", "run_show"]


async def run_list(app: App, name: str | None, *, key: str | None, limit: int, as_json: bool) -> int:
    """Lists dead letters, one more than asked for being looked for; the exit code."""
    if name is not None:
        app.projector(name)
    async with app.database_alone():
        found = await app.store.letters(app.name, name, key=key, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        sys.stdout.write(json.dumps([_plain(letter) for letter in shown], indent=2) + "\n")
        return 0
    console = console_on(sys.stdout)
    if not shown:
        tell(console, "no dead letters")
        return 0
    rows = table("projection", "position ", "key", "kind", "recorded", "reason")
    for letter in shown:
        cells = (letter.projection, number(letter.position), letter.key, letter.kind.value)
        rows.add_row(*map(_text, (*cells, moment(letter.recorded), letter.reason)))
    console.print(rows)
    if len(found) > limit:
        tell(console, f"and more: --limit shows more than {limit:,}")
    return 0


async def run_show(app: App, name: str, position: int, *, key: str | None, as_json: bool) -> int:
    """Shows the dead letters of one event, whole; the exit code."""
    app.projector(name)
    async with app.database_alone():
        every = await app.store.letters(app.name, name, key=key)
    found = [letter for letter in every if letter.position == position]
    if not found:
        view = "" if key is None else f" for view {key!r}"
        raise ConfigurationError(
            f"{name} has no dead letter of position {position}{view}: see refold dead-letters list"
        )
    if as_json:
        plain = [_plain(letter) | _content(letter) for letter in found]
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return 0
    console = console_on(sys.stdout)
    for letter in found:
        _show(console, letter)
    return 0


async def run_retry(app: App, name: str, *, key: str | None, every: bool) -> int:
    """Applies the dead letters of one quarantined view or of all; the exit code: 1 where one fails again."""
    app.projector(name)
    if (key is None) is not every:
        raise ConfigurationError("say which view: --key KEY, or --all of them")
    console, failed = console_on(sys.stdout), 0
    async with app.database_alone():
        keys = [key] if key is not None else await _quarantined(app, name)
        for one in keys:
            try:
                count = await app.retry_dead_letters(name, one)
            except ProjectionError as error:
                failed += 1
                sys.stderr.write(f"refold: {printable(str(error))}\n")
            else:
                events = "1 event" if count == 1 else f"{count:,} events"
                tell(console, f"{name}: {events} applied to view {one!r}, which is quarantined no more")
    if not keys:
        tell(console, f"{name}: no view is quarantined")
    return 1 if failed else 0


async def run_discard(app: App, name: str, *, key: str | None, position: int | None, yes: bool) -> int:
    """Throws dead letters away; the exit code: 1 where a person says no."""
    app.projector(name)
    async with app.database_alone():
        every = await app.store.letters(app.name, name, key=key)
        count = sum(position in (None, letter.position) for letter in every)
        if not count:
            raise ConfigurationError(f"{name} has no such dead letters: see refold dead-letters list {name}")
        letters = "1 dead letter" if count == 1 else f"{count:,} dead letters"
        if not confirm(f"Throw {letters} of {name} away for good? Their events will never be in its views.", yes=yes):
            return 1
        gone = await app.discard_dead_letters(name, key=key, position=position)
    tell(console_on(sys.stdout), f"{name}: {gone:,} thrown away; views without any left go on with their next event")
    return 0


async def _quarantined(app: App, name: str) -> list[str]:
    letters = await app.store.letters(app.name, name)
    return list(dict.fromkeys(letter.key for letter in letters if letter.kind is LetterKind.FAILED))


# -- Showing ---------------------------------------------------------------------------------------------------------------


def _show(console: Console, letter: DeadLetter) -> None:
    tell(console, f"{letter.projection}, position {letter.position:,}", "bold")
    for label, value in (
        ("view", letter.key or "(not known)"),
        ("kind", letter.kind.value),
        ("reason", letter.reason),
        ("recorded", f"{moment(letter.recorded)} UTC"),
        ("subject", letter.subject),
    ):
        tell(console, f"{label + ':':<10}{value}")
    if letter.headers:
        tell(console, "headers:")
        for line in _decoded(letter.headers).splitlines():
            if line.strip() and not line.startswith("NATS/1.0"):
                tell(console, f"  {line}")
    tell(console, f"body:     {len(letter.body):,} bytes" if letter.body else "body:     (empty)")
    for line in _pretty(letter.body).splitlines():
        tell(console, f"  {line}")


def _pretty(body: bytes) -> str:
    """A body for people: indented where it is JSON."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return _decoded(body)


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _text(value: str) -> Text:
    return Text(printable(value))


def _plain(letter: DeadLetter) -> dict[str, Any]:
    return {
        "projection": letter.projection,
        "position": letter.position,
        "key": letter.key,
        "kind": letter.kind.value,
        "reason": letter.reason,
        "subject": letter.subject,
        "recorded": None if letter.recorded is None else letter.recorded.isoformat(),
    }


def _content(letter: DeadLetter) -> dict[str, Any]:
    """Headers and body; a body that is no text as base64."""
    headers = None if letter.headers is None else _decoded(letter.headers)
    try:
        return {"headers": headers, "body": letter.body.decode()}
    except UnicodeDecodeError:
        return {"headers": headers, "body_base64": base64.b64encode(letter.body).decode()}
