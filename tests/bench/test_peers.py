"""Every peer makes the views that a plain fold makes: otherwise its speed would say nothing."""

from __future__ import annotations

import builtins
import sys

import pytest

from refold.bench.fill import fill
from refold.bench.model import AGGREGATE, OrderSummaries, draw
from refold.bench.peers import PEERS, PeerResult, run_peer
from refold.bench.peers.table import Table
from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError, StoreUnavailable

EVENTS, AGGREGATES = 2_500, 60


@pytest.fixture(scope="module")
def filled():
    """URL of a server with a filled stream."""
    from servers import run

    server = EmbeddedNats()
    run(server.__aenter__())
    fill(server.url, "BENCH", events=EVENTS, aggregates=AGGREGATES, seed=9)
    yield server.url
    run(server.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def expected():
    """The views of a plain fold."""
    import msgspec

    histories = {}
    for position, event in enumerate(draw(EVENTS, AGGREGATES, seed=9), 1):
        msgspec.structs.force_setattr(event, "position", position)
        histories.setdefault(event.aggregate_id, []).append(event)
    projector = OrderSummaries()
    return {key: projector.project(AGGREGATE, key, events) for key, events in histories.items()}


@pytest.mark.parametrize("store", ["postgres_url", "sqlite_url"])
@pytest.mark.parametrize("peer", PEERS)
async def test_peer_folds_as_a_plain_fold(request, filled, expected, peer, store):
    database_url = request.getfixturevalue(store)
    for _ in range(2):  # the second run starts from nothing again
        result = await run_peer(peer, filled, "BENCH", database_url, seconds=30)
        assert (result.name, result.events) == (peer, EVENTS)
        assert 0 < result.seconds < 30
        with Table.opened(f"bench_{peer}", database_url, fresh=False) as table:
            assert table.views() == expected


@pytest.mark.parametrize("peer", PEERS)
async def test_peer_stops_when_its_time_is_up(filled, sqlite_url, peer):
    result = await run_peer(peer, filled, "BENCH", sqlite_url, seconds=0.05)
    assert result.events < EVENTS or result.seconds < 0.5
    assert result.seconds < 5


@pytest.mark.parametrize("peer", PEERS)
async def test_peer_writes_to_sqlite_in_memory(filled, peer):
    assert (await run_peer(peer, filled, "BENCH", "sqlite://", seconds=30)).events == EVENTS


def test_rate_of_no_time_is_zero():
    assert PeerResult("x", 10, 2.5).events_per_s == 4
    assert PeerResult("x", 0, 0.0).events_per_s == 0


async def test_unknown_peer_is_refused():
    with pytest.raises(ConfigurationError, match=r"no peer 'x'.*per_aggregate"):
        await run_peer("x", "nats://127.0.0.1:1", "BENCH", "sqlite://")


@pytest.mark.parametrize(("peer", "package"), [("eventsourcing", "eventsourcing"), ("faststream", "faststream")])
async def test_missing_package_is_named(monkeypatch, peer, package):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, PEERS[peer], raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=f"pip install '{package}"):
        await run_peer(peer, "nats://127.0.0.1:1", "BENCH", "sqlite://")


async def test_unreachable_database_is_told_without_its_password(filled):
    url = "postgresql://me:secret-one@127.0.0.1:1/x"
    with pytest.raises(StoreUnavailable) as told:
        await run_peer("per_aggregate", filled, "BENCH", url, seconds=1)
    assert "secret-one" not in str(told.value)


async def test_other_databases_are_refused(filled):
    with pytest.raises(ConfigurationError, match="mysql"):
        await run_peer("per_aggregate", filled, "BENCH", "mysql://localhost/x", seconds=1)
