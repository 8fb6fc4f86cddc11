"""How much memory a worker takes that follows a stream for millions of events."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

from refold.bench.fill import Filling
from refold.bench.live.backlog import check_orders
from refold.bench.live.running import Worker, at_position
from refold.bench.memory import resident_mib
from refold.bench.model import OrderSummaries
from refold.bench.rebuild import STREAM
from refold.bench.servers import Servers
from refold.stores import open_store

__all__ = ["Growth", "measure_growth"]

_STEP: Final = 1_000
_AHEAD: Final = 5_000
"""How many events the stream may be ahead of the views: more would be a backlog."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Resident memory over time.

    Attributes:
        events: how many came while it was looked at.
        seconds: how long that took.
        samples: MiB, one for every thousand events.
    """

    events: int
    seconds: float
    samples: Sequence[float]

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        quarter = max(1, len(self.samples) // 4)
        return {
            "events": self.events,
            "events_per_s": round(self.events / self.seconds),
            "first_quarter_mib": round(statistics.median(self.samples[:quarter]), 1),
            "last_quarter_mib": round(statistics.median(self.samples[-quarter:]), 1),
            "most_mib": round(max(self.samples), 1),
        }


async def measure_growth(servers: Servers, filling: Filling, events: int) -> Growth:
    """Publishes events as fast as a worker follows.

    Raises:
        RefoldError: the worker failed, or views are not complete at the end.
    """
    samples: list[float] = []
    name = OrderSummaries.spec.name
    async with (
        open_store(servers.database) as store,
        Worker.started(servers, stream=STREAM, projections="orders") as worker,
    ):
        before = filling.stored
        await at_position(store, "bench", name, before, worker)
        start = time.perf_counter()
        while filling.stored < before + events:
            await asyncio.to_thread(_send, filling, min(_STEP, before + events - filling.stored))
            await at_position(store, "bench", name, filling.stored - _AHEAD, worker)
            samples.append(resident_mib(worker.pid))
        await at_position(store, "bench", name, filling.stored, worker)
        seconds = time.perf_counter() - start
        await worker.end()
    check_orders(servers, filling.stored)
    return Growth(events=events, seconds=seconds, samples=samples)


def _send(filling: Filling, events: int) -> None:
    filling.send(filling.lines(events))
