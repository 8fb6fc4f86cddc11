"""What the demo prints: the largest rows of each view, and how they stand to git."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from refold.demo.paths import printable
from refold.demo.projections import AuthorView, DirectoryView, FileView
from refold.demo.verify import Check

__all__ = ["console_on", "counted", "print_authors", "print_checks", "print_directories", "print_files", "say"]

_LONGEST: Final = 100
"""Characters shown of a path or author; of a longer one its begin and end."""


def console_on(stream: TextIO) -> Console:
    """A console that writes to a stream, and never fails for a character that the stream's encoding lacks."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return Console(file=stream, highlight=False)


def say(console: Console, line: str, style: str = "") -> None:
    """Prints a line without looking for markup in it, or cutting it where a path is long."""
    console.print(Text(printable(line), style=style), soft_wrap=True)


def counted(number: int, what: str) -> str:
    """A number and what it counts: ``1 commit``, ``1,200 commits``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def print_files(console: Console, views: Sequence[FileView], total: int) -> None:
    """Prints files as a table."""
    table = _table("Files that changed most", "file", "changes", "last author")
    for view in views:
        path = Text(_shown(view.path))
        if view.kind != "file":
            path.append(f" ({view.kind})", style="dim")
        if view.renamed_from is not None:
            path.append(f" ← {_shown(view.renamed_from)}", style="dim")
        _row(table, path, view.changes, _name(view.last_author, 20), f"{view.updated_at:%Y-%m-%d}")
    _print(console, table, len(views), total)


def print_authors(console: Console, views: Sequence[AuthorView], total: int) -> None:
    """Prints authors as a table."""
    table = _table("Authors with most commits", "author", "commits", "merges", "added", "removed")
    for view in views:
        numbers = (view.commits, view.merges, view.insertions, view.deletions)
        _row(table, _shown(view.author), *numbers, f"{view.updated_at:%Y-%m-%d}")
    _print(console, table, len(views), total)


def print_directories(console: Console, views: Sequence[DirectoryView], total: int) -> None:
    """Prints directories as a table."""
    table = _table("Directories that hold most files", "directory", "files", "changes")
    for view in views:
        _row(table, _shown(view.path), view.files, view.changes, f"{view.updated_at:%Y-%m-%d}")
    _print(console, table, len(views), total)


def print_checks(console: Console, checks: Iterable[Check]) -> None:
    """Prints what was compared with git, and where the views differ."""
    checks = list(checks)
    table = Table.grid(padding=(0, 2))
    for check in checks:
        mark = Text("same", "green") if check.passed else Text("DIFFERENT", "bold red")
        table.add_row(mark, check.name, check.git, Text(check.source, "dim"))
    console.print(Text("Compared with git", "bold"))
    console.print(table)
    for check in checks:
        if not check.passed:
            say(console, f"{check.name}: git says {check.git}, the view {check.views}", "bold red")
        for difference in check.differences:
            say(console, f"  {difference}", "red")


def _table(title: str, key: str, *others: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column(key, overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name == "last author" else "right", no_wrap=True)
    table.add_column("last", no_wrap=True)
    return table


def _row(table: Table, *cells: Any) -> None:
    table.add_row(*map(_cell, cells))


def _cell(cell: Any) -> Text:
    if isinstance(cell, Text):
        return cell
    return Text(f"{cell:,}" if isinstance(cell, int) else printable(str(cell)))


def _shown(name: str) -> str:
    text = printable(name)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}…{text[-half:]}"


def _name(author: str, width: int) -> Text:
    """The name of ``Name <mail>``, cut to a width; the mail where there is no name."""
    text = Text(printable(author.rpartition(" <")[0] or author))
    text.truncate(width, overflow="ellipsis")
    return text


def _print(console: Console, table: Table, shown: int, total: int) -> None:
    if shown < total:
        table.caption = f"and {total - shown:,} more"
    elif not total:
        table.caption = "none"
    for column in table.columns[1:]:  # only the first gives way where the terminal is narrow
        column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    console.print(table)
    console.print()
