"""What 24 projections cost that share an app, against one that does all of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from refold.bench.fill import Filling
from refold.bench.live.kinds import KIND, SETS, draw_kinds
from refold.bench.live.plain import Reader
from refold.bench.live.running import ran
from refold.bench.servers import Servers
from refold.errors import RefoldError

__all__ = ["Many", "measure_many"]

STREAM: Final = "things"
_FIRST: Final = 240
"""Events that the first generations are built of."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """The same backlog, taken up by several sets of projections.

    Attributes:
        events: of the backlog.
        aggregates: that they are drawn from.
        told: what each set's worker told, by the set's name.
    """

    events: int
    aggregates: int
    told: Mapping[str, Mapping[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """As plain values; costs are ratios of the time from the connected worker to the head, committed."""
        one = self.told["one"]
        return {
            "events": self.events,
            "aggregates": self.aggregates,
            **{f"cost_24_{name}": round(self.told[name]["running"] / one["running"], 2) for name in ("parts", "all")},
            **{
                f"cpu_24_{name}": round(self.told[name]["running_cpu"] / one["running_cpu"], 2)
                for name in ("parts", "all")
            },
            **{
                name: {
                    "seconds": round(told["running"], 3),
                    "cpu_seconds": round(told["running_cpu"], 3),
                    "rows": told["rows"],
                    "batches": told["batches"],
                }
                for name, told in self.told.items()
            },
        }


async def measure_many(servers: Servers, *, events: int, aggregates: int, seed: int) -> Many:
    """Lets each set of projections take up the same events, one set after another.

    Raises:
        RefoldError: a worker failed, or views are not complete.
    """
    told = {}
    with Filling(servers.nats, STREAM, draw_kinds(aggregates, seed), aggregate=KIND) as filling:
        await asyncio.to_thread(filling.more, _FIRST)
        for name in SETS:
            await ran(servers, stream=STREAM, projections=name, until=_FIRST)
        await asyncio.to_thread(filling.more, events)
        for name in SETS:
            told[name] = await ran(servers, stream=STREAM, projections=name, until=_FIRST + events)
            _check(servers, name, _FIRST + events)
    return Many(events=events, aggregates=aggregates, told=told)


def _check(servers: Servers, name: str, events: int) -> None:
    with Reader.opened(servers.database) as reader:
        counted = [reader.total(projector.spec.name, "events")[1] for projector in SETS[name]]
    included = sum(counted) if name == "parts" else min(counted)
    if included != events:
        raise RefoldError(f"the views include {included} events, and the stream has {events}: this is a bug in refold")
