"""The result of a benchmark, for people and for programs."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

__all__ = ["Host", "RebuildReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where it was measured.

    Attributes:
        system: operating system and machine.
        cpus: processors that this process may use.
        memory_mib: memory of the machine; 0 where it is not known.
        python: version of Python.
        servers: versions of the servers that took part, by name.
    """

    system: str
    cpus: int
    memory_mib: int
    python: str
    servers: Mapping[str, str]

    @classmethod
    def here(cls, **servers: str) -> Host:
        """This machine, with the versions of servers: ``Host.here(nats=..., postgresql=...)``."""
        return cls(
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_mib=_memory_mib(),
            python=platform.python_version(),
            servers=servers,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """What a benchmark of a rebuild measured.

    Attributes:
        events: events in the stream.
        aggregates: aggregates that they were drawn from.
        views: rows that the rebuild made.
        store, skew: as they were asked for.
        seconds: from the rebuild's command to committed views.
        raw_events_per_s: what a bare socket reads of the same stream.
        peak_rss_mib: sum of the peak resident memory of the rebuild's processes.
        peers: events a second of the other engines, by name.
        host: where it was measured.
    """

    events: int
    aggregates: int
    views: int
    store: str
    skew: str
    seconds: float
    raw_events_per_s: float
    peak_rss_mib: float
    peers: Mapping[str, float]
    host: Host

    @property
    def events_per_s(self) -> float:
        """Events a second of the whole rebuild."""
        return self.events / self.seconds

    @property
    def ratio_to_raw(self) -> float:
        """How much of the raw limit the rebuild reaches, at most 1 in theory."""
        return self.events_per_s / self.raw_events_per_s

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, rounded to what the measurement gives."""
        return {
            "events_per_s": round(self.events_per_s),
            "raw_events_per_s": round(self.raw_events_per_s),
            "ratio_to_raw": round(self.ratio_to_raw, 3),
            "peak_rss_mib": round(self.peak_rss_mib, 1),
            "peers": {name: round(rate) for name, rate in self.peers.items()},
            "seconds": round(self.seconds, 3),
            "events": self.events,
            "aggregates": self.aggregates,
            "views": self.views,
            "store": self.store,
            "skew": self.skew,
            "host": dataclasses.asdict(self.host),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return msgspec.json.format(msgspec.json.encode(self.as_dict()), indent=2).decode()

    def show(self, console: Console) -> None:
        """Prints the report for people."""
        table = Table(title=f"{self.events:,} events, {self.views:,} views, {self.store}, {self.skew}")
        table.add_column("")
        table.add_column("events/s", justify="right")
        table.add_column("of the raw limit", justify="right")
        rates = {"raw limit": self.raw_events_per_s, "refold rebuild": self.events_per_s, **self.peers}
        for name, rate in rates.items():
            table.add_row(name, f"{rate:,.0f}", f"{rate / self.raw_events_per_s:.1%}")
        console.print(table)
        console.print(f"rebuild: {self.seconds:.2f} s, {self.peak_rss_mib:,.0f} MiB at most")
        servers = ", ".join(f"{name} {version}" for name, version in self.host.servers.items())
        host = self.host
        console.print(f"{host.system}, {host.cpus} CPUs, {host.memory_mib:,} MiB, Python {host.python}; {servers}")


def _memory_mib() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError, AttributeError):
        return 0
