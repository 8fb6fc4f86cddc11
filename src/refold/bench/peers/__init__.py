"""Other ways to make the same views, each run for a while on the same events, for comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Final

from refold.errors import ConfigurationError

__all__ = ["PEERS", "PeerResult", "run_peer"]

PEERS: Final[Mapping[str, str]] = {
    "per_aggregate": "refold.bench.peers.per_aggregate",
    "eventsourcing": "refold.bench.peers.eventsourcing_runner",
    "faststream": "refold.bench.peers.faststream_handler",
}
"""What can be compared with, by name: modules with ``async run(nats_url, stream, database_url, seconds)``."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerResult:
    """What a peer managed.

    Attributes:
        name: the peer's.
        events: how many events it had folded and committed when its time was up.
        seconds: its time, without its preparations.
    """

    name: str
    events: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        """Events a second."""
        return self.events / self.seconds if self.seconds else 0.0


async def run_peer(name: str, nats_url: str, stream: str, database_url: str, *, seconds: float = 20.0) -> PeerResult:
    """Lets a peer make the views of the benchmark's orders.

    It uses a table of its own, ``bench_{name}``, made anew.

    Args:
        name: one of `PEERS`.
        nats_url: of the NATS server.
        stream: a stream filled by `refold.bench.fill`.
        database_url: ``postgresql://…``, ``sqlite:///file``, or ``sqlite://`` for SQLite in memory.
        seconds: when to stop, if it is not through before.

    Raises:
        ConfigurationError: no such peer, its package is not installed, or the URL is of another kind.
    """
    if name not in PEERS:
        raise ConfigurationError(f"there is no peer {name!r}; there are {', '.join(PEERS)}")
    run: Callable[[str, str, str, float], Awaitable[PeerResult]] = import_module(PEERS[name]).run
    return await run(nats_url, stream, database_url, seconds)
