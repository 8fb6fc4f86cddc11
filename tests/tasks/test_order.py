"""Who runs when: one after another, several at once, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tasks_support import START, ManualClock, Works, settle

from refold.errors import ConfigurationError, SchedulerFull, TaskExists
from refold.tasks import At, ConcurrentScheduler, Every, HybridScheduler, SequentialScheduler

Started = Callable[..., Any]


def at(seconds: float) -> At:
    return At(START + timedelta(seconds=seconds))


# -- Sequential ------------------------------------------------------------------------------------------------------


async def test_sequential_tasks_run_one_after_another_in_order_of_due_time(
    started: Started, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(SequentialScheduler)
    await scheduler.schedule(works.task("first"))
    for name, seconds in (("late", 30), ("early", 10), ("past", -5), ("middle", 20)):
        await scheduler.schedule(works.task(name, schedule=at(seconds)))
    await clock.advance(60)
    for expected in ("first", "past", "early", "middle", "late"):
        assert list(works.running) == [expected]
        await works.end(expected)
    assert works.most == 1


async def test_priority_decides_among_equal_due_times_only(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started(SequentialScheduler)
    await scheduler.schedule(works.task("running"))
    await scheduler.schedule(works.task("earlier", schedule=at(9)))
    for name, priority in (("low", 0), ("low too", 0), ("high", 5)):
        await scheduler.schedule(works.task(name, schedule=at(10), priority=priority))
    await clock.advance(10)
    for name in ("running", "earlier", "high", "low", "low too"):
        await works.end(name)
    assert works.order == ["running", "earlier", "high", "low", "low too"]


async def test_a_sequential_retry_takes_its_place_by_its_own_due_time(
    started: Started, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(SequentialScheduler)
    await scheduler.schedule(works.task("fails"))
    await scheduler.schedule(works.task("before", schedule=at(9)))
    await scheduler.schedule(works.task("after", schedule=at(11)))
    await settle()
    await works.end("fails", ValueError("no"))  # its retry is due at 10 s
    await clock.advance(9)
    await clock.advance(5)  # `before` still runs, and both others are due
    await works.end("before")
    await works.end("fails")
    await works.end("after")
    assert works.begun == [("fails", 1), ("before", 1), ("fails", 2), ("after", 1)]


# -- Concurrent ------------------------------------------------------------------------------------------------------


async def test_at_most_so_many_run_at_once_and_the_next_one_follows_at_once(started: Started, works: Works) -> None:
    scheduler = await started(ConcurrentScheduler, limit=3)
    for number in range(7):
        await scheduler.schedule(works.task(f"t{number}"))
    await settle()
    assert set(works.running) == {"t0", "t1", "t2"}
    await works.end("t1")
    assert set(works.running) == {"t0", "t2", "t3"}
    for name in ("t0", "t2", "t3", "t4", "t5", "t6"):
        await works.end(name)
    assert (works.order, works.most) == ([f"t{n}" for n in range(7)], 3)


async def test_waiting_for_a_slot_sets_no_timer(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started(ConcurrentScheduler, limit=1)
    for number in range(100):
        await scheduler.schedule(works.task(f"t{number}"))
    await settle()
    assert clock.set == 0
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("refold")]
    assert len(tasks) == 1, "a waiting task has no asyncio task"


async def test_the_limit_can_be_changed_while_tasks_run(started: Started, works: Works) -> None:
    scheduler = await started(ConcurrentScheduler, limit=1)
    for number in range(6):
        await scheduler.schedule(works.task(f"t{number}"))
    await settle()
    assert len(works.running) == 1
    scheduler.limit = 4
    await settle()
    assert (scheduler.limit, set(works.running)) == (4, {"t0", "t1", "t2", "t3"})
    scheduler.limit = 2
    await works.end("t0")
    await works.end("t1")
    assert set(works.running) == {"t2", "t3"}, "those that ran went on, and no other began"
    await works.end("t2")
    assert set(works.running) == {"t3", "t4"}
    with pytest.raises(ConfigurationError, match="at least 1"):
        scheduler.limit = 0
    assert scheduler.limit == 2


async def test_a_higher_priority_goes_first_but_nobody_waits_for_ever(
    started: Started, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(ConcurrentScheduler, limit=1)
    for name, priority in (("running", 0), ("low", 0), ("high", 2)):
        await scheduler.schedule(works.task(name, priority=priority))
    await clock.advance(15)
    await scheduler.schedule(works.task("high later", priority=2))  # worth 20 s of waiting
    await clock.advance(10)
    await scheduler.schedule(works.task("too late", priority=2))
    for name in ("running", "high", "high later", "low", "too late"):
        await works.end(name)
    assert works.order == ["running", "high", "high later", "low", "too late"]


async def test_a_due_time_in_the_past_jumps_no_queue(started: Started, works: Works) -> None:
    scheduler = await started(ConcurrentScheduler, limit=1)
    await scheduler.schedule(works.task("running"))
    await scheduler.schedule(works.task("waiting"))
    await scheduler.schedule(works.task("yesterday", schedule=at(-86_400)))
    await settle()
    for name in ("running", "waiting", "yesterday"):
        await works.end(name)
    assert works.order == ["running", "waiting", "yesterday"]


async def test_a_retry_queues_up_behind_those_that_wait(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started(ConcurrentScheduler, limit=1)
    await scheduler.schedule(works.task("fails"))
    await scheduler.schedule(works.task("second"))
    await settle()
    await works.end("fails", ValueError("no"))
    await clock.advance(5)
    await scheduler.schedule(works.task("third"))
    await clock.advance(6)
    await scheduler.schedule(works.task("fourth"))
    for name in ("second", "third", "fails", "fourth"):
        await works.end(name)
    assert works.begun == [("fails", 1), ("second", 1), ("third", 1), ("fails", 2), ("fourth", 1)]


# -- Hybrid ----------------------------------------------------------------------------------------------------------


async def test_hybrid_runs_timed_and_recurring_tasks_in_order_and_others_beside_them(
    started: Started, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(HybridScheduler, limit=2)
    await scheduler.schedule(works.task("timed", schedule=at(1)))
    await scheduler.schedule(works.task("recurring", schedule=Every(1.5)))
    await clock.advance(2)
    for number in range(3):
        await scheduler.schedule(works.task(f"now {number}"))
    await settle()
    assert set(works.running) == {"timed", "now 0", "now 1"}
    await works.end("timed")
    assert set(works.running) == {"recurring", "now 0", "now 1"}
    scheduler.limit = 3
    await settle()
    assert "now 2" in works.running
    assert scheduler.limit == 3


async def test_hybrid_routes_go_by_type_before_schedule(started: Started, works: Works, clock: ManualClock) -> None:
    routes = {"report": "concurrent", "import": "sequential"}
    scheduler = await started(HybridScheduler, limit=5, routes=routes)
    for number in range(2):
        await scheduler.schedule(works.task(f"report {number}", "report", schedule=at(1)))
        await scheduler.schedule(works.task(f"import {number}", "import"))
    await clock.advance(1)
    assert set(works.running) == {"report 0", "report 1", "import 0"}
    assert scheduler.way(works.task("x", "import")) == "sequential"
    assert scheduler.way(works.task("x", "other")) == "concurrent"


def test_a_route_that_is_no_way_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'sequential' or 'concurrent'"):
        HybridScheduler(routes={"report": "parallel"})  # type: ignore[dict-item]


async def test_one_id_and_one_capacity_for_both_ways(started: Started, works: Works) -> None:
    scheduler = await started(HybridScheduler, capacity=2)
    await scheduler.schedule(works.task("a"))
    await scheduler.schedule(works.task("b", schedule=at(5)))
    with pytest.raises(SchedulerFull):
        await scheduler.schedule(works.task("c"))
    await scheduler.cancel("b")
    with pytest.raises(TaskExists):
        await scheduler.schedule(works.task("a", schedule=at(5)))
    assert [info.id for info in await scheduler.list()] == ["a", "b"]
