"""The benchmark of schedulers, with small numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from rich.console import Console

from refold.bench.report import Host
from refold.bench.tasks import TasksReport


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    small = ["--tasks", "500", "--limit", "7", "--timers", "300", "--idle", "0.05"]
    return subprocess.run(
        [sys.executable, "-c", "from refold.cli import main; main()", "bench", "tasks", *small, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_figures_as_json() -> None:
    told = json.loads(bench("--json").stdout)
    assert (told["tasks"], told["timed"], told["timers"]) == (500, 500, 300)
    assert (told["closing_running"], told["closing_waiting"]) == (500, 300)
    assert told["tasks_per_s"] > 100
    assert 0 <= told["delay_p99_ms"] < 10_000
    assert 0 <= told["timed_delay_p99_ms"] < 10_000
    assert told["peak_rss_mib"] > 10
    assert told["timers_mib"] >= 0
    assert told["idle_seconds"] == 0.05
    assert told["idle_cpu_percent"] >= 0
    assert 0 < told["closing_seconds"] < 30
    assert told["host"]["cpus"] >= 1


def test_figures_for_people() -> None:
    report = TasksReport(
        tasks=1_000,
        tasks_per_s=54_321.0,
        delay_p99_ms=1.25,
        peak_rss_mib=40.4,
        timed=20,
        timed_delay_p99_ms=0.75,
        timers=10_000,
        timers_mib=12.3,
        idle_seconds=20.0,
        idle_cpu_percent=0.061,
        closing_running=100,
        closing_waiting=200,
        closing_seconds=0.04,
        host=Host.here(),
    )
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.show(console)
    console.file.close()
    text = console.export_text()
    for part in ("1,000", "54,321/s", "1.2 ms", "40 MiB", "0.8 ms", "12 MiB", "20 s", "0.06 % of a CPU", "0.04 s"):
        assert part in text
    assert report.as_dict()["tasks_per_s"] == 54_321
