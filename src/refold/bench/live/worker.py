"""The process whose live running is measured: an app that runs projections until a position, or until it is told to end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refold.engine.live.hooks import LiveEvent
    from refold.engine.projector import Projector

__all__ = ["main"]


class _Watch:
    """Takes note of how far projections are, and when they were where they should be.

    Args:
        names: the projections.
        until: the position that all are to reach; None for no end.
    """

    def __init__(self, names: Sequence[str], until: int | None) -> None:
        self.stop = asyncio.Event()
        self.reached = 0.0
        self.cpu = 0.0
        self.batches = 0
        self.largest = 0
        self.rows = 0
        self._positions = dict.fromkeys(names, -1)
        self._until = until

    def __call__(self, detail: LiveEvent) -> None:
        from refold.engine.live.hooks import BatchApplied, StateChanged
        from refold.ports import Status

        if isinstance(detail, BatchApplied):
            self.batches += 1
            self.largest = max(self.largest, detail.events)
            self.rows += detail.rows
            self._at(detail.projections, detail.position)
        elif isinstance(detail, StateChanged) and detail.now is Status.LIVE:
            self._at([detail.projection], detail.position)

    def _at(self, names: Sequence[str], position: int) -> None:
        self._positions.update(dict.fromkeys(names, position))
        if self._until is not None and not self.reached and min(self._positions.values()) >= self._until:
            self.reached, self.cpu = time.perf_counter(), time.process_time()
            self.stop.set()


async def _run(*, app: str, stream: str, projections: str, until: int | None, commanded: float) -> dict[str, Any]:
    from refold.app import App

    projectors = _projectors(projections)
    imported = time.perf_counter()
    watch = _Watch([one.spec.name for one in projectors], until)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watch.stop.set)
    running = App(app, stream=stream)
    running.register(*projectors)
    async with running:
        connected, connected_cpu = time.perf_counter(), time.process_time()
        await running.run(stop=watch.stop, hook=watch)
    return {
        "importing": imported - commanded,
        "connecting": connected - imported,
        "running": watch.reached - connected,
        "running_cpu": watch.cpu - connected_cpu,
        "seconds": watch.reached - commanded,
        "cpu": time.process_time(),
        "batches": watch.batches,
        "largest_batch": watch.largest,
        "rows": watch.rows,
    }


def _projectors(name: str) -> Sequence[type[Projector[Any]]]:
    if name == "orders":
        from refold.bench.model import OrderSummaries

        return [OrderSummaries]
    from refold.bench.index import INDEX_SETS
    from refold.bench.live.kinds import SETS

    return INDEX_SETS[name] if name in INDEX_SETS else SETS[name]


def main() -> None:
    """Runs projections; the argument is a JSON object of what `_run` takes.

    ``commanded`` is what `time.perf_counter`, which counts for all processes of a machine alike, said when it was commanded.
    """
    sys.stdout.write(json.dumps(asyncio.run(_run(**json.loads(sys.argv[1])))) + "\n")


if __name__ == "__main__":
    main()
