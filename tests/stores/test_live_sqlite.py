"""Live running in SQLite when something breaks: processes, disks, locks."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from holding import holder
from live_cases import APP, EVERYTHING, SIMPLE, Everything, LiveCases, letter, row
from sqlalchemy import event

from refold.errors import ClaimHeld, ProjectionStoreError, StoreBusy, StoreError
from refold.ports import Changes, Database, Status, Wanted
from refold.stores import open_store
from refold.stores.catalog import describe
from refold.stores.sqlite import SqliteStore

CASES = LiveCases()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "views.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Database]:
    async with SqliteStore(path, busy_seconds=0.1) as store:
        await CASES.build(store, "one", "two")
        yield store


async def test_a_dead_holder_is_known_at_once(store: Database, path: Path) -> None:
    with holder(f"sqlite:///{path}") as process:
        async with store.claims(APP) as claims:
            with pytest.raises(ClaimHeld, match=str(process.pid)):
                await claims.take("one", 1)
            process.kill()
            process.wait()
            assert await claims.take("one", 1) is not None
            async with await claims.writer({"one": SIMPLE}) as writer:
                await writer.commit({"one": Changes(rows=[row("a", 1)])}, old=5, new=6, anchor=None)
    assert await CASES.shown(store) == {"a": 1}
    assert not list(path.parent.glob("*.lock"))


async def test_a_file_that_is_written_elsewhere_means_to_try_again(store: Database, path: Path) -> None:
    async with CASES.running(store) as (_, writer):
        batch = {"one": Changes(rows=[row("a", 1)])}
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                await writer.commit(batch, old=5, new=6, anchor=None)
        await writer.commit(batch, old=5, new=6, anchor=None)
        assert await CASES.shown(store) == {"a": 1}


async def test_a_full_disk_leaves_nothing_half_done(store: Any, path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        (pages,) = other.execute("PRAGMA page_count").fetchone()

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages + 8}")

    async with CASES.running(store, "one", "two") as (claims, writer):
        event.listen(store._engine, "checkout", limit)
        big = [row(f"{i:06}" + "k" * 1_000) for i in range(200)]
        changes = {"one": Changes(rows=[row("small")], letters=[letter(6, "k")]), "two": Changes(rows=big)}
        with pytest.raises(StoreError, match="disk is full") as caught:
            await writer.commit(changes, old=5, new=6, anchor=None)
        assert type(caught.value) is StoreError
        assert await store.positions(APP, ["one", "two"]) == {"one": 5, "two": 5}
        assert await CASES.shown(store) == {}
        assert await store.letters(APP) == []
        event.remove(store._engine, "checkout", limit)
        event.listen(store._engine, "checkout", lambda c, *_: c.execute("PRAGMA max_page_count = 1000000"))
        await writer.commit(changes, old=5, new=6, anchor=None)
        await claims.report("one", Status.LIVE)
        assert len(await CASES.shown(store, "two")) == 200


async def test_a_table_that_is_gone_is_one_projection_s_failure(store: Database, path: Path) -> None:
    async with CASES.running(store, "one", "two") as (_, writer):
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE two__v1g1")
        changes = {name: Changes(rows=[row("a")]) for name in ("one", "two")}
        with pytest.raises(ProjectionStoreError) as caught:
            await writer.commit(changes, old=5, new=6, anchor=None)
        assert caught.value.projection == "two"
        assert await CASES.shown(store) == {}


async def test_commits_go_on_while_another_generation_is_written(store: Database) -> None:
    """Commits and the chunks of a rebuild come one after another: nobody waits for the whole rebuild."""
    rows = EVERYTHING.freeze_all([(f"k{i}", Everything(f"k{i}")) for i in range(2_000)])
    waits: list[float] = []
    async with CASES.running(store) as (_, writer):
        async with await store.begin_generation(EVERYTHING, app=APP, name="three", version=1) as generation:
            built = asyncio.Event()

            async def build() -> None:
                for chunk in range(20):
                    await generation.insert([(f"{chunk}-{r[0]}", *r[1:]) for r in rows])
                built.set()

            building = asyncio.create_task(build())
            position = 5
            while not built.is_set():
                started = time.monotonic()
                await writer.commit(
                    {"one": Changes(rows=[row("a", position)])}, old=position, new=position + 1, anchor=None
                )
                waits.append(time.monotonic() - started)
                position += 1
            await building
    assert len(waits) >= 15  # about one after every chunk


# What the first version made.
OLD = """
    CREATE TABLE refold_checkpoints (
        app TEXT NOT NULL, projection TEXT NOT NULL, version INTEGER NOT NULL, generation INTEGER NOT NULL,
        partition INTEGER NOT NULL, table_name TEXT NOT NULL, columns TEXT NOT NULL, fingerprint TEXT, stream TEXT,
        stream_created TEXT, position INTEGER NOT NULL, anchor TEXT, owner TEXT, epoch INTEGER NOT NULL,
        state TEXT NOT NULL, since TEXT NOT NULL, renewed TEXT NOT NULL, last_error TEXT,
        PRIMARY KEY (app, projection, version, generation, partition)
    );
    CREATE TABLE refold_seen (
        app TEXT NOT NULL, projection TEXT NOT NULL, projection_version INTEGER NOT NULL, generation INTEGER NOT NULL,
        aggregate_type TEXT NOT NULL, aggregate_id TEXT NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (app, projection, projection_version, generation, aggregate_type, aggregate_id)
    );
    CREATE TABLE one__v1g1 (
        id TEXT NOT NULL, created_at TEXT, updated_at TEXT, version INTEGER NOT NULL, position INTEGER NOT NULL,
        total INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX one__v1g1_id_idx ON one__v1g1 (id);
    INSERT INTO one__v1g1 VALUES ('a', NULL, NULL, 1, 5, 7);
    CREATE VIEW one AS SELECT * FROM one__v1g1;
    INSERT INTO refold_seen VALUES ('t', 'one', 1, 1, 'order', 'x', 3);
"""
OLD_ROW = (
    "INSERT INTO refold_checkpoints VALUES ('t', 'one', 1, 1, 0, 'one__v1g1', ?, 'f', 'S', 'c', 5, NULL, 'host:1', 0, "
    "'active', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z', NULL)"
)


async def test_a_database_of_the_first_version_is_taken_over(path: Path) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.executescript(OLD)
        old.execute(OLD_ROW, [describe(SIMPLE)])
        old.commit()
    for _ in range(2):
        async with open_store(f"sqlite:///{path}") as store:
            found = await CASES.checkpoint(store)
            assert (found.status, found.wanted, found.reason) == (Status.STOPPED, Wanted.RUN, "")
            assert found.since is not None
            assert found.since.year == 2026
    async with open_store(f"sqlite:///{path}") as store:
        async with CASES.running(store) as (_, writer):
            assert await writer.load_seen("one", [("order", "x")]) == {("order", "x"): 3}
            change = Changes(rows=[row("b", 8)], letters=[letter(6, "k")])
            await writer.commit({"one": change}, old=5, new=6, anchor="6:x")
        assert await CASES.shown(store) == {"a": 7, "b": 8}
        paused = await store.order(APP, "one", Wanted.PAUSE)
        assert paused is not None
        assert paused.wanted is Wanted.PAUSE
        await CASES.build(store, "one")
        assert (await CASES.checkpoint(store)).wanted is Wanted.PAUSE
