"""The demo from end to end: a server of its own, events, views, and the comparison with git."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from refold.app import App
from refold.demo.history import Repository
from refold.demo.importer import Imported, Plan, import_history, plan_import
from refold.demo.paths import printable
from refold.demo.projections import Authors, Directories, Files
from refold.demo.report import print_authors, print_checks, print_directories, print_files
from refold.demo.verify import verify
from refold.embedded import EmbeddedNats
from refold.engine.rebuild import Progress as RebuildProgress
from refold.engine.rebuild import RebuildResult
from refold.errors import ConfigurationError
from refold.ports import Order

__all__ = ["run_demo"]

_TOP: Final = 10


async def run_demo(git: Path, home: Path, console: Console) -> int:
    """Publishes a git repository's history as events, rebuilds three views of it, and compares them with git.

    Args:
        git: a folder of the repository; nothing is written to it.
        home: where the stream and the database are kept; made if missing. Each repository has its own of both, and a
            further run adds only what is new.
        console: where to print.

    Returns:
        0 where the views say what git says, else 1.

    Raises:
        ConfigurationError: there is no repository, it has no commits, git cannot be run, or another demo uses the home.
        RefoldError: the server or the database failed.
    """
    repository = Repository.open(git)
    home = home.absolute()
    name = _name(repository)
    with _alone(home):
        database = home / f"{name}.db"
        async with EmbeddedNats(home / "nats") as server:
            app = App(
                "demo",
                nats_url=server.url,
                database_url=f"sqlite:///{database}",
                stream=name,
                codec="json",
                subject_scheme="refold",
                subject_prefix=name,
            )
            app.register(Files, Authors, Directories)
            async with app:
                await _fill(app, repository, console)
                await _show(app, console)
                passed = await _judge(app, repository, console)
    _say(console, f"The views are in {database}, as tables files, authors and directories.")
    return 0 if passed else 1


# -- The steps ---------------------------------------------------------------------------------------------------------


async def _fill(app: App, repository: Repository, console: Console) -> None:
    plan = await plan_import(app, repository)
    if plan.reason:
        _say(console, f"Importing everything anew: {plan.reason}.")
    imported, results = await _import_and_rebuild(app, repository, plan, console)
    _say(console, f"{repository.git.folder} at {repository.head[:12]}")
    _say(
        console,
        f"{imported.commits:,} new commits, {imported.added:,} new events; {imported.events:,} events in all, "
        f"folded into {sum(result.views for result in results):,} views in {max(r.seconds for r in results):.1f} s",
    )


async def _import_and_rebuild(
    app: App, repository: Repository, plan: Plan, console: Console
) -> tuple[Imported, list[RebuildResult]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        publishing = bar.add_task("publishing commits", total=plan.commits)
        imported = await import_history(
            app, repository, plan, lambda commits: bar.update(publishing, completed=commits)
        )
        rebuilding = bar.add_task("rebuilding views", total=None)

        def show(progress: RebuildProgress) -> None:
            bar.update(rebuilding, completed=progress.position, total=progress.head)

        results = await app.rebuild(progress=show)
        end = results[0].position
        bar.update(rebuilding, completed=end, total=end)
    return imported, results


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


def _say(console: Console, line: str) -> None:
    """Prints a line without looking for markup in it, or cutting it where a path is long."""
    console.print(Text(printable(line)), soft_wrap=True)


def _name(repository: Repository) -> str:
    """What stream, subjects and database of a repository are called: its folder's name, and a digest of where it is."""
    place = repository.folder
    base = place.parent.name if place.name == ".git" else place.name.removesuffix(".git")
    readable = re.sub("[^a-z0-9]+", "_", base.lower()).strip("_")[:32] or "repository"
    return f"{readable}_{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Makes the demo's folder and holds it: two servers must not write the same streams."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "lock").open("ab")
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {home} as the demo's folder: {error}; give another with --home"
        ) from error
    with lock:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigurationError(
                    f"another demo is using {home}; wait for its end, or give another folder with --home"
                ) from error
        yield
