"""How the command line writes: for a person at a terminal, or plainly; never a control character that an event brought."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from refold.errors import ConfigurationError, printable

__all__ = ["confirm", "console_on", "moment", "number", "span", "table", "tell"]

_WIDE = 240
"""Columns where nobody looks: nothing is cut off in a file."""


def console_on(file: TextIO) -> Console:
    """A console that cuts nothing off where it is no terminal."""
    console = Console(file=file, highlight=False)
    return console if console.is_terminal else Console(file=file, highlight=False, width=_WIDE)


def tell(console: Console, text: str, style: str = "") -> None:
    """Prints one line."""
    console.print(Text(printable(text), style), soft_wrap=True)


def table(*columns: str) -> Table:
    """A table; numbers go to the right by themselves where a column's name ends in a blank."""
    made = Table()
    for column in columns:
        right = column.endswith(" ")
        made.add_column(column.strip(), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return made


def number(value: float | None, unit: str = "") -> str:
    """A number with thousands apart; a dash where it is not known."""
    return "–" if value is None else f"{value:,.0f}{unit}"


def span(seconds: float | None) -> str:
    """A length of time, roughly; a dash where it is not known."""
    if seconds is None:
        return "–"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == 0 else f"{seconds:.1f} s"


def moment(time: datetime | None) -> str:
    """A time to the second, UTC; a dash where it is not known."""
    return "–" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def confirm(question: str, *, yes: bool) -> bool:
    """Asks whether to go on, unless that was said already.

    Raises:
        ConfigurationError: there is no terminal to ask at.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError(f"{question} There is no terminal to ask at: say so with --yes")
    return typer.confirm(question, err=True)
