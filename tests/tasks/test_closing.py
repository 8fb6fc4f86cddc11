"""Closing a scheduler: nothing new, what runs may end, and everybody is told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from tasks_support import ManualClock, Works, closed, settle
from test_cancelling import SlowStore, Stubborn

from refold.tasks import (
    ConcurrentScheduler,
    Every,
    HybridScheduler,
    LaneScheduler,
    Run,
    SchedulerClosed,
    SequentialScheduler,
    Task,
    TaskInfo,
    TaskStatus,
)

Started = Callable[..., Any]
STATUS = TaskStatus


@pytest.fixture(params=[SequentialScheduler, ConcurrentScheduler, HybridScheduler])
def kind(request: pytest.FixtureRequest) -> type[LaneScheduler]:
    return request.param


async def test_what_runs_may_end_until_the_deadline(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("runs"))
    await scheduler.schedule(works.task("queued", schedule=Every(1)))
    await clock.advance(0)
    closing = asyncio.ensure_future(scheduler.close(10))
    await clock.advance(0)
    info = await scheduler.status("queued")
    assert info.status is STATUS.CANCELLED
    for refused in (scheduler.schedule(works.task("late")), scheduler.start()):
        with pytest.raises(SchedulerClosed, match="takes no more tasks"):
            await refused
    await clock.advance(9)
    assert list(works.running) == ["runs"]
    assert not closing.done()
    await works.end("runs")
    await closing
    assert [(what, info.id, info.status) for what, info in works.told] == [
        ("cancel", "queued", STATUS.CANCELLED),
        ("complete", "runs", STATUS.COMPLETED),
    ]
    await scheduler.close()  # once more changes nothing
    assert clock.alarms == 0


async def test_past_the_deadline_they_are_cancelled_and_told(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("runs"))
    await settle()
    closings = [asyncio.ensure_future(scheduler.close(10)) for _ in range(2)]
    await clock.advance(10)
    for closing in closings:
        await closing
    assert works.ended == [("runs", "cancelled")]
    assert works.told == [("cancel", await scheduler.status("runs"))]


async def test_who_does_not_end_is_left_behind(
    started: Started, kind: Any, works: Works, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn = Stubborn()
    scheduler = await started(kind, grace=5.0)
    await scheduler.schedule(works.task("t", work=stubborn))
    await settle()
    closing = asyncio.ensure_future(scheduler.close(10))
    await clock.advance(14)
    assert not closing.done()
    await clock.advance(1)
    await closing
    info = await scheduler.status("t")
    assert (info.status, info.abandoned, info.over) == (STATUS.CANCELLED, True, True)
    assert works.told == [("cancel", info)]
    assert "closed though a task did not end" in caplog.text
    stubborn.release.set()
    await settle()
    assert await scheduler.status("t") == info, "whatever it does now does not count"
    assert len(works.told) == 1


async def test_who_was_abandoned_before_is_not_waited_for(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    stubborn = Stubborn()
    scheduler = await started(kind, grace=5.0)
    await scheduler.schedule(works.task("t", work=stubborn, timeout=1.0))
    await clock.advance(6)
    await scheduler.close(60)
    assert (await scheduler.status("t")).abandoned
    stubborn.release.set()
    await settle()


async def test_what_would_be_retried_or_repeated_is_cancelled(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    for schedule, error, what in ((Every(1), None, ["complete", "cancel"]), (Every(1), ValueError("no"), ["cancel"])):
        works.told.clear()
        scheduler = await started(kind)
        await scheduler.schedule(works.task("t", schedule=schedule))
        await clock.advance(1)
        closing = asyncio.ensure_future(scheduler.close(10))
        await settle()
        await works.end("t", error)
        await closing
        assert [told for told, _ in works.told] == what
        info = await scheduler.status("t")
        assert (info.status, info.over, info.next_retry_at) == (STATUS.CANCELLED, True, None)


async def test_callbacks_are_awaited_side_by_side_but_not_for_ever(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    told: list[str] = []

    async def slow(info: TaskInfo) -> None:
        told.append(info.id)
        await asyncio.Event().wait()

    scheduler = await started(kind, grace=5.0)
    for number in range(100):
        await scheduler.schedule(works.task(str(number), schedule=Every(60), on_cancel=slow))
    closing = asyncio.ensure_future(scheduler.close())
    await settle()
    assert len(told) == 100
    await clock.advance(5)
    await closing


async def test_a_store_that_hangs_does_not_stop_it(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    store = SlowStore(clock)
    scheduler = await started(kind, store=store, grace=5.0)
    await scheduler.schedule(works.task("t"))
    await settle()
    store.gate.clear()
    await works.end("t")
    closing = asyncio.ensure_future(scheduler.close(10))
    await clock.advance(21)
    store.gate.set()
    await settle()
    await closing


async def test_async_with_starts_and_closes(kind: Any, works: Works, clock: ManualClock) -> None:
    async with kind(clock=clock) as scheduler:
        await scheduler.schedule(works.task("t"))
        await settle()
        await works.end("t")
    with pytest.raises(SchedulerClosed):
        await scheduler.schedule(works.task("u"))


async def test_closing_may_be_given_up_and_goes_on(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("t"))
    await settle()
    closing = asyncio.ensure_future(scheduler.close(10))
    await settle()
    closing.cancel()
    await settle()
    assert list(works.running) == ["t"]
    await closed(scheduler, clock, 0)
    assert works.ended == [("t", "cancelled")]


async def test_a_scheduler_that_was_never_started_closes(kind: Any, works: Works, clock: ManualClock) -> None:
    scheduler = kind(clock=clock)
    await scheduler.schedule(works.task("t"))
    await scheduler.close()
    assert (await scheduler.status("t")).status is STATUS.CANCELLED


def test_a_loop_that_shuts_down_cancels_tasks_and_they_are_told(works: Works) -> None:
    """`asyncio.run` cancels every asyncio task in the end: nothing may hang, or be lost in silence."""

    async def main() -> None:
        scheduler = ConcurrentScheduler()
        await scheduler.start()
        await scheduler.schedule(works.task("t", schedule=Every(3600)))
        await scheduler.schedule(works.task("runs", max_retries=9))
        await settle()

    asyncio.run(main())
    assert [(what, info.id) for what, info in works.told] == [("cancel", "runs")]


def test_ctrl_c_in_a_task_ends_the_program() -> None:
    program = """
    import asyncio, os, signal
    from refold.tasks import ConcurrentScheduler, Task

    async def work(run):
        print("working", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("cleaning up", flush=True)

    async def main():
        async with ConcurrentScheduler(deadline=0) as scheduler:
            await scheduler.schedule(Task("t", work, on_cancel=lambda info: print(info.status.value, flush=True)))
            await asyncio.Event().wait()

    asyncio.run(main())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output.splitlines() == ["cleaning up", "cancelled"]
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


async def test_work_may_close_its_scheduler(started: Started, works: Works, clock: ManualClock) -> None:
    async def work(run: Run) -> None:
        await scheduler.close(5)

    scheduler = await started()
    await scheduler.schedule(works.task("t", work=work))
    await clock.advance(5)
    assert (await scheduler.status("t")).status is STATUS.CANCELLED
    with pytest.raises(SchedulerClosed):
        await scheduler.schedule(Task("u", works.work))
