"""A process that runs the app until it is told to stop, or dies where it was told to.

``python life_worker.py``; LIFE_DIES says where: ``before commit``, ``within commit`` (everything is written, and the database is
not told to commit yet) or ``after commit``, and LIFE_COMMITS after how many.
LIFE_SLEEPS has it stop itself within that commit, just before PostgreSQL or SQLite is told to commit. LIFE_UNGUARDED has it
commit without comparing position and epoch. LIFE_FILE_BYTES is the size above which no file can grow. LIFE_LEASE is the lease in
seconds. SIGTERM ends it in order.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import life_app

from refold.engine.live.group import LiveLimits
from refold.errors import RefoldError
from refold.ports import BatchWriter


def dying(where: str, commits: int) -> None:
    """Makes the process kill itself around one of its commits."""
    count = 0

    def wrap(kind: type[BatchWriter]) -> None:
        commit = kind.commit

        async def fatal(self: BatchWriter, *given: Any, **named: Any) -> None:
            nonlocal count
            count += 1
            if where == "before commit" and count > commits:
                os.kill(os.getpid(), signal.SIGKILL)
            await commit(self, *given, **named)
            if where == "after commit" and count > commits:
                os.kill(os.getpid(), signal.SIGKILL)

        kind.commit = fatal  # type: ignore[method-assign]

    for kind in BatchWriter.__subclasses__():
        wrap(kind)


def struck(commits: int, number: signal.Signals) -> None:
    """Sends the process a signal within one of its commits: its transaction is open, and everything is written."""
    count = 0

    def stop() -> None:
        nonlocal count
        count += 1
        if count == commits:
            os.kill(os.getpid(), number)

    import psycopg

    commit = psycopg.Connection.commit

    def slow(self: Any) -> None:
        if threading.current_thread().name.startswith("refold-writer"):
            stop()
        commit(self)

    psycopg.Connection.commit = slow  # type: ignore[method-assign]
    connect = sqlite3.connect

    def traced(*given: Any, **named: Any) -> Any:
        connection = connect(*given, **named)
        connection.set_trace_callback(lambda statement: stop() if written(statement) else None)
        return connection

    moved = False

    def written(statement: str) -> bool:
        nonlocal moved
        moved = moved or "SET position" in statement
        done, moved = (
            moved and statement.startswith("COMMIT"),
            moved and not statement.startswith(("COMMIT", "ROLLBACK")),
        )
        return done

    sqlite3.connect = traced  # type: ignore[assignment]


def unguarded() -> None:
    """Makes PostgreSQL's writer take every commit for its own."""
    from refold.stores import pgbatches

    pgbatches._MOVE = pgbatches._MOVE.replace(
        b"AND c.position = %s::int8 AND c.epoch = m.epoch AND c.owner = %s::text",
        b"AND (c.position = %s::int8 OR c.epoch <> m.epoch OR true) AND (c.owner = %s::text OR true)",
    )
    assert b"OR true" in pgbatches._MOVE


async def main() -> None:
    if size := os.environ.get("LIFE_FILE_BYTES"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
    if commits := os.environ.get("LIFE_SLEEPS"):
        struck(int(commits), signal.SIGSTOP)
    where, commits = os.environ.get("LIFE_DIES"), os.environ.get("LIFE_COMMITS", "3")
    if where == "within commit":
        struck(int(commits) + 1, signal.SIGKILL)
    if os.environ.get("LIFE_UNGUARDED"):
        unguarded()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    limits = LiveLimits(batch_events=int(os.environ.get("LIFE_BATCH", "250000")), hot_views=50)
    async with life_app.app as app:
        if where is not None:
            dying(where, int(commits))
        sys.stderr.write("begun\n")
        await app.run(
            stop=stop,
            lease=float(os.environ.get("LIFE_LEASE", "15")),
            limits=limits,
            accept_truncated=bool(os.environ.get("LIFE_EXPIRED")),
        )


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(main())
    except RefoldError as error:
        sys.stderr.write(f"ended: {type(error).__name__}: {error}\n")
        sys.exit(2)
