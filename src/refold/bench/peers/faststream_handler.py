"""FastStream: a JetStream pull subscriber whose handler writes one upsert an event.

Settings, from FastStream's documentation: pulls in batches that are handed to the handler as one (which also keeps
their order, and allows one transaction a batch), and a decoder of one's own (msgspec, as in refold) instead of the
general one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from refold.bench.model import AGGREGATE
from refold.bench.peers import PeerResult
from refold.bench.peers.source import FETCH, Event, Stopwatch, connected, decode
from refold.bench.peers.table import Table
from refold.errors import ConfigurationError
from refold.subjects import SubjectScheme

try:
    from faststream.nats import JStream, NatsBroker, PullSub
except ImportError as error:
    raise ConfigurationError("this peer needs a package: pip install 'faststream[nats]'") from error

__all__ = ["run"]


async def run(nats_url: str, stream: str, database_url: str, seconds: float) -> PeerResult:
    """Handles the stream from its beginning until all is done or the time is up; see `refold.bench.peers.run_peer`."""
    async with connected(nats_url) as client:
        expected = (await client.jetstream().stream_info(stream)).state.messages
    broker = NatsBroker(nats_url, logger=None, apply_types=False)
    done, handled = asyncio.Event(), 0
    with Table.opened("bench_faststream", database_url) as table:

        async def decoder(message: Any) -> list[Event]:
            return [decode(one) for one in message.raw_message]

        @broker.subscriber(
            SubjectScheme().pattern(AGGREGATE),
            stream=JStream(stream, declare=False),
            pull_sub=PullSub(batch_size=min(FETCH, expected or 1), timeout=1.0, batch=True),
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=4 * FETCH
            ),
            decoder=decoder,
        )
        async def handle(events: list[Event]) -> None:
            nonlocal handled
            if watch.is_up:
                done.set()
                return
            table.apply(events)
            handled += len(events)
            if handled >= expected or watch.is_up:
                done.set()

        watch = Stopwatch(seconds)
        async with broker:
            await broker.start()
            try:
                async with asyncio.timeout(seconds + 5):
                    await done.wait()
            except TimeoutError:
                pass  # what was handled until now counts
            spent = watch.seconds
        return PeerResult("faststream", handled, spent)
