"""The commands, as thin as can be: arguments in, a call, its result shown."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from refold.cli.context import Context
from refold.engine.policy import ErrorPolicy

__all__ = ["add_to", "exit_with"]


class Store(Enum):
    """Databases that the benchmark knows."""

    POSTGRESQL = "postgresql"
    SQLITE = "sqlite"
    MEMORY = "memory"


class LiveStore(Enum):
    """Databases that other processes can look into."""

    POSTGRESQL = "postgresql"
    SQLITE = "sqlite"


class LivePart(Enum):
    """What there is to measure of live running."""

    BACKLOG = "backlog"
    LATENCY = "latency"
    MANY = "many"
    MEMORY = "memory"


class Skew(Enum):
    """How a benchmark's events are spread over aggregates."""

    UNIFORM = "uniform"
    ZIPF = "zipf"


def add_to(cli: typer.Typer, bench: typer.Typer) -> None:
    """Adds every command."""
    cli.command("rebuild")(rebuild)
    cli.command("import")(import_file)
    cli.command("demo")(demo)
    bench.command("rebuild")(bench_rebuild)
    bench.command("tasks")(bench_tasks)
    bench.command("live")(bench_live)
    bench.command("index")(bench_index)


def exit_with(work: Coroutine[Any, Any, int], interrupted: str = "run it again") -> None:
    """Runs a command and exits.

    Args:
        work: gives the exit code.
        interrupted: what to say after Ctrl-C.
    """
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        sys.stderr.write(f"refold: interrupted; {interrupted}\n")
        code = 130
    raise typer.Exit(code)


def rebuild(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Projections; all by default.")] = None,
    on_error: Annotated[
        ErrorPolicy | None, typer.Option(help="What to do about events that fail, instead of what each projector says.")
    ] = None,
    accept_incomplete: Annotated[
        bool, typer.Option("--accept-incomplete", help="Show the new views to readers though events failed.")
    ] = False,
    accept_truncated: Annotated[
        bool, typer.Option("--accept-truncated", help="Rebuild though the stream's first events are gone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and no progress.")] = False,
) -> None:
    """Fold a stream's events again into new views, and show them to readers when all are there."""
    from refold.cli.rebuild import run_rebuild

    holder: Context = context.obj
    exit_with(
        run_rebuild(
            holder.load(),
            names or [],
            on_error=on_error,
            accept_incomplete=accept_incomplete,
            accept_truncated=accept_truncated,
            as_json=as_json,
        ),
        interrupted="readers see what they saw before",
    )


def import_file(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="Events, one envelope a line; - for standard input.")
    ],
    stream: Annotated[str, typer.Option(help="The stream; made if there is none.")],
    codec: Annotated[str, typer.Option(help="How the lines are written: json, go or cloudevents.")] = "json",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Publish events from a file. Bad lines are told by number, and the good ones are published all the same."""
    from refold.cli.importing import run_import

    exit_with(
        run_import(file, stream, codec, as_json=as_json),
        interrupted="import it again, and what is there stays as it is",
    )


def demo(
    git: Annotated[
        Path, typer.Option(metavar="PATH", help="A folder of the repository; by default the one you are in.")
    ] = Path(),
    home: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the server's streams and the database are kept.")
    ] = Path(".demo"),
) -> None:
    """Turn a git repository's history into events and three views, and compare these with git itself."""
    from refold.demo.report import console_on
    from refold.demo.run import run_demo

    exit_with(run_demo(git, home, console_on(sys.stdout)))


def bench_rebuild(
    events: Annotated[int, typer.Option(min=1, help="Events in the stream.")] = 1_000_000,
    aggregates: Annotated[int, typer.Option(min=1, help="Aggregates that they are drawn from.")] = 100_000,
    store: Annotated[
        Store,
        typer.Option(
            help="Where the views go; REFOLD_BENCH_DATABASE_URL names a PostgreSQL instead of one from a wheel."
        ),
    ] = Store.POSTGRESQL,
    skew: Annotated[Skew, typer.Option(help="How events are spread over aggregates.")] = Skew.UNIFORM,
    seed: Annotated[int, typer.Option(help="Of the draw: the same seed gives the same events.")] = 1,
    peers: Annotated[bool, typer.Option("--peers", help="Measure other ways too, about 20 seconds each.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Say where the time goes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a rebuild against the raw limit of reading the same stream."""
    from refold.bench.rebuild import run_bench

    exit_with(
        run_bench(
            events=events,
            aggregates=aggregates,
            store=store.value,
            skew=skew.value,
            seed=seed,
            peers=peers,
            trace=trace,
            as_json=as_json,
        )
    )


def bench_tasks(
    tasks: Annotated[int, typer.Option(min=1, help="Tasks without work, to be run once each.")] = 100_000,
    limit: Annotated[int, typer.Option(min=1, help="How many of them may run at once.")] = 100,
    timers: Annotated[int, typer.Option(min=1, help="Hourly tasks that wait.")] = 10_000,
    idle_seconds: Annotated[float, typer.Option("--idle", min=0.01, help="Seconds to watch them wait.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure schedulers: rate and memory, how late tasks begin, the cost of waiting, closing under load."""
    from refold.bench.tasks import run_tasks_bench

    exit_with(run_tasks_bench(tasks=tasks, limit=limit, timers=timers, idle_seconds=idle_seconds, as_json=as_json))


def bench_live(
    store: Annotated[
        LiveStore,
        typer.Option(
            help="Where the views go; REFOLD_BENCH_DATABASE_URL names a PostgreSQL instead of one from a wheel."
        ),
    ] = LiveStore.POSTGRESQL,
    only: Annotated[
        list[LivePart] | None, typer.Option(help="What to measure; again for more. All but memory by default.")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Measure memory too, which takes minutes.")] = False,
    events: Annotated[int, typer.Option(min=1, help="Events of the backlog, and of the rebuild before it.")] = 500_000,
    aggregates: Annotated[int, typer.Option(min=1, help="Aggregates that they are drawn from.")] = 50_000,
    rate: Annotated[int, typer.Option(min=200, help="Events a second of the steady publishing.")] = 2_000,
    seconds: Annotated[float, typer.Option(min=1, help="How long it lasts.")] = 20.0,
    events_many: Annotated[int, typer.Option(min=1, help="Events that many projections take up.")] = 200_000,
    events_memory: Annotated[int, typer.Option(min=1, help="Events over which memory is looked at.")] = 2_000_000,
    seed: Annotated[int, typer.Option(help="Of the draw: the same seed gives the same events.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure live running: a backlog, how soon views show an event, many projections, memory."""
    from refold.bench.live.run import run_live_bench

    parts = {part.value for part in only or set(LivePart) - {LivePart.MEMORY}} | ({"memory"} if memory else set())
    exit_with(
        run_live_bench(
            store=store.value,
            parts=parts,
            events=events,
            aggregates=aggregates,
            rate=rate,
            seconds=seconds,
            events_many=events_many,
            events_memory=events_memory,
            seed=seed,
            as_json=as_json,
        )
    )


def bench_index(
    store: Annotated[
        LiveStore,
        typer.Option(
            help="Where the index goes; REFOLD_BENCH_DATABASE_URL names a PostgreSQL instead of one from a wheel."
        ),
    ] = LiveStore.POSTGRESQL,
    events: Annotated[
        int, typer.Option(min=1, help="Events that are there at first, and that come then, each.")
    ] = 300_000,
    aggregates: Annotated[int, typer.Option(min=1, help="Aggregates that they are drawn from.")] = 100_000,
    live: Annotated[bool, typer.Option(help="Measure live running too.")] = True,
    seed: Annotated[int, typer.Option(help="Of the draw: the same seed gives the same events.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure listing aggregates from the stream and from the aggregate index, and what the index costs live."""
    from refold.bench.index import run_index_bench

    exit_with(
        run_index_bench(store=store.value, events=events, aggregates=aggregates, live=live, seed=seed, as_json=as_json)
    )
