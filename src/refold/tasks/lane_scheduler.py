"""What the schedulers have in common: tasks wait for their time, then in a lane for a slot."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from datetime import datetime
from random import Random
from typing import Final, TypedDict

from refold.clock import AlarmClock, SystemClock
from refold.errors import ConfigurationError, SchedulerClosed, SchedulerFull, TaskExists, TaskNotFound
from refold.tasks.agenda import Alarms
from refold.tasks.attempts import Attempts
from refold.tasks.entry import Ending, Entry, Phase
from refold.tasks.health import BlockedLoop, Health, HealthStatus
from refold.tasks.info import TaskInfo, TaskStatus
from refold.tasks.lanes import Lane
from refold.tasks.scheduler import Scheduler
from refold.tasks.store import MemoryTaskStore, TaskStore
from refold.tasks.task import Task
from refold.tasks.waiting import all_done
from refold.tasks.watchdog import Watchdog

__all__ = ["LaneScheduler", "Options"]

_LOOK: Final = 60.0
"""Seconds after which the system's time is looked at while tasks wait for theirs: it may have been set anew."""
_TURNS: Final = 64
"""Tasks after which others get a turn, so that scheduling or cancelling many does not block the event loop."""

_current: ContextVar[Entry] = ContextVar("refold_task")
"""The task that the code which asks is a part of: its work, or its callbacks."""

log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """What every scheduler takes; see `LaneScheduler`."""

    capacity: int
    deadline: float
    grace: float
    blocked_after: float | None
    on_blocked: Callable[[BlockedLoop], None] | None
    clock: AlarmClock | None
    store: TaskStore | None
    random: Random | None


class LaneScheduler(Scheduler):
    """A scheduler made of lanes.

    Args:
        lanes: where tasks wait for a slot.
        capacity: how many tasks may wait and run together.
        deadline: seconds that running attempts may go on when the scheduler closes.
        grace: seconds that a cancelled attempt may take to end, and a callback to return.
        blocked_after: seconds without a sign of life after which the event loop counts as blocked; None for no watch.
        on_blocked: called in the watchdog's thread when the event loop is blocked.
        clock: the time; by default the system's.
        store: told how tasks stand; by default memory.
        random: for the jitter of retries.

    Raises:
        ConfigurationError: a number makes no sense.
    """

    def __init__(
        self,
        lanes: Iterable[Lane],
        *,
        capacity: int = 100_000,
        deadline: float = 10.0,
        grace: float = 10.0,
        blocked_after: float | None = 1.0,
        on_blocked: Callable[[BlockedLoop], None] | None = None,
        clock: AlarmClock | None = None,
        store: TaskStore | None = None,
        random: Random | None = None,
    ) -> None:
        if capacity < 1 or deadline < 0 or grace < 0 or (blocked_after is not None and blocked_after <= 0):
            raise ConfigurationError(
                f"capacity={capacity} must be at least 1, deadline={deadline} and grace={grace} at least 0, "
                f"blocked_after={blocked_after} above 0"
            )
        self._lanes = tuple(lanes)
        self._capacity = capacity
        self._deadline = deadline
        self._grace = grace
        self._clock = clock or SystemClock()
        self._store = store or MemoryTaskStore(self._clock)
        self._attempts = Attempts(self._clock, self._store, grace, random or Random())  # noqa: S311 (no secret)
        self._due: Alarms[Entry] = Alarms(self._clock, self._now, self._ready, longest=_LOOK)
        self._entries: dict[str, Entry] = {}
        self._watchdog = None if blocked_after is None else Watchdog(blocked_after, self._named, on_blocked)
        self._started = False
        self._turns = 0
        self._closing: asyncio.Task[None] | None = None

    @abstractmethod
    def _lane(self, task: Task) -> Lane:
        """The lane that a task goes to."""

    # -- What a user does --------------------------------------------------------------------------------------------

    async def schedule(self, task: Task) -> TaskInfo:
        await self._turn()
        self._check_open()
        if task.id in self._entries:
            raise TaskExists(task.id)
        if len(self._entries) >= self._capacity:
            raise SchedulerFull(self._capacity)
        entry = self._entered(task)
        try:
            await self._store.save(entry.info)
        except BaseException:
            self._forget(entry)
            raise
        if entry.ending is Ending.CANCEL or self._closing is not None:
            await self._cancel_waiting(entry)
        else:
            self._wait(entry, entry.info.due_at)
        return entry.info

    async def cancel(self, task_id: str) -> TaskInfo:
        entry = self._entries.get(task_id)
        if entry is None:
            return await self.status(task_id)
        if entry.phase is Phase.IDLE:
            self._withdraw(entry)
            entry.runner = asyncio.create_task(self._cancel_waiting(entry), name=f"refold cancel {task_id}")
        else:
            self._attempts.cancel(entry)
        if _current.get(None) is not entry:  # else it would wait for itself
            await asyncio.wait([entry.left()])
        return entry.info

    async def wait(self, task_id: str) -> TaskInfo:
        entry = self._entries.get(task_id)
        if entry is None:
            return await self.status(task_id)
        await asyncio.wait([entry.over()])
        return entry.info

    async def status(self, task_id: str) -> TaskInfo:
        entry = self._entries.get(task_id)
        info = entry.info if entry is not None else await self._store.find(task_id)
        if info is None:
            raise TaskNotFound(task_id)
        return info

    async def list(self, *, status: TaskStatus | None = None, task_type: str | None = None) -> Sequence[TaskInfo]:
        infos = {info.id: info for info in await self._store.all()}
        infos.update((entry.info.id, entry.info) for entry in self._entries.values())
        found = [i for i in infos.values() if status in (None, i.status) and task_type in (None, i.type)]
        return sorted(found, key=lambda info: info.created_at)

    async def start(self) -> None:
        self._check_open()
        if self._watchdog is not None:
            self._watchdog.start()
        self._started = True
        for lane in self._lanes:
            self._pump(lane)

    async def stop(self) -> None:
        self._started = False

    @property
    def health(self) -> Health:
        blocked = None if self._watchdog is None else self._watchdog.blocked
        abandoned = self._attempts.abandoned
        reasons = [f"task {e.info.id!r} ({e.info.type}) was cancelled and does not end" for e in abandoned]
        status = HealthStatus.YELLOW if abandoned else HealthStatus.GREEN
        if len(self._entries) >= self._capacity:
            status = HealthStatus.YELLOW
            reasons.append(f"full: {self._capacity:,} tasks wait or run")
        if any(sum(e.lane is lane for e in abandoned) >= lane.limit for lane in self._lanes):
            status = HealthStatus.RED
            reasons.insert(0, "tasks that do not end hold all slots")
        if blocked is not None:
            status = HealthStatus.RED
            who = f"task {blocked.task_id!r} ({blocked.task_type})" if blocked.task_id else blocked.name or "no task"
            reasons.insert(0, f"the event loop is blocked by {who}")
        return Health(status, tuple(reasons), blocked, tuple(entry.info for entry in abandoned))

    # -- Waiting and running -----------------------------------------------------------------------------------------

    def _entered(self, task: Task) -> Entry:
        now = self._clock.now()
        info = TaskInfo(
            id=task.id,
            type=task.type,
            schedule=task.schedule,
            priority=task.priority,
            status=TaskStatus.WAITING,
            created_at=now,
            due_at=task.schedule.first(now),
        )
        entry = self._entries[task.id] = Entry(task, info, self._lane(task))
        return entry

    def _wait(self, entry: Entry, due: datetime) -> None:
        """Lets a task wait for its time, or for its turn where that has come."""
        entry.phase = Phase.IDLE
        entry.runner = None
        now = self._clock.now()
        if due > now:
            self._due.put(due.timestamp(), entry)
            return
        entry.lane.put(entry, due, now)
        self._pump(entry.lane)

    def _ready(self, entries: Sequence[Entry]) -> None:
        """Queues tasks whose time has come; only then, so that the right ones go first, some may begin."""
        for entry in entries:
            due = entry.info.next_retry_at or entry.info.due_at
            entry.lane.put(entry, due, due)
        for lane in self._lanes:
            self._pump(lane)

    def _pump(self, lane: Lane) -> None:
        """Starts whoever has a slot now; called whenever somebody or a slot has come."""
        while self._started and (entry := lane.take()) is not None:
            entry.phase, entry.ending = Phase.BUSY, None
            info = entry.info
            entry.runner = asyncio.get_running_loop().create_task(
                self._run(entry), name=f"refold task {info.type} {info.id}", context=entry.context.copy()
            )

    async def _run(self, entry: Entry) -> None:
        _current.set(entry)
        again: datetime | None = None
        try:
            again = await self._attempts.run(entry)
            if again is not None and (entry.ending is Ending.CANCEL or self._closing is not None):
                again = None
                if entry.phase is not Phase.OVER:
                    await self._attempts.cancelled(entry)
        except Exception as error:
            log.exception("a task cannot go on", extra={"task_id": entry.info.id, "task_type": entry.info.type})
            await self._attempts.broken(entry, error)
        finally:
            entry.lane.release()
            if again is None:
                self._forget(entry)
            else:
                self._wait(entry, again)
            self._pump(entry.lane)

    def _withdraw(self, entry: Entry) -> None:
        """Lets a task wait no longer."""
        entry.phase = Phase.BUSY
        self._due.discard(entry)
        entry.lane.discard(entry)

    async def _cancel_waiting(self, entry: Entry) -> None:
        before = _current.set(entry)
        try:
            await self._attempts.cancelled(entry)
        finally:
            _current.reset(before)
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if self._entries.get(entry.task.id) is entry:
            del self._entries[entry.task.id]
        entry.let_go()

    async def _turn(self) -> None:
        self._turns = (self._turns + 1) % _TURNS
        if not self._turns:
            await asyncio.sleep(0)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _named(self, running: asyncio.Task[object]) -> tuple[str, str] | None:
        """Id and type of the task that an asyncio task runs; asked from the watchdog's thread."""
        found = (e.info for e in [*self._entries.values()] if e.runner is running)
        return next(((info.id, info.type) for info in found), None)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise SchedulerClosed("the scheduler is closed, and takes no more tasks")

    # -- Closing -----------------------------------------------------------------------------------------------------

    async def close(self, deadline: float | None = None) -> None:
        if self._closing is None:
            deadline = self._deadline if deadline is None else deadline
            self._closing = asyncio.create_task(self._close(deadline), name="refold scheduler closes")
        await asyncio.shield(self._closing)

    async def _close(self, deadline: float) -> None:
        self._started = False
        try:
            await self._cancel_all_waiting()
            if not await all_done([entry.left() for entry in self._entries.values()], self._clock, deadline):
                await self._cancel_all_running()
            await self._leave_abandoned()
        finally:
            self._due.stop()
            self._attempts.stop()
            if self._watchdog is not None:
                self._watchdog.stop()

    async def _cancel_all_waiting(self) -> None:
        told = []
        for entry in [*self._entries.values()]:
            if entry.phase is not Phase.IDLE:
                continue
            self._withdraw(entry)
            if entry.task.on_cancel is None:
                await self._cancel_waiting(entry)
            else:  # whose callbacks take their time, side by side
                told.append(asyncio.create_task(self._cancel_waiting(entry)))
            await self._turn()
        if told:
            await asyncio.wait(told)

    async def _cancel_all_running(self) -> None:
        running = [*self._entries.values()]
        for entry in running:
            self._attempts.cancel(entry)
        await all_done([entry.left() for entry in running], self._clock, 2 * self._grace)

    async def _leave_abandoned(self) -> None:
        left = [*self._entries.values()]
        for entry in left:
            log.error(
                "closed though a task did not end", extra={"task_id": entry.info.id, "task_type": entry.info.type}
            )
            entry.abandon()
            entry.phase = Phase.OVER  # so that nothing is made of it when it ends after all
        await asyncio.gather(*(self._cancel_waiting(entry) for entry in left))
