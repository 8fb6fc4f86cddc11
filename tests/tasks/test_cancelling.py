"""Cancelling tasks: those that wait, those that run, and those that will not have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tasks_support import ManualClock, Works, settle

from refold.tasks import (
    ConcurrentScheduler,
    Every,
    HealthStatus,
    MemoryTaskStore,
    Run,
    SequentialScheduler,
    TaskInfo,
    TaskNotFound,
    TaskStatus,
)

Started = Callable[..., Any]
STATUS = TaskStatus


class Stubborn:
    """Work that takes no cancellation for an answer."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.asked = 0
        self.ends = 0

    async def __call__(self, run: Run) -> None:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.asked += 1
        self.ends += 1


async def test_cancelling_a_task_that_waits(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started(limit=1)
    await scheduler.schedule(works.task("runs"))
    await scheduler.schedule(works.task("queued"))
    await scheduler.schedule(works.task("timed", schedule=Every(60)))
    await scheduler.schedule(works.task("retrying"))
    await settle()
    await works.end("runs")
    await works.end("queued")
    await works.end("retrying", ValueError("no"))
    await scheduler.schedule(works.task("runs"))
    await scheduler.schedule(works.task("queued"))
    await settle()
    works.told.clear()
    for name in ("queued", "timed", "retrying"):
        info = await scheduler.cancel(name)
        assert (info.status, info.finished_at, info.next_retry_at) == (STATUS.CANCELLED, clock.now(), None)
        assert info.over
        assert works.told.pop() == ("cancel", info)
        assert await scheduler.cancel(name) == info, "once more changes nothing"
    await works.end("runs")
    await clock.advance(1000)
    assert works.order == ["runs", "queued", "retrying", "runs"]
    assert [what for what, _ in works.told] == ["complete"]
    with pytest.raises(TaskNotFound):
        await scheduler.cancel("nobody")


async def test_cancelling_a_task_that_runs_waits_until_it_has_ended(started: Started, works: Works) -> None:
    cleaned = asyncio.Event()

    async def work(run: Run) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
            raise RuntimeError("while cleaning up")

    scheduler = await started(limit=1)
    await scheduler.schedule(works.task("t", work=work))
    await scheduler.schedule(works.task("next"))
    await settle()
    cancelling = [asyncio.ensure_future(scheduler.cancel("t")) for _ in range(3)]
    await settle()
    cancelling[2].cancel()  # who asks may go away
    await settle()
    assert not works.told
    assert not works.order
    cleaned.set()
    info = await cancelling[0]
    assert info == await cancelling[1]
    assert (info.status, info.last_error) == (STATUS.CANCELLED, "RuntimeError: while cleaning up")
    assert works.told == [("cancel", info)]
    await settle()
    assert works.order == ["next"]


async def test_what_cancelled_work_returns_does_not_count(started: Started, works: Works) -> None:
    async def work(run: Run) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    scheduler = await started()
    await scheduler.schedule(works.task("t", work=work))
    await settle()
    assert (await scheduler.cancel("t")).status is STATUS.CANCELLED


async def test_a_task_that_cancels_itself_is_not_waited_for(started: Started, works: Works) -> None:
    async def work(run: Run) -> None:
        await scheduler.cancel(run.task_id)
        if run.type == "returns":
            return
        await asyncio.Event().wait()

    scheduler = await started()
    for kind in ("returns", "waits"):
        await scheduler.schedule(works.task(kind, kind, work=work))
    await settle()
    for kind in ("returns", "waits"):
        assert (await scheduler.status(kind)).status is STATUS.CANCELLED
    assert [what for what, _ in works.told] == ["cancel", "cancel"]


async def test_a_recurring_task_may_be_cancelled_by_its_own_callback(
    started: Started, works: Works, clock: ManualClock
) -> None:
    async def enough(info: TaskInfo) -> None:
        if info.completed == 2:
            told.append(await scheduler.cancel(info.id))

    told: list[TaskInfo] = []
    scheduler = await started()
    await scheduler.schedule(works.task("t", schedule=Every(10), on_complete=enough))
    for _ in range(2):
        await clock.advance(10)
        await works.end("t")
    info = await scheduler.status("t")
    assert [info.completed for info in told] == [2], "it was not waited for"
    assert (info.status, info.completed) == (STATUS.CANCELLED, 2)
    assert [what for what, _ in works.told] == ["cancel"]


async def test_cancelling_before_the_first_turn(started: Started, works: Works) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t"))  # its attempt is about to begin
    info = await scheduler.cancel("t")
    assert (info.status, works.order) == (STATUS.CANCELLED, [])


async def test_who_swallows_cancellation_is_abandoned_keeps_its_slot_and_is_listed(
    started: Started, works: Works, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn = Stubborn()
    scheduler = await started(limit=2, grace=5.0)
    for name, work in (("stubborn", stubborn), ("a", works.work), ("b", works.work)):
        await scheduler.schedule(works.task(name, work=work))
    await settle()
    cancelling = asyncio.ensure_future(scheduler.cancel("stubborn"))
    await clock.advance(4.9)
    assert not cancelling.done()
    assert scheduler.health.status is HealthStatus.GREEN
    await clock.advance(0.1)
    info = await cancelling
    assert (info.status, info.abandoned) == (STATUS.RUNNING, True)
    assert "abandoned" in caplog.text
    assert [info.id for info in await scheduler.list() if info.abandoned] == ["stubborn"]
    health = scheduler.health
    assert (health.status, [i.id for i in health.abandoned]) == (HealthStatus.YELLOW, ["stubborn"])
    assert health.reasons == ("task 'stubborn' (work) was cancelled and does not end",)
    await works.end("a")
    assert set(works.running) == {"b"}, "it keeps its slot"
    scheduler.limit = 1
    assert scheduler.health.status is HealthStatus.RED
    assert scheduler.health.reasons[0] == "tasks that do not end hold all slots"
    scheduler.limit = 2
    again = await scheduler.cancel("stubborn")  # asks once more, and does not wait
    await settle()
    assert (again.abandoned, stubborn.asked) == (True, 2)

    stubborn.release.set()
    await settle()
    info = await scheduler.status("stubborn")
    assert (info.status, info.abandoned) == (STATUS.CANCELLED, False)
    assert scheduler.health.status is HealthStatus.GREEN
    assert [what for what, _ in works.told] == ["complete", "cancel"]


async def test_who_swallows_a_timeout_is_abandoned_and_retried_only_when_it_has_ended(
    started: Started, works: Works, clock: ManualClock
) -> None:
    stubborn = Stubborn()
    scheduler = await started(SequentialScheduler, grace=5.0)
    await scheduler.schedule(works.task("t", work=stubborn, timeout=1.0, schedule=Every(100)))
    await scheduler.schedule(works.task("next", schedule=Every(101)))
    await clock.advance(100)
    await clock.advance(250)
    info = await scheduler.status("t")
    assert (info.status, info.abandoned, info.attempt, stubborn.asked) == (STATUS.RUNNING, True, 1, 1)
    assert (works.order, scheduler.health.status) == ([], HealthStatus.RED)
    stubborn.release.set()
    await settle()
    info = await scheduler.status("t")
    assert (info.status, info.abandoned) == (STATUS.RETRYING, False)
    assert works.order == ["next"]
    await works.end("next")
    await clock.advance(10)
    info = await scheduler.status("t")
    assert (info.completed, info.misfires, stubborn.ends) == (2, 1, 3), "for 100 s, and for 300 s with 200 s"


async def test_a_cancellation_after_a_timeout_makes_it_cancelled(
    started: Started, works: Works, clock: ManualClock
) -> None:
    stubborn = Stubborn()
    scheduler = await started(grace=5.0)
    await scheduler.schedule(works.task("t", work=stubborn, timeout=1.0))
    await clock.advance(2)
    cancelling = asyncio.ensure_future(scheduler.cancel("t"))
    await settle()
    assert stubborn.asked == 1, "who puts things in order is not disturbed"
    stubborn.release.set()
    assert (await cancelling).status is STATUS.CANCELLED


class SlowStore(MemoryTaskStore):
    """A store that takes its time, as a database does."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.saved: list[tuple[str, str]] = []
        self.refuse = ""

    async def save(self, info: TaskInfo) -> None:
        await self.gate.wait()
        if info.status.value == self.refuse:
            raise ConnectionError("the database is away")
        self.saved.append((info.id, info.status.value))
        await super().save(info)


async def test_cancelling_while_a_change_is_being_saved(started: Started, works: Works, clock: ManualClock) -> None:
    store = SlowStore(clock)
    scheduler = await started(store=store)
    for moment in ("scheduled", "begun", "ended", "failed", "repeated"):
        store.gate.set()
        scheduling = scheduler.schedule(works.task(moment, schedule=Every(5) if moment == "repeated" else Every(1)))
        if moment == "scheduled":
            store.gate.clear()
            scheduled = asyncio.ensure_future(scheduling)
            await settle()
        else:
            await scheduling
            if moment == "begun":
                store.gate.clear()
            await clock.advance(5 if moment == "repeated" else 1)
            if moment in ("ended", "failed", "repeated"):
                store.gate.clear()
                await works.end(moment, ValueError("no") if moment == "failed" else None)
        cancelling = asyncio.ensure_future(scheduler.cancel(moment))
        await settle()
        assert not cancelling.done()
        store.gate.set()
        info = await cancelling
        assert info.status is STATUS.CANCELLED, moment
        assert (moment in works.order) == (moment not in ("scheduled", "begun"))
        assert store.saved[-1] == (moment, "cancelled")
        if moment in ("ended", "repeated"):
            assert store.saved[-2] == (moment, "completed"), "it does not wait for its next due time in between"
    assert (await scheduled).status is STATUS.CANCELLED


async def test_a_cancellation_reaches_the_work_alone(started: Started, works: Works, clock: ManualClock) -> None:
    class Suspending(SlowStore):
        async def save(self, info: TaskInfo) -> None:
            runner = asyncio.current_task()
            assert runner is not None
            assert not runner.cancelling()
            await asyncio.sleep(0)
            await super().save(info)

    async def returns_at_once(run: Run) -> None:
        await scheduler.cancel(run.task_id)

    store = Suspending(clock)
    scheduler = await started(store=store)
    await scheduler.schedule(works.task("itself", work=returns_at_once))
    await scheduler.schedule(works.task("late", timeout=1.0, max_retries=0))
    await scheduler.schedule(works.task("other"))
    await clock.advance(1)
    await scheduler.cancel("other")
    ended = [(id, status) for id, status in store.saved if status not in ("waiting", "running")]
    assert ended == [("itself", "cancelled"), ("late", "failed"), ("other", "cancelled")]
    assert [what for what, _ in works.told] == ["cancel", "complete", "cancel"]
    assert [(await scheduler.status(id)).status.value for id, _ in ended] == ["cancelled", "failed", "cancelled"]


async def test_a_store_that_fails(
    started: Started, works: Works, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = SlowStore(clock)
    scheduler = await started(ConcurrentScheduler, store=store, capacity=1)
    store.refuse = "waiting"
    with pytest.raises(ConnectionError):
        await scheduler.schedule(works.task("t"))
    store.refuse = "running"
    await scheduler.schedule(works.task("t"))  # there is room: the other one was not taken
    await settle()
    info = await scheduler.status("t")
    assert (info.status, info.last_error) == (STATUS.RETRYING, "ConnectionError: the database is away")
    assert not works.order
    store.refuse = "completed"
    await clock.advance(10)
    await works.end("t")
    assert [what for what, _ in works.told] == ["complete"]
    assert "could not be recorded" in caplog.text
    store.refuse = ""
    await scheduler.schedule(works.task("u"))


async def test_whoever_schedules_may_go_away_while_it_is_saved(
    started: Started, works: Works, clock: ManualClock
) -> None:
    store = SlowStore(clock)
    scheduler = await started(store=store, capacity=1)
    store.gate.clear()
    scheduling = asyncio.ensure_future(scheduler.schedule(works.task("t")))
    await settle()
    scheduling.cancel()
    await settle()
    store.gate.set()
    await scheduler.schedule(works.task("t"))
    await settle()
    assert works.order == ["t"]
