"""What the benchmark of live running measured, for people and for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from refold.bench.live.backlog import Backlog
from refold.bench.live.growth import Growth
from refold.bench.live.latency import Latency, percentiles
from refold.bench.live.many import Many
from refold.bench.report import Host

__all__ = ["LiveReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LiveReport:
    """What was measured; None or nothing for what was not asked for.

    Attributes:
        store: as it was asked for.
        aggregates: aggregates that events were drawn from.
        backlog: a backlog against a rebuild.
        latency: from publishing to being seen, at one rate or several; the first is the one that counts.
        many: 24 projections against one.
        memory: memory of a worker over time.
        host: where it was measured.
    """

    store: str
    aggregates: int
    backlog: Backlog | None = None
    latency: Sequence[Latency] = ()
    many: Many | None = None
    memory: Growth | None = None
    host: Host

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, rounded to what the measurement gives."""
        told: dict[str, Any] = {"store": self.store, "aggregates": self.aggregates}
        if self.backlog is not None:
            told |= {"backlog_ratio": round(self.backlog.ratio, 3), "backlog": self.backlog.as_dict()}
        if self.latency:
            first, *others = map(_told, self.latency)
            told |= first | {f"at_{one['rate']}_per_s": one for one in others}
        if self.many is not None:
            told["many_projections"] = self.many.as_dict()
        if self.memory is not None:
            told["memory"] = self.memory.as_dict()
        return told | {"host": dataclasses.asdict(self.host)}

    def to_json(self) -> str:
        """The report as one JSON object."""
        return msgspec.json.format(msgspec.json.encode(self.as_dict()), indent=2).decode()

    def show(self, console: Console) -> None:
        """Prints the report for people."""
        table = Table(title=f"live, {self.store}, {self.aggregates:,} aggregates")
        for heading, justify in (("", "left"), ("measured", "right"), ("beside it", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for row in self._rows():
            table.add_row(*row)
        console.print(table)
        host = self.host
        servers = ", ".join(f"{name} {version}" for name, version in host.servers.items())
        console.print(f"{host.system}, {host.cpus} CPUs, {host.memory_mib:,} MiB, Python {host.python}; {servers}")

    def _rows(self) -> Sequence[tuple[str, str, str]]:
        rows: list[tuple[str, str, str]] = []
        if self.backlog is not None:
            told = self.backlog.as_dict()
            rate = f"{told['live_events_per_s']:,}/s; rebuild {told['rebuild_events_per_s']:,}/s"
            rows.append((f"backlog of {told['events']:,} against a rebuild", f"{self.backlog.ratio:.2f}", rate))
        for one in self.latency:
            seen, floor = percentiles(one.visible), percentiles(one.floor)
            for name in seen:
                what = f"publish to visible at {one.rate:,}/s, {name}"
                rows.append((what, f"{seen[name]:.1f} ms", f"floor {floor[name]:.1f} ms"))
        if self.many is not None:
            told = self.many.as_dict()
            for name, what in (("parts", "24 projections, a part each"), ("all", "24 projections, everything each")):
                took = f"{told[name]['seconds']:.2f} s; one {told['one']['seconds']:.2f} s"
                rows.append((f"{what}, against one", f"{told[f'cost_24_{name}']:.2f}", took))
        if self.memory is not None:
            told = self.memory.as_dict()
            last = f"last {told['last_quarter_mib']:.0f} MiB"
            rows.append((f"memory over {told['events']:,} events", f"first {told['first_quarter_mib']:.0f} MiB", last))
        return rows


def _told(one: Latency) -> dict[str, Any]:
    return {
        "rate": one.rate,
        "probes": len(one.visible),
        "publish_to_visible_ms": percentiles(one.visible),
        "publish_ms": percentiles(one.acknowledged),
        "floor_ms": percentiles(one.floor),
        "batches": one.worker["batches"],
        "largest_batch": one.worker["largest_batch"],
        "poller_cpu": round(one.poller_cpu, 2),
    }
