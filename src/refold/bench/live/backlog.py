"""How fast a backlog is taken up, against a rebuild of as many events in the same run."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from refold.bench.fill import Filling
from refold.bench.live.plain import Reader
from refold.bench.live.running import ran
from refold.bench.model import OrderSummaries
from refold.bench.rebuild import STREAM, rebuild
from refold.bench.servers import Servers
from refold.errors import RefoldError

__all__ = ["Backlog", "check_orders", "measure_backlog"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A backlog that was taken up.

    Attributes:
        events: how many were rebuilt, and how many more were taken up.
        rebuild_seconds: from the rebuild's command to committed views.
        live_seconds: from the worker's command to a checkpoint at the stream's head.
        views: rows at the end.
        phases: what the worker told of its time.
    """

    events: int
    rebuild_seconds: float
    live_seconds: float
    views: int
    phases: dict[str, Any]

    @property
    def ratio(self) -> float:
        """The backlog's rate over the rebuild's."""
        return self.rebuild_seconds / self.live_seconds

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "events": self.events,
            "rebuild_events_per_s": round(self.events / self.rebuild_seconds),
            "live_events_per_s": round(self.events / self.live_seconds),
            "views": self.views,
            **{name: round(value, 3) for name, value in self.phases.items()},
        }


async def measure_backlog(servers: Servers, filling: Filling, events: int) -> Backlog:
    """Rebuilds events, and takes up as many more.

    Raises:
        RefoldError: a worker failed, or views are not complete.
    """
    await asyncio.to_thread(filling.more, events)
    rebuild_seconds, _, _ = await rebuild(servers)
    await asyncio.to_thread(filling.more, events)
    told = await ran(servers, stream=STREAM, projections="orders", until=2 * events)
    views = check_orders(servers, 2 * events)
    seconds = told.pop("seconds")
    return Backlog(events=events, rebuild_seconds=rebuild_seconds, live_seconds=seconds, views=views, phases=told)


def check_orders(servers: Servers, events: int) -> int:
    """How many orders there are; each event of one raises its version, so that versions sum up to the events.

    Raises:
        RefoldError: they do not.
    """
    with Reader.opened(servers.database) as reader:
        views, versions = reader.total(OrderSummaries.spec.name, "version")
    if versions != events:
        raise RefoldError(f"the views include {versions} events, and the stream has {events}: this is a bug in refold")
    return views
