"""Starts the process of ``holder.py``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOLDER = Path(__file__).with_name("holder.py")


@contextmanager
def holder(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the claim of projection one; killed in the end."""
    process = subprocess.Popen(
        [sys.executable, str(HOLDER), url, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()
