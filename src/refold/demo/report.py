"""What the demo prints: the largest rows of each view, and how they stand to git."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from refold.demo.paths import printable
from refold.demo.projections import AuthorView, DirectoryView, FileView
from refold.demo.verify import Check

__all__ = ["print_authors", "print_checks", "print_directories", "print_files"]


def print_files(console: Console, views: Sequence[FileView], total: int) -> None:
    """Prints files as a table."""
    table = _table("files", len(views), total, ["path", "kind", "last author"], ["changes"])
    for view in views:
        came = view.path if view.renamed_from is None else f"{view.path}  (was {view.renamed_from})"
        _row(table, came, view.kind, view.last_author, view.changes, view.updated_at)
    console.print(table)


def print_authors(console: Console, views: Sequence[AuthorView], total: int) -> None:
    """Prints authors as a table."""
    table = _table("authors", len(views), total, ["author"], ["commits", "merges", "lines added", "lines removed"])
    for view in views:
        _row(table, view.author, view.commits, view.merges, view.insertions, view.deletions, view.updated_at)
    console.print(table)


def print_directories(console: Console, views: Sequence[DirectoryView], total: int) -> None:
    """Prints directories as a table."""
    table = _table("directories", len(views), total, ["directory"], ["files", "changes"])
    for view in views:
        _row(table, view.path, view.files, view.changes, view.updated_at)
    console.print(table)


def print_checks(console: Console, checks: Iterable[Check]) -> None:
    """Prints what was compared with git, and where the views differ."""
    table = Table(title="Checked against git", title_justify="left")
    for column in ("", "what", "git says", "the views say", "by"):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = Text("same", style="green") if check.passed else Text("DIFFERENT", style="bold red")
        table.add_row(mark, *map(_text, (check.name, check.git, check.views, check.source)))
        for line in check.differences:
            table.add_row("", Text(printable(line), style="red"))
    console.print(table)


def _table(name: str, shown: int, total: int, texts: list[str], numbers: list[str]) -> Table:
    heading = f"{name}: {total:,} rows" if shown == total else f"{name}: {shown:,} of {total:,} rows"
    table = Table(title=heading, title_justify="left")
    for text in texts:
        table.add_column(text, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right")
    table.add_column("last event", no_wrap=True)
    return table


def _row(table: Table, *cells: Any) -> None:
    table.add_row(*map(_text, cells))


def _text(cell: Any) -> Text:
    if isinstance(cell, datetime):
        return Text(f"{cell:%Y-%m-%d %H:%M}")
    return Text(f"{cell:,}" if isinstance(cell, int) else printable(str(cell)))
