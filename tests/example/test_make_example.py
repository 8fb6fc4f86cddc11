"""What `make example` runs, as a process: until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``python -m orders`` in a temporary folder of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REFOLD_")}
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "orders"],
        env=environment | {"PYTHONPATH": str(EXAMPLES), "TMPDIR": str(tmp_path / "tmp"), "PORT": "0"},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def told(process: subprocess.Popen[str], pattern: str) -> str:
    """What a pattern's group finds in the lines that the process writes."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"it ended: {''.join(lines)}")


def test_it_shows_orders_and_leaves_nothing_behind(process: subprocess.Popen[str], tmp_path: Path) -> None:
    url = told(process, r"(http://127.0.0.1:\d+)")
    orders = httpx.get(f"{url}/orders").json()
    assert (orders["total"], len(orders["items"])) == (48, 20)
    assert {order["status"] for order in orders["items"]} == {"placed", "paid", "shipped", "cancelled"}
    assert httpx.get(f"{url}/health").status_code == 200

    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not list((tmp_path / "tmp").iterdir())
