"""What all schedulers do alike: taking tasks, telling of them, remembering them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tasks_support import START, STEADY, ManualClock, Works, settle

from refold.errors import ConfigurationError
from refold.tasks import (
    At,
    ConcurrentScheduler,
    Every,
    HealthStatus,
    HybridScheduler,
    LaneScheduler,
    MemoryTaskStore,
    Run,
    SchedulerFull,
    SequentialScheduler,
    Task,
    TaskExists,
    TaskInfo,
    TaskNotFound,
    TaskProgress,
    TaskStatus,
)

Started = Callable[..., Any]
STATUS = TaskStatus


@pytest.fixture(params=[SequentialScheduler, ConcurrentScheduler, HybridScheduler])
def kind(request: pytest.FixtureRequest) -> type[LaneScheduler]:
    return request.param


async def test_a_task_from_scheduling_to_being_forgotten(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    task = works.task("t", "report", schedule=At(START + timedelta(seconds=5)), priority=3)
    info = await scheduler.schedule(task)
    assert info == TaskInfo(
        id="t",
        type="report",
        schedule=task.schedule,
        priority=3,
        status=STATUS.WAITING,
        created_at=START,
        due_at=START + timedelta(seconds=5),
    )
    await clock.advance(5)
    running = await scheduler.status("t")
    assert (running.status, running.attempt, running.started_at) == (STATUS.RUNNING, 1, START + timedelta(seconds=5))
    await clock.advance(2)
    await works.end("t")
    done = await scheduler.status("t")
    assert (done.status, done.finished_at) == (STATUS.COMPLETED, START + timedelta(seconds=7))
    assert done.expires_at == START + timedelta(seconds=7, minutes=5)
    assert (done.completed, done.failed, done.last_error, done.over) == (1, 0, None, True)
    assert works.told == [("complete", done)]
    await clock.advance(299)
    assert await scheduler.list() == [done]
    await clock.advance(1)
    assert await scheduler.list() == []
    with pytest.raises(TaskNotFound, match="'t' is not known"):
        await scheduler.status("t")


async def test_the_work_sees_its_run_and_tells_its_progress(
    started: Started, kind: Any, works: Works, clock: ManualClock
) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("t", "import"))
    await clock.advance(0)
    (run,) = works.runs
    assert (run.task_id, run.type, run.attempt, run.due_at) == ("t", "import", 1, START)
    assert run.run_id == "t@2026-03-01T12:00:00.000000Z" == (await scheduler.status("t")).run_id
    run.progress(3, 12, "reading")
    info = await scheduler.status("t")
    assert info.progress == TaskProgress(3, 12, "reading")
    assert info.progress.fraction == 0.25
    run.progress(7)
    info = await scheduler.status("t")
    assert (info.progress, info.progress.fraction) == (TaskProgress(7), None)
    await works.end("t", ValueError("no"))
    run.progress(9)
    await clock.advance(10)
    run.progress(9)  # of the attempt before
    assert (await scheduler.status("t")).progress is None


async def test_tasks_wait_for_the_start(kind: Any, works: Works, clock: ManualClock, started: Started) -> None:
    scheduler = kind(clock=clock, blocked_after=None)
    await scheduler.schedule(works.task("t"))
    await clock.advance(5)
    assert (await scheduler.status("t")).status is STATUS.WAITING
    await scheduler.start()
    await settle()
    assert works.order == ["t"]
    await scheduler.stop()
    await scheduler.schedule(works.task("u"))
    await clock.advance(5)
    assert list(works.running) == ["t"], "what runs goes on"
    await works.end("t")
    assert works.order == ["t"]
    await scheduler.start()
    await settle()
    await works.end("u")
    await scheduler.close()


async def test_an_id_is_one_task_until_that_is_over(started: Started, kind: Any, works: Works) -> None:
    scheduler = await started(kind)
    await scheduler.schedule(works.task("t"))
    with pytest.raises(TaskExists, match="give the new one another id"):
        await scheduler.schedule(works.task("t"))
    await settle()
    await works.end("t", ValueError("no"))
    with pytest.raises(TaskExists):
        await scheduler.schedule(works.task("t"))
    await scheduler.cancel("t")
    await scheduler.schedule(works.task("t"))
    await settle()
    assert (await scheduler.status("t")).status is STATUS.RUNNING
    assert len(await scheduler.list()) == 1


async def test_a_full_scheduler_refuses_and_says_so(started: Started, kind: Any, works: Works) -> None:
    scheduler = await started(kind, capacity=2)
    await scheduler.schedule(works.task("running"))
    await scheduler.schedule(works.task("timed", schedule=Every(60)))
    with pytest.raises(SchedulerFull, match="2 tasks wait or run.*larger capacity=") as refused:
        await scheduler.schedule(works.task("t"))
    assert refused.value.capacity == 2
    assert scheduler.health.status is HealthStatus.YELLOW
    await settle()
    await works.end("running")
    assert scheduler.health.status is HealthStatus.GREEN
    await scheduler.schedule(works.task("t"))


async def test_only_the_last_500_are_remembered(started: Started, kind: Any, works: Works) -> None:
    async def nothing(run: Run) -> None:
        pass

    scheduler = await started(kind)
    for number in range(510):
        await scheduler.schedule(Task("nothing", nothing, id=str(number)))
    await settle()
    infos = await scheduler.list()
    assert sorted(int(info.id) for info in infos) == list(range(10, 510))


async def test_a_time_to_live_of_its_own(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started()
    for name, ttl in (("long", 900), ("short", 1), ("none", 0)):
        await scheduler.schedule(works.task(name, ttl=ttl))
        await settle()
        await works.end(name)
    assert {info.id for info in await scheduler.list()} == {"long", "short"}
    await clock.advance(1)
    assert {info.id for info in await scheduler.list()} == {"long"}


async def test_memory_keeps_what_is_told() -> None:
    with pytest.raises(ConfigurationError):
        MemoryTaskStore(ManualClock(), keep=-1)


async def test_lists_can_be_asked_for_a_status_or_type(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started(limit=1)
    for name, kind in (("a", "report"), ("b", "import"), ("c", "report")):
        await scheduler.schedule(works.task(name, kind))
        await clock.advance(1)
    await works.end("a")
    listed = {status: [info.id for info in await scheduler.list(status=status)] for status in TaskStatus}
    assert {status.value: ids for status, ids in listed.items() if ids} == {
        "completed": ["a"],
        "running": ["b"],
        "waiting": ["c"],
    }
    assert [info.id for info in await scheduler.list(task_type="report")] == ["a", "c"]
    assert [info.id for info in await scheduler.list()] == ["a", "b", "c"]


async def test_waiting_for_a_task(started: Started, works: Works) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t"))
    waiting = asyncio.ensure_future(scheduler.wait("t"))
    impatient = asyncio.ensure_future(scheduler.wait("t"))
    await settle()
    impatient.cancel()
    await settle()
    assert "t" in works.running
    await works.end("t")
    info = await waiting
    assert info.status is STATUS.COMPLETED
    assert await scheduler.wait("t") == info
    with pytest.raises(TaskNotFound):
        await scheduler.wait("nobody")


async def test_every_attempt_has_the_context_of_whoever_scheduled_it(started: Started, clock: ManualClock) -> None:
    variable = contextvars.ContextVar("variable", default="nothing")
    seen = []

    async def work(run: Run) -> None:
        seen.append(variable.get())
        variable.set("mine")
        raise ValueError("again")

    scheduler = await started(limit=1)
    for name in ("first", "second"):
        variable.set(name)
        await scheduler.schedule(Task("t", work, max_retries=1, backoff=STEADY))
    await settle()
    await clock.advance(600)
    assert seen == ["first", "second", "first", "second"]


async def test_scheduling_very_many_lets_others_run(started: Started, works: Works) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t"))
    for _ in range(200):
        await scheduler.schedule(Task("later", works.work, schedule=Every(60)))
    assert works.order == ["t"]


async def test_waiting_tasks_share_one_timer(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started()
    for number in range(1000):
        await scheduler.schedule(works.task(str(number), schedule=Every(3600 + number)))
    assert (clock.alarms, clock.set) == (1, 1)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("refold")]
    await clock.advance(3599)
    assert clock.set <= 61, "but for a look at the time once a minute nothing wakes"
    assert not works.running
    await clock.advance(1)
    assert works.order == ["0"]


async def test_a_system_time_that_is_set_anew_is_noticed(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t", schedule=At(START + timedelta(hours=5)), timeout=100))
    await clock.advance(1)
    clock.jump(5 * 3600)
    await clock.advance(60)
    assert works.order == ["t"]
    clock.jump(3600)
    await clock.advance(50)
    assert "t" in works.running, "durations do not depend on it"


async def test_a_time_that_is_set_back_delays(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t", schedule=At(START + timedelta(seconds=10))))
    clock.jump(-5)
    await clock.advance(10)
    assert not works.order
    await clock.advance(5)
    assert works.order == ["t"]


@pytest.mark.parametrize("options", [{"capacity": 0}, {"deadline": -1}, {"grace": -1}, {"blocked_after": 0}])
def test_a_scheduler_that_makes_no_sense_is_refused(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="capacity"):
        kind(**options)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="limit=0"):
        ConcurrentScheduler(0)
