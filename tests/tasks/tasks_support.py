"""A clock that tests move, and work that does what a test tells it to."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from refold.tasks import Backoff, Run, Scheduler, Task, TaskInfo

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEADY = Backoff(initial=10.0, factor=2.0, maximum=60.0, jitter=0.0)


class _Alarm:
    def __init__(self) -> None:
        self.off = False

    def cancel(self) -> None:
        self.off = True


class ManualClock:
    """Time that passes only in `advance`; alarms ring from there, those of one moment together, as an event loop does it,
    and what they set off comes to rest before the next ones."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._passed = 0.0
        self._jumped = timedelta()
        self._alarms: list[tuple[float, int, _Alarm, Callable[[], None]]] = []
        self._count = count()
        self.set = 0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed) + self._jumped

    def monotonic(self) -> float:
        return self._passed

    def call_later(self, seconds: float, call: Callable[[], None]) -> _Alarm:
        self.set += 1
        alarm = _Alarm()
        heapq.heappush(self._alarms, (self._passed + seconds, next(self._count), alarm, call))
        return alarm

    @property
    def alarms(self) -> int:
        """How many alarms are set."""
        return sum(not alarm.off for _, _, alarm, _ in self._alarms)

    def jump(self, seconds: float) -> None:
        """Somebody sets the system's time."""
        self._jumped += timedelta(seconds=seconds)

    async def advance(self, seconds: float) -> None:
        await settle()
        until = self._passed + seconds
        while self._alarms and self._alarms[0][0] <= until:
            self._passed = max(self._passed, self._alarms[0][0])
            while self._alarms and self._alarms[0][0] <= self._passed:
                _, _, alarm, call = heapq.heappop(self._alarms)
                if not alarm.off:
                    call()
            await settle()
        self._passed = until
        await settle()


async def settle() -> None:
    """Lets everything happen that can happen now."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:
        await asyncio.sleep(0)


class Works:
    """Makes tasks whose attempts wait until the test ends them.

    Attributes:
        begun: (task id, attempt), in the order in which attempts began.
        running: attempts that wait for the test, by task id.
        ended: (task id, "cancelled" or whatever the test made of it).
        most: how many ran at once at the most.
    """

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.running: dict[str, asyncio.Future[None]] = {}
        self.runs: list[Run] = []
        self.ended: list[tuple[str, str]] = []
        self.told: list[tuple[str, TaskInfo]] = []
        self.most = 0

    async def work(self, run: Run) -> None:
        assert run.task_id not in self.running, "it overlaps itself"
        self.begun.append((run.task_id, run.attempt))
        self.runs.append(run)
        future = self.running[run.task_id] = asyncio.get_running_loop().create_future()
        self.most = max(self.most, len(self.running))
        try:
            await future
            self.ended.append((run.task_id, "done"))
        except asyncio.CancelledError:
            self.ended.append((run.task_id, "cancelled"))
            raise
        except Exception as error:
            self.ended.append((run.task_id, str(error)))
            raise
        finally:
            del self.running[run.task_id]

    def task(self, id: str, type: str = "work", **options: Any) -> Task:
        options.setdefault("backoff", STEADY)
        options.setdefault("on_complete", lambda info: self.told.append(("complete", info)))
        options.setdefault("on_cancel", lambda info: self.told.append(("cancel", info)))
        return Task(type, options.pop("work", self.work), id=id, **options)

    async def end(self, id: str, error: Exception | None = None) -> None:
        """Ends the attempt that runs, well or not."""
        if error is None:
            self.running[id].set_result(None)
        else:
            self.running[id].set_exception(error)
        await settle()

    @property
    def order(self) -> list[str]:
        return [id for id, _ in self.begun]


async def closed(scheduler: Scheduler, clock: ManualClock, deadline: float) -> None:
    """Closes a scheduler, and lets as much time pass as that takes."""
    closing = asyncio.ensure_future(scheduler.close(deadline))
    await settle()
    while not closing.done():
        await clock.advance(1)
    await closing
