"""The process that looks, by plain SELECTs, when rows can be seen."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Final

from refold.bench.live.plain import Reader

__all__ = ["main"]

_PAUSE: Final = 0.0005
"""Seconds between two looks; with the looks themselves, a row is seen half a millisecond late on average."""

_LOST: Final = 10.0


def _watch(reader: Reader, view: str, source: int) -> list[float]:
    """Milliseconds from the start of each row, told by lines ``key start`` on a pipe, until it was seen."""
    took: list[float] = []
    waiting: dict[str, float] = {}
    left, is_open = b"", True
    while is_open or waiting:
        if is_open and (not waiting or select.select([source], [], [], 0)[0]):
            data = os.read(source, 65536)
            is_open = bool(data)
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                key, start = line.decode().split()
                waiting[key] = float(start)
            continue
        seen = reader.visible(view, list(waiting))
        now = time.perf_counter()
        took += [(now - waiting.pop(key)) * 1000 for key in seen]
        if waiting and time.perf_counter() - min(waiting.values()) > _LOST:
            raise SystemExit(f"{len(waiting)} rows could not be seen within {_LOST:.0f} s")
        time.sleep(_PAUSE)
    return took


def main() -> None:
    """Watches; the arguments are the database's URL and the view's name."""
    with Reader.opened(sys.argv[1]) as reader:
        reader.visible(sys.argv[2], ["ready"])
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        took = _watch(reader, sys.argv[2], sys.stdin.fileno())
    sys.stdout.write(json.dumps({"took": took, "cpu": time.process_time()}) + "\n")


if __name__ == "__main__":
    main()
