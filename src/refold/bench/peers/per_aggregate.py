"""The per-aggregate algorithm: list the aggregates, then for each read its events, fold them and save its view.

One filtered ephemeral consumer an aggregate, every event acknowledged, one upsert a view; one aggregate after another.
Listing is not timed.
"""

from __future__ import annotations

import json
from typing import Any

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from refold.bench.model import AGGREGATE, OrderSummaries
from refold.bench.peers import PeerResult
from refold.bench.peers.source import FETCH, Event, Stopwatch, connected, decode
from refold.bench.peers.table import Table
from refold.subjects import SubjectScheme

__all__ = ["run"]

_SCHEME = SubjectScheme()


async def run(nats_url: str, stream: str, database_url: str, seconds: float) -> PeerResult:
    """Folds one aggregate after another until all are done or the time is up; see `refold.bench.peers.run_peer`."""
    projector, events = OrderSummaries(), 0
    async with connected(nats_url) as client:
        aggregates = await _aggregates(client, stream)
        context = client.jetstream()
        with Table.opened("bench_per_aggregate", database_url) as table:
            watch = Stopwatch(seconds)
            for aggregate in aggregates:
                if watch.is_up:
                    break
                history = await _history(context, stream, aggregate)
                view = projector.project(AGGREGATE, aggregate, history)
                if view is not None:
                    table.save(view)
                events += len(history)
            return PeerResult("per_aggregate", events, watch.seconds)


async def _aggregates(client: Client, stream: str) -> list[str]:
    """Every aggregate's id, page by page of the stream's subjects."""
    found: dict[str, None] = {}
    offset, total = 0, 1
    while offset < total:
        question = {"subjects_filter": _SCHEME.pattern(AGGREGATE), "offset": offset}
        answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", json.dumps(question).encode(), timeout=60)
        page: dict[str, Any] = json.loads(answer.data)
        subjects = page["state"].get("subjects") or {}
        found.update(dict.fromkeys(_SCHEME.parse(subject).aggregate_id for subject in subjects))
        total = page.get("total", 0) if subjects else 0
        offset += len(subjects)
    return list(found)


async def _history(context: JetStreamContext, stream: str, aggregate: str) -> list[Event]:
    """The events of one aggregate."""
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        inactive_threshold=60,
        mem_storage=True,
        num_replicas=1,
    )
    subject = _SCHEME.pattern(AGGREGATE, aggregate)
    subscription = await context.pull_subscribe(subject, stream=stream, config=config)
    consumer = await subscription.consumer_info()
    events: list[Event] = []
    while len(events) < (consumer.num_pending or 0):
        for message in await subscription.fetch(min(FETCH, (consumer.num_pending or 0) - len(events)), timeout=10):
            events.append(decode(message))
            await message.ack()
    await subscription.unsubscribe()
    await context.delete_consumer(stream, consumer.name)
    return events
