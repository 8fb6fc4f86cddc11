"""The three schedulers against a model that is as simple as can be: lists, searched through at every step."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tasks_support import START, ManualClock, Works, closed, settle

from refold.tasks import (
    At,
    ConcurrentScheduler,
    Every,
    HybridScheduler,
    Now,
    SchedulerFull,
    SequentialScheduler,
    TaskExists,
    TaskFailed,
)

CAPACITY = 7
OVER = ("completed", "failed", "cancelled", "dead letter")
WAITS = (10.0, 20.0, 40.0)


@dataclasses.dataclass
class Model:
    """A task, as it should be; times are seconds since the start."""

    number: int
    id: str
    every: float | None
    timed: bool
    timeout: float | None
    max_retries: int
    priority: int
    due: float
    ready: float  # when its time has come or will come
    status: str = "waiting"
    attempt: int = 0
    ends: float | None = None  # when its timeout ends it
    completed: int = 0
    failed: int = 0
    misfires: int = 0
    turn: int = 0


class SchedulerMachine(RuleBasedStateMachine):
    """What all have in common; `ways` says who waits for the same slots, and who goes first."""

    make: Callable[..., Any]

    def way(self, task: Model) -> str:
        return "one"

    def limits(self) -> dict[str, int]:
        raise NotImplementedError

    def key(self, task: Model) -> tuple[float, ...]:
        raise NotImplementedError

    def in_order(self, task: Model) -> tuple[float, ...]:
        return (task.ready if task.status == "retrying" else task.due, -task.priority, task.turn)

    def in_turn(self, task: Model) -> tuple[float, ...]:
        return (task.ready - 10 * task.priority, task.turn)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.clock = ManualClock()
        self.works = Works()
        self.limit = 2
        self.started = True
        self.tasks: dict[str, Model] = {}
        self.gone: dict[str, Model] = {}
        self.begun: list[tuple[str, int]] = []
        self.turns = 0
        self.time = 0.0

    def run(self, coroutine: Any) -> Any:
        async def then_settle() -> Any:
            result = await coroutine
            await settle()
            return result

        return self.runner.run(then_settle())

    @initialize()
    def start(self) -> None:
        async def made() -> Any:
            scheduler = type(self).make(self.limit, clock=self.clock, capacity=CAPACITY, blocked_after=None)
            await scheduler.start()
            return scheduler

        self.scheduler = self.run(made())

    # -- The model ---------------------------------------------------------------------------------------------------

    def next_turn(self) -> int:
        self.turns += 1
        return self.turns

    def pump(self) -> None:
        """Whoever has a slot begins."""
        for way, limit in self.limits().items():
            while self.started:
                here = [task for task in self.tasks.values() if self.way(task) == way]
                ready = [t for t in here if t.status in ("waiting", "retrying") and t.ready <= self.time]
                if not ready or sum(task.status == "running" for task in here) >= limit:
                    break
                task = min(ready, key=self.key)
                if task.status == "waiting":
                    task.attempt = 0
                    while task.every and task.due + task.every <= self.time:
                        task.due += task.every
                        task.misfires += 1
                task.status = "running"
                task.attempt += 1
                task.ends = None if task.timeout is None else self.time + task.timeout
                self.begun.append((task.id, task.attempt))

    def attempt_over(self, task: Model, error: str) -> None:
        if error and task.attempt <= task.max_retries and error != "final":
            task.status, task.ready = "retrying", self.time + WAITS[task.attempt - 1]
            task.turn = self.next_turn()
            return
        task.completed += not error
        task.failed += bool(error)
        if task.every:
            task.status, task.due = "waiting", task.due + task.every
            task.ready = max(task.due, self.time)
            task.turn = self.next_turn()
        else:
            final = "failed" if error == "final" or not task.max_retries else "dead letter"
            self.over(task, final if error else "completed")

    def over(self, task: Model, status: str) -> None:
        task.status = status
        self.gone[task.id] = self.tasks.pop(task.id)

    # -- What may happen ---------------------------------------------------------------------------------------------

    @rule(
        id=st.sampled_from("abcdefghij"),
        kind=st.sampled_from(["now", "at", "past", "every"]),
        seconds=st.integers(1, 30),
        timeout=st.sampled_from([None, None, 7.0]),
        max_retries=st.integers(0, 2),
        priority=st.integers(-1, 2),
    )
    def schedule(
        self, id: str, kind: str, seconds: int, timeout: float | None, max_retries: int, priority: int
    ) -> None:
        seconds = -seconds if kind == "past" else seconds
        time = START + timedelta(seconds=self.time + seconds)
        schedule = {"now": Now(), "every": Every(abs(seconds))}.get(kind, At(time))
        task = self.works.task(id, schedule=schedule, timeout=timeout, max_retries=max_retries, priority=priority)
        if id in self.tasks or len(self.tasks) >= CAPACITY:
            with pytest.raises(TaskExists if id in self.tasks else SchedulerFull):
                self.run(self.scheduler.schedule(task))
            return
        due = self.time if kind == "now" else self.time + seconds
        self.gone.pop(id, None)
        self.tasks[id] = Model(
            number=self.next_turn(),
            id=id,
            every=float(seconds) if kind == "every" else None,
            timed=kind != "now",
            timeout=timeout,
            max_retries=max_retries,
            priority=priority,
            due=due,
            ready=max(due, self.time),
            turn=self.turns,
        )
        self.pump()
        self.run(self.scheduler.schedule(task))

    @rule(seconds=st.integers(0, 25))
    def advance(self, seconds: int) -> None:
        until = self.time + seconds
        while True:
            moments = [t.ready for t in self.tasks.values() if t.status in ("waiting", "retrying")]
            moments += [t.ends for t in self.tasks.values() if t.status == "running" and t.ends is not None]
            coming = [moment for moment in moments if self.time < moment <= until]
            if not coming:
                break
            self.time = min(coming)
            late = [t for t in self.tasks.values() if t.status == "running" and t.ends == self.time]
            self.due_now()
            for task in late:
                self.attempt_over(task, "late")
            self.pump()
        self.time = until
        self.run(self.clock.advance(seconds))

    def due_now(self) -> None:
        """Tasks whose time has just come queue up in the order in which they were put off, before slots become free."""
        for task in sorted(self.tasks.values(), key=lambda task: task.turn):
            if task.status in ("waiting", "retrying") and task.ready == self.time:
                task.turn = self.next_turn()
        self.pump()

    @precondition(lambda self: self.works.running)
    @rule(data=st.data(), error=st.sampled_from(["", "", "again", "final"]))
    def end(self, data: st.DataObject, error: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.works.running)))
        self.attempt_over(self.tasks[id], error)
        self.pump()
        raised = {"": None, "again": ValueError("again"), "final": TaskFailed("final")}[error]
        self.run(self.works.end(id, raised))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.tasks)))
        self.over(self.tasks[id], "cancelled")
        self.pump()
        info = self.run(self.scheduler.cancel(id))
        assert info.status.value == "cancelled"

    @rule()
    def stop_or_start(self) -> None:
        self.started = not self.started
        self.pump()
        self.run(self.scheduler.start() if self.started else self.scheduler.stop())

    # -- What always holds -------------------------------------------------------------------------------------------

    @invariant()
    def the_same_tasks_began_in_the_same_order(self) -> None:
        assert self.works.begun == self.begun

    @invariant()
    def everything_stands_as_it_should(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        infos = {info.id: info for info in self.run(self.scheduler.list())}
        for id, task in (self.gone | self.tasks).items():
            if id not in infos:  # forgotten, after its time to live
                assert id in self.gone
                continue
            info = infos.pop(id)
            told = (info.status.value, info.attempt, info.completed, info.failed, info.misfires)
            assert told == (task.status, task.attempt, task.completed, task.failed, task.misfires), info
            assert (info.due_at - START).total_seconds() == task.due
            assert info.over == (task.status in OVER)
            if task.status == "retrying":
                assert info.next_retry_at == START + timedelta(seconds=task.ready)
        assert not infos

    @invariant()
    def no_more_run_than_there_are_slots(self) -> None:
        assert set(self.works.running) == {t.id for t in self.tasks.values() if t.status == "running"}

    @invariant()
    def there_is_one_timer_for_due_times_and_one_for_deadlines(self) -> None:
        assert self.clock.alarms <= 2

    def teardown(self) -> None:
        if hasattr(self, "scheduler"):
            told = len(self.works.told)
            self.run(closed(self.scheduler, self.clock, 0))
            assert len(self.works.told) == told + len(self.tasks)
        self.runner.close()


class Limited(SchedulerMachine):
    """With a limit that changes."""

    @rule(limit=st.integers(1, 4))
    def change_limit(self, limit: int) -> None:
        self.limit = limit
        self.pump()

        async def change() -> None:
            self.scheduler.limit = limit

        self.run(change())


class Sequential(SchedulerMachine):
    make = staticmethod(lambda limit, **options: SequentialScheduler(**options))

    def limits(self) -> dict[str, int]:
        return {"one": 1}

    def key(self, task: Model) -> tuple[float, ...]:
        return self.in_order(task)


class Concurrent(Limited):
    make = ConcurrentScheduler

    def limits(self) -> dict[str, int]:
        return {"one": self.limit}

    def key(self, task: Model) -> tuple[float, ...]:
        return self.in_turn(task)


class Hybrid(Limited):
    make = HybridScheduler

    def way(self, task: Model) -> str:
        return "sequential" if task.timed else "concurrent"

    def limits(self) -> dict[str, int]:
        return {"sequential": 1, "concurrent": self.limit}

    def key(self, task: Model) -> tuple[float, ...]:
        return self.in_order(task) if task.timed else self.in_turn(task)


@pytest.mark.parametrize("machine", [Sequential, Concurrent, Hybrid])
def test_schedulers_do_what_the_model_does(machine: type[SchedulerMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))
