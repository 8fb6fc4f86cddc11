"""The aggregate index, built and live, on every store, against the stream's own list of subjects."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from refold import App, DomainEvent, IndexedAggregate, NewEvent, Projector, StoredIndexer, View, event, on
from refold.embedded import EmbeddedNats
from refold.engine.aggregates import CaughtUpIndexer, aggregate_index
from refold.errors import ConfigurationError, DefinitionError, StoreError
from refold.ports import Status
from refold.testing import check_projector
from refold.testing.strategies import payloads

ODD = ["1", "a.b", "a b", "*", ">", "%", "ünï", "x/y", "x.", "~"]


@event("opened")
class Opened(msgspec.Struct, gc=False):
    owner: str


def _lift(payload: dict[str, Any]) -> dict[str, Any]:
    return {"by": payload["name"]}


@event("closed", upcast_from={1: _lift})
class Closed(msgspec.Struct, gc=False):
    by: str


class Account(View):
    owner: str = ""


class Accounts(Projector[Account], name="accounts", aggregate="account", version=1):
    @on(Opened)
    def opened(self, view: Account, event: DomainEvent[Opened]) -> None:
        view.owner = event.payload.owner


class Closings(Projector[Account], name="closings", version=1):
    @on(Closed)
    def closed(self, view: Account, event: DomainEvent[Closed]) -> None:
        view.owner = event.payload.by


def made(nats: EmbeddedNats, stream: str, url: str) -> App:
    app = App("idx", nats_url=nats.url, stream=stream, subject_prefix=stream, database_url=url, environment=False)
    app.register(Accounts, Closings)
    return app


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@asynccontextmanager
async def running(app: App) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(app.run(stop=stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


async def listed(indexer: Any, kind: str) -> list[str]:
    return [one async for one in indexer.aggregate_ids(kind)]


async def test_it_lists_what_the_stream_lists_built_and_live(
    nats: EmbeddedNats, stream_name: str, database_url: str
) -> None:
    app = made(nats, stream_name, database_url)
    index = app.index_aggregates()
    async with app:
        for kind in ("account", "account2", "account.x", "account/"):
            for aggregate_id in ODD:
                await app.publish(kind, aggregate_id, [Opened("ann")])
        async with running(app):
            ack = await app.publish("account", "1", [Closed("bob")])
            await app.publish("account", "new", [Opened("bob")])
            ack = await app.publish("account", "new", [Closed("bob")])
            await app.wait_for(index, ack.position)
            await eventually(lambda: _is_live(app))
            for page in (1, 3, 1000):
                stored = StoredIndexer(app.views(index), page=page)
                for kind in ("account", "account2", "account.x", "account/", "none"):
                    assert await listed(stored, kind) == sorted(await listed(_from_stream(app), kind))
            assert sorted(await listed(app.indexer, "account")) == sorted([*ODD, "new"])
        rows = {row.aggregate_id: row async for row in app.stored_indexer.aggregates("account")}
    first, last = rows["1"], rows["new"]
    assert (first.events, first.aggregate_version, first.first_position) == (2, 2, 1)
    assert (last.events, last.aggregate_version, last.position) == (2, 2, ack.position)
    assert last.first_position == ack.position - 1
    assert last.created_at is not None
    assert last.updated_at is not None
    assert last.created_at < last.updated_at


def _from_stream(app: App) -> Any:
    indexer = app.indexer
    assert isinstance(indexer, CaughtUpIndexer)
    return indexer._other


async def _is_live(app: App) -> bool:
    found = await app.store.generations(app.name, "aggregate_index")
    return bool(found) and found[0].status is Status.LIVE


async def test_what_is_listed_is_never_behind(
    nats: EmbeddedNats, stream_name: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    whole = StoredIndexer.aggregate_ids

    async def counted(self: StoredIndexer, kind: str) -> AsyncIterator[str]:
        asked[kind] += 1
        async for one in whole(self, kind):
            yield one

    monkeypatch.setattr(StoredIndexer, "aggregate_ids", counted)
    app = made(nats, stream_name, sqlite_url)
    app.index_aggregates()
    async with app:
        assert await listed(app.indexer, "account") == []  # neither stream nor index is there
        await app.publish("account", "1", [Opened("ann")])
        assert await listed(app.indexer, "account") == ["1"]
        assert not asked  # the index was never built
        await app.rebuild()
        assert await listed(app.indexer, "account") == ["1"]
        assert asked["account"] == 1  # it is at the head
        await app.publish("account", "2", [Opened("ann")])
        assert sorted(await listed(app.indexer, "account")) == ["1", "2"]
        assert asked["account"] == 1  # nobody runs it
        async with running(app):
            await eventually(lambda: _is_live(app))
            for number in range(3, 9):
                await app.publish("account", str(number), [Opened("ann")])
                assert len(await listed(app.indexer, "account")) == number
            assert asked["account"] == 7  # it was waited for
        await app.client.jetstream().delete_stream(app.stream)
        await app.publish("account", "other", [Opened("ann")])
        assert await listed(app.indexer, "account") == ["other"]  # which another stream says
        assert asked["account"] == 7
    async with made(nats, stream_name, "memory://") as empty:
        empty.index_aggregates()
        with pytest.raises(StoreError):
            await listed(empty.stored_indexer, "account")


async def test_payloads_are_not_looked_at(nats: EmbeddedNats, stream_name: str, sqlite_url: str) -> None:
    app = made(nats, stream_name, sqlite_url)
    index = app.index_aggregates()
    async with app:
        await app.publish("account", "1", [NewEvent(payload={"owner": 5}, type="opened")])
        await app.publish("account", "2", [NewEvent(payload={"name": "old version"}, type="closed")])
        await app.publish("account", "3", [Closed("bob")])
        results = await app.rebuild(index)
        assert [(r.complete, r.views) for r in results] == [(True, 3)]
        row = await app.views(index).find_by_id("account.1")
        assert row == IndexedAggregate(
            "account.1", row and row.created_at, row and row.updated_at, 1, 1, "account", "1", 1, 1, 1
        )


async def test_a_new_event_type_asks_for_a_new_index(nats: EmbeddedNats, stream_name: str, sqlite_url: str) -> None:
    app = App("idx", nats_url=nats.url, stream=stream_name, subject_prefix=stream_name, database_url=sqlite_url)
    app.register(Accounts)
    index = app.index_aggregates()
    async with app:
        await app.publish("account", "1", [Opened("ann")])
        await app.rebuild()
    later = made(nats, stream_name, sqlite_url)
    later.index_aggregates()
    async with later, running(later):

        async def faulted() -> bool:
            (found,) = await later.store.generations(later.name, index.spec.name)
            return found.status is Status.FAULTED and "refold reset aggregate_index" in found.reason

        await eventually(faulted)


def test_any_history_any_crash() -> None:
    index = aggregate_index(
        {"opened": Accounts.spec.routes["opened"].event_type, "closed": Closings.spec.routes["closed"].event_type}
    )
    check_projector(index, payloads={"opened": payloads(Opened), "closed": payloads(Closed)}, max_examples=50)


def test_registering() -> None:
    app = App("idx", environment=False, database_url="memory://", nats_url="nats://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="register projectors before"):
        app.index_aggregates()
    app.register(Accounts)
    assert set(app.index_aggregates().spec.routes) == {"opened"}
    app.register(Closings)  # which the index learns of
    assert set(app.projector("aggregate_index").spec.routes) == {"opened", "closed"}
    assert {name: known.payload for name, known in app.event_types.items()} == {"opened": Opened, "closed": Closed}
    app.register(Closings)
    assert app.projections == ("accounts", "aggregate_index", "closings")

    class Taken(Projector[Account], name="aggregate_index", aggregate="account"):
        @on(Opened)
        def opened(self, view: Account, event: DomainEvent[Opened]) -> None: ...

    with pytest.raises(ConfigurationError, match="two projectors are called"):
        app.register(Taken)
    other = App("idx", environment=False, database_url="memory://", nats_url="nats://127.0.0.1:1")
    other.register(Taken)
    with pytest.raises(ConfigurationError, match="called 'aggregate_index' already"):
        other.index_aggregates()
    with pytest.raises(ConfigurationError, match="has no aggregate index"):
        _ = other.stored_indexer
    with pytest.raises(DefinitionError, match="needs event types"):
        aggregate_index({})
