"""``refold bench rebuild``: a rebuild measured against the raw limit of reading the same stream, and against others."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from refold.bench.fill import fill
from refold.bench.memory import PeakMemory
from refold.bench.model import Skew
from refold.bench.peers import PEERS, run_peer
from refold.bench.raw import raw_limit
from refold.bench.report import Host, RebuildReport
from refold.bench.servers import Servers
from refold.errors import RebuildError

__all__ = ["STREAM", "rebuild", "run_bench"]

STREAM = "bench"


async def run_bench(
    *,
    events: int,
    aggregates: int,
    store: str,
    skew: Skew,
    seed: int,
    peers: bool,
    trace: bool,
    as_json: bool,
) -> int:
    """Fills a stream of a NATS server of its own, measures, prints; the exit code."""
    say = Console(stderr=True).print
    async with Servers.started(store) as servers:
        say(f"filling a stream with {events:,} events …")
        await asyncio.to_thread(fill, servers.nats, STREAM, events=events, aggregates=aggregates, skew=skew, seed=seed)
        say("reading it by a bare socket …")
        raw = await asyncio.to_thread(raw_limit, servers.nats, STREAM)
        say("rebuilding …")
        seconds, memory, told = await rebuild(servers)
        rates: dict[str, float] = {}
        for name in PEERS if peers else ():
            say(f"running {name} for about 20 seconds …")
            peer_url = servers.database if store != "memory" else f"sqlite:///{servers.home / 'peers.db'}"
            rates[name] = (await run_peer(name, servers.nats, STREAM, peer_url)).events_per_s
        report = RebuildReport(
            events=events,
            aggregates=aggregates,
            views=told["views"],
            store=store,
            skew=skew,
            seconds=seconds,
            raw_events_per_s=raw,
            peak_rss_mib=memory,
            peers=rates,
            host=Host.here(nats=await asyncio.to_thread(servers.nats_version)),
        )
    _print(report, told["phases"] if trace else None, as_json=as_json)
    return 0


async def rebuild(servers: Servers) -> tuple[float, float, dict[str, Any]]:
    """One rebuild in a process of its own: seconds from its command to committed views, MiB, and what it told.

    Raises:
        RebuildError: it failed.
    """
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "refold.bench.worker",
        repr(start),
        env=servers.environment,
        stdout=asyncio.subprocess.PIPE,
    )
    with PeakMemory(process.pid) as memory:
        output, _ = await process.communicate()
    if process.returncode:
        raise RebuildError(f"the rebuild ended with code {process.returncode}; its own words are above")
    told: dict[str, Any] = json.loads(output)
    return told["seconds"], memory.mib, told


def _print(report: RebuildReport, phases: Mapping[str, float] | None, *, as_json: bool) -> None:
    if as_json:
        told = report.as_dict() | ({"phases": phases} if phases is not None else {})
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    console = Console()
    report.show(console)
    for name, seconds in (phases or {}).items():
        console.print(f"  {name:<12} {seconds:6.2f} s")
