"""How batches are cut, what becomes of interruptions, how everything ends, and what it takes of memory."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from fold_domain import Added, ByTag, Noted, Total, Totals
from live_support import Lab, told

from refold import DomainEvent, Projector, on
from refold.engine.live.cache import SeenLog, TouchedCache
from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import Retrying
from refold.engine.live.waiting import wait_for
from refold.errors import ContinuityError, ProjectionStoreError, StoreError, StreamError
from refold.ports import Status, Wanted
from refold.view import ViewSchema


class Third(Totals, name="third", aggregate="account", version=1):
    pass


class Unhandled(Projector[Total], name="unhandled", aggregate="account", version=1):
    @on(Noted)
    def noted(self, view: Total, event: DomainEvent[Noted]) -> None:
        view.notes += 1


class Late(Projector[Total], name="late", aggregate="account", version=1, start_position=4):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount


async def test_one_event_is_committed_at_once_and_alone() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals, tick=60.0, limits=LiveLimits(idle_seconds=60.0))
        await lab.reach()
        for _ in range(3):
            await asyncio.sleep(0.005)
            lab.publish(("a", Added(1)))
            await lab.reach()
        assert [(old, new) for _, old, new in lab.store.commits] == [(1, 2), (2, 3), (3, 4)]


async def test_under_a_slow_commit_the_next_batch_collects_what_comes() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals, limits=LiveLimits())
        await lab.stands(Status.LIVE)
        gate = asyncio.Event()

        async def hold(*_: object) -> None:
            await gate.wait()

        lab.store.before = hold
        for i in range(50):
            lab.publish((f"k{i % 7}", Added(1)))
            await asyncio.sleep(0)
        await lab.until(lambda: lab.source.given == lab.head)
        gate.set()
        await lab.reach()
        assert len(lab.store.commits) == 2
        await lab.check_totals()


async def test_a_backlog_is_committed_in_large_batches() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await process.stop()
        lab.store.commits.clear()
        lab.publish(*[("a", Added(1))] * 3_000)
        lab.start(Totals, limits=LiveLimits(behind=100))
        await lab.reach()
        assert len(lab.store.commits) < 60  # all but the last hundred in one, those in threes
        assert max(new - old for _, old, new in lab.store.commits) >= 2_800
        await lab.check_totals()


async def test_what_nobody_handles_advances_the_checkpoint_now_and_then() -> None:
    async with Lab(("a", Noted("x"))) as lab:
        lab.start(Unhandled, limits=LiveLimits(idle_seconds=0.05))
        await lab.stands(Status.LIVE, "unhandled")
        began = asyncio.get_running_loop().time()
        for _ in range(200):
            lab.publish(("a", Added(1)))
            await asyncio.sleep(0.0005)
        await wait_for(lab.store, "t", ["unhandled"], lab.head, timeout=1.0)
        seconds = asyncio.get_running_loop().time() - began
        assert len(lab.store.commits) <= 2 + seconds / 0.05
        assert all(not changes for changes, _, _ in lab.store.commits)


async def test_a_tail_that_is_gone_is_passed() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.source.tail = 9
        lab.source.append()
        await wait_for(lab.store, "t", ["totals"], 9, timeout=2.0)


async def test_a_start_ahead_is_kept() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Late, Totals)
        await lab.stands(Status.LIVE, "late")
        lab.publish(("a", Added(10)), ("a", Added(100)), ("a", Added(1_000)), ("a", Added(10_000)))
        await lab.reach("late", "totals")
        assert await lab.totals("late") == {"a": 11_000}
        await lab.check_totals()


# -- Groups --------------------------------------------------------------------------------------------------------------


async def test_projections_at_different_positions_come_together() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.publish(*[("a", Added(1))] * 20)
        await lab.reach()
        await process.stop()
        lab.source.reads = 0
        process = lab.start(Totals, Third, ByTag)
        await lab.stands(Status.LIVE, "third")
        lab.publish(("a", Added(1)))
        await lab.until(lambda: any(len(batch.projections) == 3 for batch in process.batches()) or not _poke(lab))
        await lab.reach("totals", "third", "by_tag")
        await lab.check_totals()
        await lab.check_totals("third")


def _poke(lab: Lab) -> bool:
    lab.publish(("a", Added(1)))
    return True


async def test_a_failing_projection_leaves_its_group_and_comes_back() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals, Third)
        await lab.stands(Status.LIVE)
        locked = True

        async def fail(changes: Any, *_: object) -> None:
            if locked and "third" in changes:
                raise ProjectionStoreError("its table is locked", projection="third")

        lab.store.before = fail
        lab.publish(("a", Added(2)))
        await lab.reach("totals")
        await lab.stands(Status.DEGRADED, "third")
        assert "locked" in lab.checkpoint("third").reason
        assert lab.checkpoint().status is Status.LIVE
        locked = False
        await lab.reach("third")
        process.told.clear()
        await lab.until(lambda: any(len(batch.projections) == 2 for batch in process.batches()) or not _poke(lab))
        await lab.reach("totals", "third")
        await lab.check_totals()
        await lab.check_totals("third")


@pytest.mark.parametrize("error", [StoreError("something odd"), ZeroDivisionError("a bug")])
async def test_whom_an_unnamed_failure_concerns_is_found_out(error: Exception) -> None:
    """A bug in one projection's way to the database: the others go on, and it is tried again and again."""
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals, Third)
        await lab.stands(Status.LIVE)
        broken = True

        async def fail(changes: Any, *_: object) -> None:
            if broken and "third" in changes:
                raise error

        lab.store.before = fail
        lab.publish(("a", Added(2)))
        await lab.reach("totals")
        await lab.stands(Status.DEGRADED, "third")
        lab.publish(("a", Added(3)))
        await lab.reach("totals")
        broken = False
        await lab.reach("third")
        await lab.check_totals("third")
        process.told.clear()
        await lab.until(lambda: any(len(b.projections) == 2 for b in process.batches()) or not _poke(lab))


# -- Interruptions and ends ------------------------------------------------------------------------------------------------


async def test_an_interruption_is_taken_up_after_the_last_position_folded() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals, limits=LiveLimits())
        await lab.stands(Status.LIVE)
        gate = asyncio.Event()

        async def hold(*_: object) -> None:
            await gate.wait()

        lab.store.before = hold
        lab.publish(("a", Added(2)))
        await asyncio.sleep(0.005)
        lab.publish(("a", Added(3)), ("b", Added(3)))
        await lab.until(lambda: lab.source.given == lab.head)
        lab.source.interrupt(ContinuityError("a message is missing"))
        lab.publish(("a", Added(4)))
        gate.set()
        await lab.reach()
        assert [one.what for one in told(Retrying, process.told)] == ["read"]
        assert lab.source.began == [1, 4]
        await lab.check_totals()


async def test_a_stream_that_stays_away_shows() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.source.missing = StreamError("no route to it")
        lab.source.interrupt(StreamError("cut"))
        await lab.stands(Status.DEGRADED)
        assert "no route" in lab.checkpoint().reason
        lab.source.missing = None
        lab.publish(("a", Added(1)))
        await lab.reach()
        await lab.stands(Status.LIVE)


async def test_stopping_finishes_the_batch() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals, limits=LiveLimits(batch_seconds=60.0, behind=-1))
        await lab.reach()
        await lab.until(lambda: process.status() is Status.CATCHING_UP or process.status() is Status.LIVE)
        lab.publish(("a", Added(2)))
        await lab.until(lambda: lab.source.given == lab.head)
        await asyncio.sleep(0.005)
        assert lab.position() == 1
        await process.stop()
        assert lab.position() == 2
        await lab.check_totals()


@pytest.mark.parametrize("way", ["stop", "cancel"])
async def test_a_database_that_is_away_does_not_keep_it_from_ending(way: str) -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals, grace=0.02)
        await lab.stands(Status.LIVE)
        lab.store.away = True
        lab.publish(("a", Added(2)))
        await lab.until(lambda: any(one.what == "commit" for one in told(Retrying, process.told)))
        if way == "stop":
            await process.stop()
        else:
            process.task.cancel()
            await asyncio.gather(process.task, return_exceptions=True)
        assert [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("refold")] == []


async def test_a_database_that_is_away_is_waited_out() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.store.away = True
        lab.publish(("a", Added(2)))
        await lab.until(lambda: process.status() is Status.DEGRADED)
        lab.store.away = False
        await lab.reach()
        await lab.stands(Status.LIVE)
        await lab.check_totals()
        assert process.states()[-2:] == ["degraded", "live"]


async def test_a_rebuild_is_ended_too() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.source.gate = asyncio.Event()
        process = lab.start(Totals)
        await lab.until(lambda: process.status() is Status.REBUILDING)
        await process.stop()
        assert await lab.store.generations("t") == []
        lab.source.gate.set()
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        process = lab.processes[-1]
        lab.source.gate = asyncio.Event()
        await lab.store.order("t", "totals", Wanted.REBUILD)
        await lab.stands(Status.REBUILDING)
        await process.stop()
        assert lab.checkpoint().wanted is Wanted.REBUILD
        assert len(await lab.store.generations("t")) == 1


# -- Memory --------------------------------------------------------------------------------------------------------------


def test_the_cache_is_bounded() -> None:
    cache: TouchedCache[Total] = TouchedCache(ViewSchema.of(Total), 10)
    for i in range(1_000):
        cache.put(f"k{i}", Total(f"k{i}"))
        if i % 3 == 0:
            cache.settle()
            assert len(cache) <= 2 * 10 + 6
    cache.settle()
    assert cache.recall("k999") is not None
    assert cache.recall("k1") is None


def test_a_view_that_is_false_stays_in_the_cache() -> None:
    class Empty(Total):
        def __bool__(self) -> bool:
            return False

    cache: TouchedCache[Empty] = TouchedCache(ViewSchema.of(Empty), 10)
    view = Empty("k")
    cache.put("k", view)
    cache.settle()
    assert cache.recall("k") is view


def test_versions_are_forgotten_in_time() -> None:
    seen = SeenLog()
    for i in range(100):
        seen["t", f"a{i}"] = 1
        seen.settle(10)
        assert len(seen) <= 11
        assert not seen.before


async def test_a_batch_ends_when_it_has_touched_as_many_views_as_are_kept() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await process.stop()
        lab.store.commits.clear()
        lab.publish(*[(f"k{i}", Added(1)) for i in range(300)])
        lab.start(Totals, limits=LiveLimits(hot_views=30, behind=-1, batch_seconds=60.0, idle_seconds=60.0))
        await lab.reach(position=290)
        assert max(len(change["totals"].rows) for change, _, _ in lab.store.commits if change) <= 33


async def test_nothing_grows_from_batch_to_batch() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals, ByTag, limits=LiveLimits(hot_views=20))
        await lab.stands(Status.LIVE)

        async def some() -> int:
            for i in range(100):
                lab.publish((f"k{i}", Added(1, ["t"])))
                await lab.reach("totals", "by_tag")
            lab.store.commits.clear()
            lab.processes[0].told.clear()
            gc.collect()
            return sum(isinstance(one, (Total, asyncio.Task)) for one in gc.get_objects())

        first = await some()
        for _ in range(3):
            last = await some()
        assert last <= first + 10


async def test_a_batch_holds_so_many_bytes_of_messages() -> None:
    async with Lab(("a", Added(1)), batch=1) as lab:
        process = lab.start(Totals, limits=LiveLimits(batch_bytes=1_000, behind=0, batch_seconds=60.0))
        await lab.reach()
        lab.publish(*[("a", Noted("x" * 400)) for _ in range(20)])
        await lab.reach()
        assert max(batch.events for batch in process.batches()) <= 3
        await lab.check_totals()
