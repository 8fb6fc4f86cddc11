"""The benchmark of live running on small numbers: its figures are there, make sense, and stand for complete views."""

from __future__ import annotations

import json
import os

import pytest
from rich.console import Console

from refold.bench.fill import Filling
from refold.bench.live import backlog, latency
from refold.bench.live.backlog import Backlog, measure_backlog
from refold.bench.live.growth import Growth, measure_growth
from refold.bench.live.kinds import SETS, draw_kinds
from refold.bench.live.latency import Latency, measure_latency, percentiles
from refold.bench.live.many import Many, measure_many
from refold.bench.live.plain import Reader
from refold.bench.live.report import LiveReport
from refold.bench.live.running import ran
from refold.bench.model import draw
from refold.bench.rebuild import STREAM
from refold.bench.report import Host
from refold.bench.servers import Servers
from refold.engine.fold import Fold
from refold.errors import RefoldError

AGGREGATES = 40
SEEN = [1.0, 2.0, 3.0]
REPORT = LiveReport(
    store="sqlite",
    aggregates=AGGREGATES,
    backlog=Backlog(events=1_000, rebuild_seconds=3.0, live_seconds=4.0, views=AGGREGATES, phases={"running": 3.5}),
    latency=[
        Latency(
            rate=rate,
            visible=SEEN,
            acknowledged=SEEN,
            floor=SEEN,
            worker={"batches": 7, "largest_batch": 3},
            poller_cpu=0.1,
        )
        for rate in (2_000, 100)
    ],
    many=Many(
        events=100,
        aggregates=10,
        told={
            name: {"running": seconds, "running_cpu": seconds, "rows": 1, "batches": 1}
            for name, seconds in (("one", 2.0), ("parts", 5.0), ("all", 30.0))
        },
    ),
    memory=Growth(events=8_000, seconds=2.0, samples=[70, 71, 80, 80, 80, 80, 81, 83]),
    host=Host.here(nats="2.15.1"),
)


@pytest.fixture
async def servers(request):
    """Servers of their own, with the store that the test asks for."""
    async with Servers.started(request.param) as found:
        yield found


both = pytest.mark.parametrize("servers", ["postgresql", "sqlite"], indirect=True)
sqlite = pytest.mark.parametrize("servers", ["sqlite"], indirect=True)


def test_json_has_the_promised_names():
    told = json.loads(REPORT.to_json())
    assert told["backlog_ratio"] == 0.75
    assert told["backlog"]["rebuild_events_per_s"] == 333
    assert told["publish_to_visible_ms"] == told["floor_ms"] == {"p50": 2.0, "p99": 3.0}
    assert told["at_100_per_s"]["rate"] == 100
    assert told["many_projections"]["cost_24_parts"] == 2.5
    assert told["many_projections"]["cost_24_all"] == 15
    assert (told["memory"]["first_quarter_mib"], told["memory"]["last_quarter_mib"]) == (70.5, 82)


def test_people_see_every_figure():
    with open(os.devnull, "w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        REPORT.show(console)
    text = console.export_text()
    for part in ("0.75", "250/s", "publish to visible at 2,000/s, p99", "3.0 ms", "2.50", "15.00", "82 MiB"):
        assert part in text


def test_percentiles_are_values_that_were_measured():
    assert percentiles(range(1, 101)) == {"p50": 51, "p99": 99}
    assert percentiles([7]) == {"p50": 7, "p99": 7}


@both
async def test_a_backlog_is_taken_up_whole(servers):
    with Filling(servers.nats, STREAM, draw(None, AGGREGATES)) as filling:
        found = await measure_backlog(servers, filling, 1_500)
    assert found.views == AGGREGATES
    assert found.phases["rows"] >= AGGREGATES
    assert 0 < found.ratio < 10
    with Reader.opened(servers.database) as reader:
        assert reader.total("order_summaries", "version") == (AGGREGATES, 3_000)
    with pytest.raises(RefoldError, match="3000 events, and the stream has 3001"):
        backlog.check_orders(servers, 3_001)


@both
async def test_every_probe_is_seen(servers, monkeypatch):
    monkeypatch.setattr(latency, "_WARM_UP", 0.1)
    with Filling(servers.nats, STREAM, draw(None, AGGREGATES)) as filling:
        filling.more(500)
        found = await measure_latency(servers, filling, rate=400, seconds=1.0)
        total = filling.stored
    assert len(found.visible) == len(found.acknowledged) == len(found.floor) == 50
    assert 0 < min(found.acknowledged) < min(found.visible) < 5_000
    assert 800 <= total <= 1_000
    with Reader.opened(servers.database) as reader:
        assert reader.total("order_summaries", "version") == (AGGREGATES + 100, total)


@sqlite
async def test_many_projections_share_the_work(servers):
    """Against folds of the same events in this process."""
    found = await measure_many(servers, events=300, aggregates=30, seed=3)
    events = [event for event, _ in zip(draw_kinds(30, 3), range(540), strict=False)]
    with Reader.opened(servers.database) as reader:
        for projectors in SETS.values():
            for projector in projectors:
                fold = Fold(projector(), raising=True)
                for event in events:
                    fold.feed(event)
                views = [fold.view(str(aggregate)) for aggregate in range(30)]
                counted = [view.events for view in views if view is not None]
                assert reader.total(projector.spec.name, "events") == (len(counted), sum(counted))
    assert found.told["all"]["rows"] >= 24 * 20
    assert found.as_dict()["cost_24_parts"] > 0


@sqlite
async def test_memory_is_looked_at_while_events_come(servers):
    with Filling(servers.nats, STREAM, draw(None, AGGREGATES)) as filling:
        filling.more(100)
        found = await measure_growth(servers, filling, 4_500)
    assert len(found.samples) == 5
    assert min(found.samples) > 20
    with Reader.opened(servers.database) as reader:
        assert reader.total("order_summaries", "version") == (AGGREGATES, 4_600)


@sqlite
async def test_a_worker_that_fails_is_told(servers):
    with pytest.raises(RefoldError, match="the worker ended with code 1"):
        await ran(servers, stream=STREAM, projections="unknown", until=1)
