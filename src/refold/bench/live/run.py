"""``refold bench live``: servers of its own, and what was asked for measured on them, one after another."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from typing import Any, Final

from rich.console import Console

from refold.bench.fill import Filling
from refold.bench.live.backlog import measure_backlog
from refold.bench.live.growth import measure_growth
from refold.bench.live.latency import measure_latency
from refold.bench.live.many import measure_many
from refold.bench.live.report import LiveReport
from refold.bench.model import draw
from refold.bench.rebuild import STREAM
from refold.bench.report import Host
from refold.bench.servers import Servers

__all__ = ["QUIET", "measure_live", "run_live_bench"]

QUIET: Final = 100
"""Events a second at which there is next to no load."""


async def run_live_bench(*, as_json: bool, **asked: Any) -> int:
    """Measures, prints; the exit code. Takes what `measure_live` takes."""
    report = await measure_live(**asked)
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        report.show(Console())
    return 0


async def measure_live(
    *,
    store: str,
    parts: Collection[str],
    events: int,
    aggregates: int,
    rate: int,
    seconds: float,
    events_many: int,
    events_memory: int,
    seed: int,
) -> LiveReport:
    """Measures.

    Args:
        store: ``postgresql`` or ``sqlite``.
        parts: what to measure: ``backlog``, ``latency``, ``many``, ``memory``.
        events: of the backlog, and of the rebuild before it.
        aggregates: that events are drawn from.
        rate: events a second of the steady publishing.
        seconds: how long it lasts.
        events_many: of the backlog of many projections.
        events_memory: over which memory is looked at.
        seed: of what is drawn.

    Raises:
        RefoldError: a process failed, or views are not complete.
    """
    say = Console(stderr=True).print
    told: dict[str, Any] = {}
    async with Servers.started(store) as servers:
        with Filling(servers.nats, STREAM, draw(None, aggregates, seed=seed)) as filling:
            if "backlog" in parts:
                say(f"filling, rebuilding, filling, taking up {events:,} events …")
                told["backlog"] = await measure_backlog(servers, filling, events)
            if not filling.events:
                await asyncio.to_thread(filling.more, aggregates)
            if "latency" in parts:
                say(f"publishing {rate:,} events a second for {seconds:.0f} s, then {QUIET} …")
                told["latency"] = [
                    await measure_latency(servers, filling, rate=rate, seconds=seconds),
                    await measure_latency(servers, filling, rate=QUIET, seconds=seconds / 4),
                ]
            if "memory" in parts:
                say(f"following {events_memory:,} events …")
                told["memory"] = await measure_growth(servers, filling, events_memory)
        if "many" in parts:
            say(f"taking up {events_many:,} events with one projection, and with 24 …")
            told["many"] = await measure_many(
                servers, events=events_many, aggregates=max(1, events_many // 10), seed=seed
            )
        host = Host.here(nats=await asyncio.to_thread(servers.nats_version))
    return LiveReport(store=store, aggregates=aggregates, host=host, **told)
