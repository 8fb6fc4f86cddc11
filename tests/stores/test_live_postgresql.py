"""Live running in PostgreSQL when something breaks: processes, sessions, locks."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from cutting_proxy import CuttingProxy
from holding import holder
from live_cases import APP, SIMPLE, LiveCases, letter, row

from refold.errors import ClaimLost, ProjectionStoreError, StoreBusy, StoreUnavailable
from refold.ports import Changes, Database, Status, Wanted
from refold.stores import open_store
from refold.stores.catalog import describe
from refold.stores.postgresql import PostgresStore

CASES = LiveCases()


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Database]:
    async with open_store(postgres_url) as store:
        await CASES.build(store, "one", "two")
        yield store


async def taken(store: Database, *, lease: float = 15.0) -> None:
    """Takes the claim over, within moments, and commits."""
    started = time.monotonic()
    async with store.claims(APP, lease=lease) as claims:
        for _ in range(200):
            try:
                await claims.take("one", 1)
                break
            except Exception as error:
                if type(error).__name__ != "ClaimHeld" or time.monotonic() > started + 5:
                    raise
                await asyncio.sleep(0.02)
        async with await claims.writer({"one": SIMPLE}) as writer:
            await writer.commit({"one": Changes(rows=[row("a", 1)])}, old=5, new=6, anchor=None)
    assert time.monotonic() - started < 5
    assert await CASES.shown(store) == {"a": 1}


async def test_a_dead_holder_is_known_at_once(store: Database, postgres_url: str) -> None:
    with holder(postgres_url) as process:
        async with store.claims(APP) as claims:
            with pytest.raises(Exception, match=str(process.pid)):
                await claims.take("one", 1)
        process.kill()
        process.wait()
        await taken(store)


async def test_a_holder_that_sleeps_within_its_transaction_holds_nobody_up(store: Database, postgres_url: str) -> None:
    with holder(postgres_url, "open") as process:
        process.send_signal(signal.SIGSTOP)
        await taken(store, lease=0.0)
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        process.stdin.close()  # it goes on, to its COMMIT
        assert process.wait(10) != 0
        process.stdin = None
    assert await CASES.shown(store) == {"a": 1}


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_of_unknown_outcome_is_committed_once(store: Database, postgres_url: str, cut: str) -> None:
    with CuttingProxy(postgres_url) as proxy:
        async with open_store(proxy.url) as through, CASES.running(through) as (_, writer):
            batch = {"one": Changes(rows=[row("a", 1)], letters=[letter(6, "k")])}
            await writer.load("one", ["a"])
            proxy.cut = cut
            with pytest.raises(StoreUnavailable):
                await writer.commit(batch, old=5, new=6, anchor=None)
            assert proxy.cuts == 1
            await writer.commit(batch, old=5, new=6, anchor=None)
            assert (await CASES.checkpoint(store)).position == 6
            await writer.commit({"one": Changes(rows=[row("a", 2)])}, old=6, new=7, anchor=None)
            assert await CASES.shown(store) == {"a": 2}


async def test_an_unknown_outcome_and_another_holder(store: Database, postgres_url: str) -> None:
    """What was committed is not taken for a success once somebody else went on from there."""
    with CuttingProxy(postgres_url) as proxy:
        async with open_store(proxy.url) as through, CASES.running(through) as (_, writer):
            await writer.load("one", ["a"])
            proxy.cut = "after"
            with pytest.raises(StoreUnavailable):
                await writer.commit({}, old=5, new=6, anchor=None)
            async with store.claims(APP, lease=0.0) as others:
                await others.take("one", 1)
                with pytest.raises(ClaimLost, match="run by"):
                    await writer.commit({}, old=5, new=6, anchor=None)


async def test_sessions_that_were_ended_are_made_anew(store: Database, postgres_url: str) -> None:
    async with CASES.running(store) as (claims, writer):
        for position in (5, 6):
            await writer.commit({}, old=position, new=position + 1, anchor=None)
            with psycopg.connect(postgres_url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'refold' "
                    "AND datname = current_database()"
                )
            with pytest.raises(StoreUnavailable):
                await writer.commit({}, old=position + 1, new=position + 2, anchor=None)
            assert (await claims.renew(["one"]))["one"] is not None
            async with store.claims(APP) as others:
                with pytest.raises(Exception, match="is run by"):  # its sign of life is there again
                    await others.take("one", 1)
        assert await writer.load("one", ["a"]) == {}


@contextmanager
def transaction(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url) as connection:
        try:
            yield connection
        finally:
            connection.rollback()


async def impatient(writer: Any) -> None:
    await writer.load("one", ["a"])
    writer._connection.execute("SET lock_timeout = '100ms'")


async def test_a_locked_checkpoint_means_to_try_again(store: Database, postgres_url: str) -> None:
    async with CASES.running(store) as (_, writer):
        await impatient(writer)
        with transaction(postgres_url) as other:
            other.execute("SELECT * FROM refold_checkpoints FOR UPDATE")
            with pytest.raises(StoreBusy):
                await writer.commit({}, old=5, new=6, anchor=None)
        await writer.commit({}, old=5, new=6, anchor=None)


@pytest.mark.parametrize("rows", [1, 600])
async def test_a_locked_table_is_one_projection_s_failure(store: Database, postgres_url: str, rows: int) -> None:
    names = ["one", "two"]
    async with CASES.running(store, *names) as (_, writer):
        await impatient(writer)
        changes = {name: Changes(rows=[row(f"k{i}") for i in range(rows)]) for name in names}
        with transaction(postgres_url) as other:
            other.execute("LOCK TABLE two__v1g1")
            with pytest.raises(ProjectionStoreError) as caught:
                await writer.commit(changes, old=5, new=6, anchor=None)
            assert caught.value.projection == "two"
        assert await store.positions(APP, names) == {"one": 5, "two": 5}
        assert await CASES.shown(store) == {}
        await writer.commit(changes, old=5, new=6, anchor=None)
        assert len(await CASES.shown(store, "two")) == rows


async def test_a_table_that_is_gone_is_one_projection_s_failure(store: Database, postgres_url: str) -> None:
    async with CASES.running(store, "one", "two") as (_, writer):
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute("DROP TABLE two__v1g1 CASCADE")
        changes = {name: Changes(rows=[row("a")]) for name in ("one", "two")}
        with pytest.raises(ProjectionStoreError) as caught:
            await writer.commit(changes, old=5, new=6, anchor=None)
        assert caught.value.projection == "two"
        assert await CASES.shown(store) == {}


async def test_a_deadlock_means_to_try_again(store: Database, postgres_url: str) -> None:
    async with CASES.running(store) as (_, writer):
        await writer.commit({"one": Changes(rows=[row("a", 1)])}, old=5, new=6, anchor=None)
        with transaction(postgres_url) as other:
            other.execute("SET LOCAL deadlock_timeout = '1min'")
            other.execute("UPDATE one__v1g1 SET total = 0")
            batch = {"one": Changes(rows=[row("a", 2)])}
            commit = asyncio.create_task(writer.commit(batch, old=6, new=7, anchor=None))
            await waiting(postgres_url)
            await asyncio.to_thread(other.execute, "UPDATE refold_checkpoints SET reason = 'deadlock'")
            with pytest.raises(StoreBusy):
                await commit
        await writer.commit(batch, old=6, new=7, anchor=None)
        assert await CASES.shown(store) == {"a": 2}


async def waiting(url: str) -> None:
    """Until a session waits for a lock."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        for _ in range(500):
            found = await (await admin.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")).fetchone()
            if found and found[0]:
                return
            await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def test_a_cancelled_commit_leaves_the_writer_well(store: Database, postgres_url: str) -> None:
    async with CASES.running(store) as (_, writer):
        await writer.load("one", ["a"])
        with transaction(postgres_url) as other:
            other.execute("SELECT * FROM refold_checkpoints FOR UPDATE")
            commit = asyncio.create_task(writer.commit({}, old=5, new=6, anchor=None))
            await waiting(postgres_url)
            commit.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(commit, 2)
        await writer.commit({}, old=5, new=6, anchor=None)


async def test_values_of_every_size_go_by_the_same_statements(store: Database) -> None:
    """psycopg prepares a statement for each combination of parameter types: there must be one of each."""
    async with CASES.running(store) as (_, writer):
        position = 5
        for step in (1, 2**15, 2**31, 2**40):
            new, keys = position + step, [f"k{step}"]
            change = Changes(
                rows=[row(keys[0], step)], deleted=["no"], seen=[("order", keys[0], step)], letters=[letter(new, "k")]
            )
            await writer.commit({"one": change}, old=position, new=new, anchor=f"{new}:x" if step > 1 else None)
            await writer.load("one", keys)
            await writer.load_seen("one", [("order", keys[0])])
            position = new
        prepared = [r[0] for r in writer._connection.execute("SELECT statement FROM pg_prepared_statements")]
        assert len(prepared) == len(set(prepared)) > 5


# What the first version made.
OLD = """
    CREATE TABLE refold_checkpoints (
        app TEXT COLLATE "C" NOT NULL, projection TEXT COLLATE "C" NOT NULL, version BIGINT NOT NULL,
        generation BIGINT NOT NULL, partition BIGINT NOT NULL, table_name TEXT COLLATE "C" NOT NULL,
        columns TEXT COLLATE "C" NOT NULL, fingerprint TEXT COLLATE "C", stream TEXT COLLATE "C",
        stream_created TEXT COLLATE "C", position BIGINT NOT NULL, anchor TEXT COLLATE "C", owner TEXT COLLATE "C",
        epoch BIGINT NOT NULL, state TEXT COLLATE "C" NOT NULL, since TIMESTAMP WITH TIME ZONE NOT NULL,
        renewed TIMESTAMP WITH TIME ZONE NOT NULL, last_error TEXT COLLATE "C",
        PRIMARY KEY (app, projection, version, generation, partition)
    );
    CREATE TABLE refold_seen (
        app TEXT COLLATE "C" NOT NULL, projection TEXT COLLATE "C" NOT NULL, projection_version BIGINT NOT NULL,
        generation BIGINT NOT NULL, aggregate_type TEXT COLLATE "C" NOT NULL, aggregate_id TEXT COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        PRIMARY KEY (app, projection, projection_version, generation, aggregate_type, aggregate_id)
    );
    CREATE TABLE one__v1g1 (
        id TEXT COLLATE "C" PRIMARY KEY, created_at TIMESTAMPTZ, updated_at TIMESTAMPTZ, version BIGINT NOT NULL,
        position BIGINT NOT NULL, total BIGINT NOT NULL
    );
    INSERT INTO one__v1g1 VALUES ('a', NULL, NULL, 1, 5, 7);
    CREATE VIEW one AS SELECT * FROM one__v1g1;
    INSERT INTO refold_seen VALUES ('t', 'one', 1, 1, 'order', 'x', 3);
"""
OLD_ROW = (
    "INSERT INTO refold_checkpoints VALUES ('t', 'one', 1, 1, 0, 'one__v1g1', %s, 'f', 'S', 'c', 5, NULL, 'host:1', 0, "
    "'active', now(), now(), NULL)"
)


async def test_a_database_of_the_first_version_is_taken_over(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as old:
        old.execute(OLD)
        old.execute(OLD_ROW, [describe(SIMPLE)])
    for _ in range(2):
        async with open_store(postgres_url) as store:
            found = await CASES.checkpoint(store)
            assert (found.status, found.wanted, found.reason) == (Status.STOPPED, Wanted.RUN, "")
            assert found.since is not None
    async with PostgresStore(postgres_url) as store:
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
