"""``refold bench index``: listing aggregates from the stream and from the aggregate index, and what keeping that costs live."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console

from refold.app import App
from refold.bench.fill import Filling
from refold.bench.live.running import ran
from refold.bench.model import AGGREGATE, OrderSummaries, draw
from refold.bench.rebuild import STREAM
from refold.bench.report import Host
from refold.bench.servers import Servers
from refold.engine.aggregates import AGGREGATE_INDEX, IndexedAggregate, StoredIndexer, aggregate_index
from refold.engine.projector import Projector
from refold.errors import RefoldError
from refold.jetstream.indexer import JetStreamIndexer
from refold.ports import AggregateIndexer
from refold.view import ViewSchema

__all__ = ["INDEX_SETS", "measure_index", "run_index_bench"]

_TYPES: Final = {name: route.event_type for name, route in OrderSummaries.spec.routes.items()}


class _OrdersBeside(OrderSummaries, name="orders_beside", aggregate=AGGREGATE, version=1):
    """The same projection in tables of its own."""


INDEX_SETS: Final[Mapping[str, Sequence[type[Projector[Any]]]]] = {
    "index": [aggregate_index(_TYPES)],
    "without": [OrderSummaries],
    "with": [_OrdersBeside, aggregate_index(_TYPES, name="index_beside")],
}
"""What runs: the index alone, a projection without it, and with it."""


async def run_index_bench(*, as_json: bool, **asked: Any) -> int:
    """Measures, prints; the exit code. Takes what `measure_index` takes."""
    told = await measure_index(**asked)
    if as_json:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return 0
    console = Console()
    for name, value in told.items():
        if name != "host":
            console.print(
                f"{name.replace('_', ' '):<28} {value:>14,}"
                if not isinstance(value, str)
                else f"{name:<28} {value:>14}"
            )
    return 0


async def measure_index(*, store: str, events: int, aggregates: int, live: bool, seed: int) -> dict[str, Any]:
    """Measures.

    Args:
        store: ``postgresql`` or ``sqlite``.
        events: that are in the stream at first, and that come then, each.
        aggregates: that they are drawn from.
        live: whether to measure live running too.
        seed: of what is drawn.

    Returns:
        Seconds of listing every id of the type, and microseconds that an event costs live, by name.

    Raises:
        RefoldError: a process failed, or the lists differ.
    """
    say = Console(stderr=True).print
    told: dict[str, Any] = {"store": store, "events": events, "aggregates": aggregates}
    async with Servers.started(store) as servers:
        with Filling(servers.nats, STREAM, draw(None, aggregates, seed=seed)) as filling:
            say(f"filling a stream with {events:,} events, and building from it …")
            await asyncio.to_thread(filling.more, events)
            for name in INDEX_SETS if live else ["index"]:
                await ran(servers, stream=STREAM, projections=name, until=events)
            if live:
                told |= await _live(servers, filling, events)
        say("listing …")
        told |= await _listing(servers)
        host = Host.here(nats=await asyncio.to_thread(servers.nats_version))
    return told | {"host": dataclasses.asdict(host)}


async def _live(servers: Servers, filling: Filling, events: int) -> dict[str, float]:
    """Microseconds an event, where as many more come as there were."""
    each = {}
    await asyncio.to_thread(filling.more, events)
    for name in INDEX_SETS:
        Console(stderr=True).print(f"taking up {events:,} more ({name}) …")
        told = await ran(servers, stream=STREAM, projections=name, until=2 * events)
        each[name] = told["running"] / events * 1e6
    return {
        "live_us_index_alone": round(each["index"], 2),
        "live_us_without": round(each["without"], 2),
        "live_us_with": round(each["with"], 2),
        "live_us_of_index": round(each["with"] - each["without"], 2),
    }


async def _listing(servers: Servers) -> dict[str, Any]:
    app = App("bench-index", stream=STREAM, nats_url=servers.nats, database_url=servers.database, environment=False)
    async with app:
        rows = app.store.repository(ViewSchema.of(IndexedAggregate), AGGREGATE_INDEX)
        from_stream, stream_seconds = await _listed(JetStreamIndexer(app.client, STREAM, app.scheme))
        from_index, index_seconds = await _listed(StoredIndexer(rows))
    if set(from_stream) != set(from_index) or len(from_index) != len(set(from_index)):
        raise RefoldError(
            f"the stream lists {len(from_stream)} aggregates, and the index {len(from_index)}: this is a bug in refold"
        )
    return {
        "listed": len(from_index),
        "stream_seconds": round(stream_seconds, 3),
        "index_seconds": round(index_seconds, 3),
        "times_faster": round(stream_seconds / index_seconds, 1),
    }


async def _listed(indexer: AggregateIndexer) -> tuple[list[str], float]:
    start = time.perf_counter()
    found = [one async for one in indexer.aggregate_ids(AGGREGATE)]
    return found, time.perf_counter() - start
