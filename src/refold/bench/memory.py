"""How much memory a process and its children took at most."""

from __future__ import annotations

import resource
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["PeakMemory", "resident_mib"]

_PERIOD: Final = 0.05
_PROC: Final = Path("/proc")


class PeakMemory:
    """Adds up the peak resident memory of a process and all its descendants while a ``with`` block runs.

    On Linux each process counts with its own peak (``VmHWM``), read while it lives; a child that lives for less than
    50 ms may be missed. Elsewhere it is what the system says of this process and its ended children, whatever `pid` is.

    Args:
        pid: the process; its peak includes what it took before the block.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peaks: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="refold-bench-memory", daemon=True)

    @property
    def mib(self) -> float:
        """The sum of the peaks so far, in MiB."""
        if (_PROC / "self" / "status").exists():
            return sum(self._peaks.values()) / 1024
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / unit

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD):
            self._look()

    def _look(self) -> None:
        waiting = [self._pid]
        while waiting:
            pid = waiting.pop()
            with suppress(OSError):  # it has ended; what was seen of it last counts
                self._peaks[pid] = max(self._peaks.get(pid, 0), _peak_kib(pid))
                for task in (_PROC / str(pid) / "task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())


def resident_mib(pid: int) -> float:
    """Resident memory of a process now, in MiB; 0 where the system does not tell."""
    try:
        return _kib(pid, "VmRSS:") / 1024
    except OSError:
        return 0.0


def _peak_kib(pid: int) -> int:
    return _kib(pid, "VmHWM:")


def _kib(pid: int, what: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1])
    return 0  # a process that is ending has no memory left
