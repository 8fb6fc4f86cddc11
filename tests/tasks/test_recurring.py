"""Recurring tasks: never twice at once, and what was missed is merged and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tasks_support import START, ManualClock, Works, settle

from refold.tasks import (
    ConcurrentScheduler,
    Cron,
    Every,
    HybridScheduler,
    MemoryTaskStore,
    SequentialScheduler,
    TaskInfo,
    TaskStatus,
)

Started = Callable[..., Any]
STATUS = TaskStatus


def seconds(info: TaskInfo) -> float:
    """Its due time, since the start."""
    return (info.due_at - START).total_seconds()


@pytest.fixture(params=[SequentialScheduler, ConcurrentScheduler, HybridScheduler])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_it_runs_at_every_due_time_and_waits_between(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("t", schedule=Every(10)))
    for number in (1, 2, 3):
        await clock.advance(9)
        info = await scheduler.status("t")
        assert (info.status, seconds(info), info.completed) == (STATUS.WAITING, 10 * number, number - 1)
        assert (info.over, works.running) == (False, {})
        await clock.advance(1)
        await works.end("t")
    assert [run.run_id[-16:] for run in works.runs] == ["12:00:10.000000Z", "12:00:20.000000Z", "12:00:30.000000Z"]
    told = [(what, info.status, seconds(info), info.completed) for what, info in works.told]
    assert told == [("complete", STATUS.COMPLETED, 10.0 * n, n) for n in (1, 2, 3)]


async def test_it_never_overlaps_itself_and_what_passes_meanwhile_becomes_one_run(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("t", schedule=Every(10)))
    await clock.advance(10)
    await clock.advance(35)  # 20, 30 and 40 pass
    assert works.begun == [("t", 1)]
    await works.end("t")
    info = await scheduler.status("t")
    assert (info.status, seconds(info), info.misfires) == (STATUS.RUNNING, 40, 2)
    await works.end("t")
    info = await scheduler.status("t")
    assert (info.status, seconds(info), info.misfires, info.completed) == (STATUS.WAITING, 50, 2, 2)


async def test_what_passes_in_a_queue_or_before_the_start_is_merged_too(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = kind(clock=clock, blocked_after=None)
    await scheduler.schedule(works.task("t", schedule=Cron("*/10 * * * *")))
    await clock.advance(3605)  # 10, 20, 30, 40, 50, 60
    await scheduler.start()
    await settle()
    info = await scheduler.status("t")
    assert (info.status, seconds(info), info.misfires) == (STATUS.RUNNING, 3600, 5)
    await works.end("t")
    await scheduler.close()


async def test_every_due_time_has_one_outcome_retries_included(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("t", schedule=Every(15), max_retries=2))
    await clock.advance(15)
    await works.end("t", ValueError("one"))
    await clock.advance(10)
    info = await scheduler.status("t")
    assert (seconds(info), info.attempt) == (15, 2)
    await works.end("t", ValueError("two"))
    await clock.advance(20)  # meanwhile 30 and 45 come
    await works.end("t", ValueError("three"))
    info = await scheduler.status("t")
    assert (seconds(info), info.attempt, info.failed, info.misfires) == (45, 1, 1, 1)
    await works.end("t")
    info = await scheduler.status("t")
    assert (seconds(info), info.status, info.completed, info.failed) == (60, STATUS.WAITING, 1, 1)
    assert [(info.status, seconds(info)) for _, info in works.told] == [
        (STATUS.DEAD_LETTER, 15),
        (STATUS.COMPLETED, 45),
    ]
    assert info.last_error == "ValueError: three"


async def test_others_may_run_between(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started(limit=1)
    await scheduler.schedule(works.task("often", schedule=Every(1)))
    await clock.advance(1)
    await scheduler.schedule(works.task("other"))
    await clock.advance(10)
    await works.end("often")
    assert list(works.running) == ["other"], "the next run, which is due, waits its turn"
    await works.end("other")
    assert list(works.running) == ["often"]


async def test_it_is_over_when_it_is_cancelled(started: Started, kind: Any, works: Works, clock: ManualClock) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("t", schedule=Every(10)))
    waiting = asyncio.ensure_future(scheduler.wait("t"))
    await clock.advance(10)
    await works.end("t")
    assert not waiting.done()
    await scheduler.cancel("t")
    info = await waiting
    assert (info.status, info.over, info.completed) == (STATUS.CANCELLED, True, 1)
    await clock.advance(100)
    assert works.order == ["t"]


async def test_a_store_is_told_each_outcome_before_the_task_waits_again(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    class Recorded(MemoryTaskStore):
        saved: list[tuple[str, float]] = []

        async def save(self, info: TaskInfo) -> None:
            self.saved.append((info.status.value, seconds(info)))
            await super().save(info)

    scheduler = await started(kind, store=Recorded(clock))
    await scheduler.schedule(works.task("t", schedule=Every(10), max_retries=1))
    await clock.advance(10)
    await works.end("t", ValueError())
    await clock.advance(10)
    await works.end("t")
    assert Recorded.saved == [
        ("waiting", 10),
        ("running", 10),
        ("retrying", 10),
        ("running", 10),
        ("completed", 10),
        ("waiting", 20),
        ("running", 20),
    ]
    assert timedelta(seconds=10) == works.runs[-1].due_at - works.runs[0].due_at


async def test_a_schedule_at_fault_ends_its_task_and_nothing_else(
    started: Started, kind: Any, works: Works, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Every):
        def after(self, due: Any) -> Any:
            raise ZeroDivisionError("a schedule's")

    scheduler = await started(kind)
    await scheduler.schedule(works.task("t", schedule=Faulty(10)))
    await scheduler.schedule(works.task("u", schedule=Every(11)))
    await clock.advance(10)
    await works.end("t")
    info = await scheduler.status("t")
    assert (info.status, info.last_error, info.over) == (STATUS.FAILED, "ZeroDivisionError: a schedule's", True)
    assert "cannot go on" in caplog.text
    await clock.advance(1)
    assert list(works.running) == ["u"]
