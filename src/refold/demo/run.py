"""The demo from end to end: a server of its own, events, views, and the comparison with git."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from refold.app import App
from refold.demo.history import Repository
from refold.demo.importer import Imported, Plan, import_history, plan_import
from refold.demo.projections import Authors, Directories, Files
from refold.demo.report import counted, print_authors, print_checks, print_directories, print_files, say
from refold.demo.verify import verify
from refold.embedded import EmbeddedNats, find_nats_server
from refold.engine.outcome import Progress as RebuildProgress
from refold.engine.outcome import RebuildResult
from refold.errors import ConfigurationError, RebuildIncomplete
from refold.ports import Order

__all__ = ["run_demo"]

_TOP: Final = 10
_LOCK_SECONDS: Final = 5.0


async def run_demo(git: Path, home: Path, console: Console) -> int:
    """Publishes a git repository's history as events, rebuilds three views of it, and compares them with git.

    Args:
        git: a folder of the repository; nothing is written to it.
        home: where streams and databases are kept; made if missing. Each repository has its own of both, and a further
            run adds only what is new.
        console: where to print.

    Returns:
        0 where the views say what git says, else 1.

    Raises:
        ConfigurationError: there is no repository, it has no commits, git or the NATS server cannot be run, or another
            demo uses the home.
        RefoldError: the server or the database failed.
    """
    repository = Repository.open(git)
    find_nats_server()
    async with _held(home) as lock:
        name = _name(repository)
        database = home / f"{name}.db"
        async with EmbeddedNats(home / "nats", held=lock) as server:
            app = App(
                "demo",
                environment=False,
                nats_url=server.url,
                database_url=f"sqlite:///{database}",
                stream=name,
                subject_prefix=name,
            )
            app.register(Files, Authors, Directories)
            async with app:
                await _fill(app, repository, console)
                await _show(app, console)
                passed = await _judge(app, repository, console)
    console.print()
    say(console, f"The views are in {database.resolve()}, as tables {', '.join(app.projections)}.")
    return 0 if passed else 1


# -- The steps ---------------------------------------------------------------------------------------------------------


async def _fill(app: App, repository: Repository, console: Console) -> None:
    say(console, f"{repository.git.folder} at {repository.head[:12]}", "bold")
    plan = await plan_import(app, repository)
    if plan.reason:
        say(console, f"Starting the stream anew: {plan.reason}.", "yellow")
    imported = await _import(app, repository, plan, console)
    results = await _rebuild(app, console)
    views, seconds = sum(result.views for result in results), max(result.seconds for result in results)
    say(console, f"{counted(imported.commits, 'new commit')} made {counted(imported.added, 'new event')}.")
    say(console, f"{counted(imported.events, 'event')} folded into {counted(views, 'view')} in {seconds:.2f} s.")
    console.print()


async def _import(app: App, repository: Repository, plan: Plan, console: Console) -> Imported:
    if plan.after == repository.head:
        return await import_history(app, repository, plan)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("Publishing commits", total=plan.commits)
        return await import_history(app, repository, plan, lambda commits: bars.update(task, completed=commits))


async def _rebuild(app: App, console: Console) -> list[RebuildResult]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("Rebuilding views  ", total=None, told="")

        def show(progress: RebuildProgress) -> None:
            left = f", {progress.eta_seconds:.0f} s left" if (progress.eta_seconds or 0) >= 1 else ""
            told = f"{progress.events:,} events, {progress.events_per_s:,.0f}/s{left}"
            bars.update(task, completed=progress.position, total=max(progress.head, 1), told=told)

        results = await app.rebuild(progress=show)
    for result in results:
        if not result.complete:
            first = result.faults[0]
            raise RebuildIncomplete(
                f"{result.projection}: {result.failed + result.parked:,} events could not be used; the first, at "
                f"position {first.position}: {first.reason}"
            )
    return results


async def _show(app: App, console: Console) -> None:
    files, authors, directories = app.views(Files), app.views(Authors), app.views(Directories)
    most_changed = [Order("changes", descending=True)]
    print_files(console, await files.find(order_by=most_changed, limit=_TOP), await files.count())
    most_commits = [Order("commits", descending=True)]
    print_authors(console, await authors.find(order_by=most_commits, limit=_TOP), await authors.count())
    most_files = [Order("files", descending=True)]
    print_directories(console, await directories.find(order_by=most_files, limit=_TOP), await directories.count())


async def _judge(app: App, repository: Repository, console: Console) -> bool:
    checks = await asyncio.to_thread(
        verify,
        repository.git.folder,
        repository.head,
        files=await app.views(Files).find_all(),
        authors=await app.views(Authors).find_all(),
        directories=await app.views(Directories).find_all(),
    )
    print_checks(console, checks)
    return all(check.passed for check in checks)


# -- Around them -------------------------------------------------------------------------------------------------------


def _name(repository: Repository) -> str:
    """What stream, subjects and database of a repository are called: its folder's name, and a digest of where it is."""
    base = repository.git.folder.name.removesuffix(".git")
    readable = re.sub("[^a-z0-9]+", "_", base.lower()).strip("_")[:32] or "repository"
    return f"{readable}_{hashlib.sha256(os.fsencode(repository.folder)).hexdigest()[:8]}"


@asynccontextmanager
async def _held(home: Path) -> AsyncIterator[tuple[int, ...]]:
    """Makes the demo's folder and locks it, for two servers must not write the same streams; gives what holds the lock.

    A server that a killed run left takes a moment to end, so the lock is waited for.
    """
    with _lock_file(home) as lock:
        if os.name != "posix":
            yield ()
            return
        deadline = monotonic() + _LOCK_SECONDS
        while not _locked(lock.fileno()):
            if monotonic() > deadline:
                raise ConfigurationError(
                    f"another demo, or a nats-server that one left, uses {home}; end it, or give another folder with --home"
                )
            await asyncio.sleep(0.05)
        yield (lock.fileno(),)


def _lock_file(home: Path) -> BinaryIO:
    try:
        if not home.is_dir():
            home.mkdir(parents=True)
            (home / ".gitignore").write_text("*\n", encoding="utf-8")
        return (home / "lock").open("ab")
    except OSError as error:
        raise ConfigurationError(
            f"{home} cannot be the demo's folder: {error.strerror}; give another with --home"
        ) from error


def _locked(file: int) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
