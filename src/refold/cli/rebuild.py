"""``refold rebuild``: progress while it runs, a table or JSON in the end."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from refold.app import App
from refold.engine.outcome import Progress, ProgressHook, RebuildResult
from refold.engine.policy import ErrorPolicy
from refold.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Bars", "progress_told", "run_rebuild", "shown_progress"]

_SHOWN_FAULTS = 10


async def run_rebuild(
    app: App,
    names: Sequence[str],
    *,
    on_error: ErrorPolicy | None,
    accept_incomplete: bool,
    accept_truncated: bool,
    as_json: bool,
) -> int:
    """Rebuilds and tells; the exit code: 0 complete, 1 not."""
    for name in names:
        app.projector(name)  # a wrong name is told before anything is connected
    if not app.projections:
        raise ConfigurationError(f"app {app.name!r} has no projections; register some: app.register(MyProjector)")
    async with app:
        with shown_progress(hidden=as_json) as hook:
            results = await app.rebuild(
                *names,
                on_error=on_error,
                accept_incomplete=accept_incomplete,
                accept_truncated=accept_truncated,
                progress=hook,
            )
    if as_json:
        sys.stdout.write(json.dumps([_plain(result) for result in results], indent=2) + "\n")
    else:
        _print(results)
    return 0 if all(result.complete for result in results) else 1


@contextmanager
def shown_progress(*, hidden: bool = False) -> Iterator[ProgressHook | None]:
    """A hook that shows a rebuild's progress on stderr: events, rate, time left."""
    if hidden:
        yield None
        return
    from rich.console import Console

    with Bars(Console(stderr=True)) as bars:
        yield bars.show


class Bars:
    """Progress of rebuilds, a bar for each pass. A context manager.

    Args:
        console: where to.
        transient: take the bars away in the end.
    """

    def __init__(self, console: Console, *, transient: bool = False) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[told]}"),
        )
        self._bars = Bars(*columns, console=console, transient=transient)
        self._tasks: dict[tuple[tuple[str, ...], str], Any] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Shows how far a rebuild is."""
        if progress.phase not in ("reading", "repairing"):
            return
        key = (progress.projections, progress.phase)
        if key not in self._tasks:
            description = f"{progress.phase} {', '.join(progress.projections)}"
            self._tasks[key] = self._bars.add_task(description, total=None, told="")
        self._bars.update(
            self._tasks[key], completed=progress.position, total=max(progress.head, 1), told=progress_told(progress)
        )


def progress_told(progress: Progress) -> str:
    """How far a rebuild is, in words."""
    eta = "" if progress.eta_seconds is None else f", {progress.eta_seconds:.0f} s left"
    return f"{progress.events:,} events, {progress.events_per_s:,.0f}/s{eta}"


def _plain(result: RebuildResult) -> dict[str, Any]:
    plain = {name: getattr(result, name) for name in RebuildResult.__slots__}
    faults = [dataclasses.asdict(fault) | {"policy": fault.policy.value} for fault in result.faults]
    return plain | {"faults": faults, "complete": result.complete}


def _print(results: Sequence[RebuildResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("projection", "views", "events", "duplicates", "ignored", "failed", "parked", "seconds")
    for result in results:
        numbers = (result.views, result.events, result.duplicates, result.ignored, result.failed, result.parked)
        table.add_row(result.projection, *(f"{n:,}" for n in numbers), f"{result.seconds:.1f}")
    console = Console()
    console.print(table)
    for result in results:
        for fault in result.faults[:_SHOWN_FAULTS]:
            key = "" if fault.key is None else f", key {fault.key!r}"
            console.print(
                f"{fault.projection}: position {fault.position}{key}: {fault.reason}", markup=False, soft_wrap=True
            )
        more = result.failed + result.parked - _SHOWN_FAULTS
        if more > 0:
            console.print(f"{result.projection}: and {more:,} more (--json lists up to a thousand)", markup=False)
        if result.published:
            told = f"{result.projection}: readers see version {result.version} at position {result.position:,}"
            console.print(told, markup=False)
        else:
            console.print(
                f"{result.projection}: incomplete, so readers go on seeing the old views; mend the projector or the events, "
                "or accept it with --accept-incomplete",
                markup=False,
                soft_wrap=True,
            )
