"""Reports and the measuring of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from refold.bench.memory import PeakMemory
from refold.bench.report import Host, RebuildReport

REPORT = RebuildReport(
    events=1_000,
    aggregates=10,
    views=10,
    store="sqlite",
    skew="uniform",
    seconds=2.0,
    raw_events_per_s=2_000.0,
    peak_rss_mib=12.34,
    peers={"faststream": 49.6},
    host=Host.here(nats="2.15.1"),
)


def test_json_has_the_promised_names():
    told = json.loads(REPORT.to_json())
    assert told["events_per_s"] == 500
    assert told["raw_events_per_s"] == 2_000
    assert told["ratio_to_raw"] == 0.25
    assert told["peak_rss_mib"] == 12.3
    assert told["peers"] == {"faststream": 50}
    assert told["host"]["servers"] == {"nats": "2.15.1"}
    assert told["host"]["cpus"] >= 1


def test_people_see_every_engine():
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    REPORT.show(console)
    console.file.close()
    text = console.export_text()
    for part in ("raw limit", "2,000", "refold rebuild", "500", "25.0%", "faststream", "12 MiB", "nats 2.15.1"):
        assert part in text


@pytest.mark.skipif(sys.platform != "linux", reason="children are told apart only there")
def test_memory_adds_up_children():
    """A process that takes 80 MiB, whose child takes 60 MiB and gives them back, counts with both."""
    child = "x = bytearray(60 << 20); del x; print(flush=True); input()"
    parent = (
        "import subprocess, sys; x = bytearray(80 << 20); del x\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process, PeakMemory(process.pid) as memory:
        process.stdout.readline()
        deadline = time.monotonic() + 10
        while memory.mib < 140 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.communicate(b"\n")
    assert process.returncode == 0
    assert 140 < memory.mib < 240


def test_memory_of_this_process():
    with PeakMemory(os.getpid()) as memory:
        pass
    assert memory.mib > 5
