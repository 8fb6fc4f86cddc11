"""``refold bench tasks``: what schedulers cost, how late tasks begin, how long closing takes."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from refold.bench.memory import PeakMemory
from refold.bench.report import Host
from refold.tasks import At, ConcurrentScheduler, Every, Run, SequentialScheduler, Task

__all__ = ["TasksReport", "run_tasks_bench"]

_TIMED: Final = 2_000
_SPREAD: Final = 2.0
_RUNNING: Final = 1_000
_AHEAD: Final = timedelta(seconds=0.2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TasksReport:
    """What was measured.

    Attributes:
        tasks: tasks without work of their own, scheduled one after another as fast as may be, each run once.
        tasks_per_s: from the first one's scheduling to the last one's end.
        delay_p99_ms: between due and start of these.
        peak_rss_mib: peak resident memory of the process with these, interpreter and imports included.
        timed: tasks due one after another over two seconds, while nothing else happens.
        timed_delay_p99_ms: between due and start of these.
        timers: hourly tasks that wait.
        timers_mib: resident memory that they take.
        idle_seconds: how long they were watched.
        idle_cpu_percent: what part of a processor the process took meanwhile.
        closing_running, closing_waiting: tasks that run and that wait when a scheduler is closed at once.
        closing_seconds: how long that takes.
        host: where it was measured.
    """

    tasks: int
    tasks_per_s: float
    delay_p99_ms: float
    peak_rss_mib: float
    timed: int
    timed_delay_p99_ms: float
    timers: int
    timers_mib: float
    idle_seconds: float
    idle_cpu_percent: float
    closing_running: int
    closing_waiting: int
    closing_seconds: float
    host: Host

    def as_dict(self) -> dict[str, object]:
        """The report as plain values, rounded to what the measurement gives."""
        plain: dict[str, object] = dataclasses.asdict(self)
        rounded: dict[str, object] = {
            name: round(value, 3) for name, value in plain.items() if isinstance(value, float)
        }
        return plain | rounded | {"tasks_per_s": round(self.tasks_per_s)}

    def show(self, console: Console) -> None:
        """Prints the report for people."""
        table = Table("", "")
        table.add_row(f"{self.tasks:,} tasks without work", f"{self.tasks_per_s:,.0f}/s")
        table.add_row("  due to start, p99", f"{self.delay_p99_ms:.1f} ms")
        table.add_row("  peak memory of the process", f"{self.peak_rss_mib:,.0f} MiB")
        table.add_row(f"{self.timed:,} timed tasks: due to start, p99", f"{self.timed_delay_p99_ms:.1f} ms")
        table.add_row(f"{self.timers:,} hourly tasks that wait", f"{self.timers_mib:,.0f} MiB")
        table.add_row(f"  for {self.idle_seconds:g} s", f"{self.idle_cpu_percent:.2f} % of a CPU")
        closing = f"closing, {self.closing_running:,} running and {self.closing_waiting:,} waiting"
        table.add_row(closing, f"{self.closing_seconds:.2f} s")
        console.print(table)
        host = self.host
        console.print(f"{host.system}, {host.cpus} CPUs, {host.memory_mib:,} MiB, Python {host.python}")


async def run_tasks_bench(*, tasks: int, limit: int, timers: int, idle_seconds: float, as_json: bool) -> int:
    """Measures schedulers in this process, and prints; the exit code."""
    say = Console(stderr=True).print
    say(f"watching {timers:,} hourly tasks wait for {idle_seconds:g} s …")
    timers_mib, idle_cpu_percent = await _idle(timers, idle_seconds)
    say(f"running {tasks:,} tasks …")
    with PeakMemory(os.getpid()) as memory:
        tasks_per_s, delays = await _throughput(tasks, limit)
    say(f"waiting for {min(_TIMED, tasks):,} timed tasks …")
    timed_delays = await _timed(min(_TIMED, tasks))
    report = TasksReport(
        tasks=tasks,
        tasks_per_s=tasks_per_s,
        delay_p99_ms=_p99_ms(delays),
        peak_rss_mib=memory.mib,
        timed=len(timed_delays),
        timed_delay_p99_ms=_p99_ms(timed_delays),
        timers=timers,
        timers_mib=timers_mib,
        idle_seconds=idle_seconds,
        idle_cpu_percent=idle_cpu_percent,
        closing_running=min(_RUNNING, tasks),
        closing_waiting=timers,
        closing_seconds=await _closing(min(_RUNNING, tasks), timers),
        host=Host.here(),
    )
    if as_json:
        sys.stdout.write(json.dumps(report.as_dict(), indent=2) + "\n")
    else:
        report.show(Console())
    return 0


class _Delays:
    """Work that notes how late it begins."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._all_began = asyncio.Event()
        self.delays: list[float] = []

    async def work(self, run: Run) -> None:
        self.delays.append((datetime.now(UTC) - run.due_at).total_seconds())
        if len(self.delays) == self._expected:
            self._all_began.set()

    async def all_began(self) -> None:
        await self._all_began.wait()


async def _throughput(tasks: int, limit: int) -> tuple[float, Sequence[float]]:
    noted = _Delays(tasks)
    async with ConcurrentScheduler(limit) as scheduler:
        start = time.perf_counter()
        for _ in range(tasks):
            await scheduler.schedule(Task("nothing", noted.work))
        await noted.all_began()
        seconds = time.perf_counter() - start
    return tasks / seconds, noted.delays


async def _timed(tasks: int) -> Sequence[float]:
    noted = _Delays(tasks)
    async with SequentialScheduler() as scheduler:
        first = datetime.now(UTC) + _AHEAD
        for number in range(tasks):
            due = first + timedelta(seconds=_SPREAD * number / tasks)
            await scheduler.schedule(Task("timed", noted.work, schedule=At(due)))
        await noted.all_began()
    return noted.delays


async def _idle(timers: int, seconds: float) -> tuple[float, float]:
    noted = _Delays(timers)
    gc.collect()
    before = _rss_mib()
    async with ConcurrentScheduler() as scheduler:
        for _ in range(timers):
            await scheduler.schedule(Task("hourly", noted.work, schedule=Every(timedelta(hours=1))))
        gc.collect()
        taken = _rss_mib() - before
        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        used = (time.process_time() - cpu) / (time.perf_counter() - start)
    return max(taken, 0.0), 100 * used


async def _closing(running: int, waiting: int) -> float:
    noted = _Delays(running)

    async def endless(run: Run) -> None:
        await noted.work(run)
        await asyncio.Event().wait()

    scheduler = ConcurrentScheduler(running)
    await scheduler.start()
    for _ in range(running):
        await scheduler.schedule(Task("endless", endless))
    for _ in range(waiting):
        await scheduler.schedule(Task("waiting", endless))
    await noted.all_began()
    start = time.perf_counter()
    await scheduler.close(0)
    return time.perf_counter() - start


def _p99_ms(delays: Sequence[float]) -> float:
    return sorted(delays)[len(delays) * 99 // 100] * 1000


def _rss_mib() -> float:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0
