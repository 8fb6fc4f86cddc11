"""Servers, networks and streams that fail while a process runs the app: it goes on by itself, or says why it cannot."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from life_support import Life

from proxy import Proxy
from refold import App
from refold.embedded import EmbeddedNats
from refold.ports import Wanted
from servers import OwnPostgres


@asynccontextmanager
async def steady(life: Life, pause: float = 0.002) -> AsyncIterator[None]:
    """Publishes all the time, one event after the other."""
    over = asyncio.Event()

    async def publish() -> None:
        while not over.is_set():
            await life.publish(5)
            await asyncio.sleep(pause)

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        over.set()
        await publishing


async def gets_on(life: Life, events: int = 20, seconds: float = 30.0) -> None:
    """Waits until all views have got on by so many events."""
    there = life.position() + events
    names = ("accounts", "tags", "entries")
    await asyncio.to_thread(life.wait, lambda: min(map(life.position, names)) >= there, seconds)


async def finishes(life: Life, seconds: float = 30.0) -> None:
    """Waits until everything is in the views, and looks whether they are right."""
    await asyncio.to_thread(life.wait_for_head, seconds)
    await life.check()


def proxied(url: str, proxy: Proxy) -> str:
    return sa.make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


def port_of(url: str) -> int:
    return int(sa.make_url(url).port or 5432)


async def test_nats_is_killed_and_restarted(
    own_nats: Callable[..., EmbeddedNats], lasting_url: str, stream_name: str, seed: int
) -> None:
    async with own_nats() as server:
        life = Life(server.url, stream_name, lasting_url, seed=seed)
        await life.begin()
        with life.worker():
            for _ in range(3):
                await life.publish(100)
                await server.kill()
                await server.restart()
                await life.publish(20)
                await gets_on(life, 10)
            await finishes(life)


async def test_postgresql_is_restarted(nats: EmbeddedNats, stream_name: str, seed: int) -> None:
    server = OwnPostgres()
    try:
        server.start()
        life = Life(nats.url, stream_name, server.url, seed=seed)
        await life.begin()
        with life.worker():
            for _ in range(2):
                await life.publish(100)
                server.stop()
                await life.publish(20)
                server.start()
                await gets_on(life, 10)
            await finishes(life)
        server.stop()
    finally:
        server.remove()


async def test_sessions_are_terminated(nats: EmbeddedNats, postgres_url: str, stream_name: str, seed: int) -> None:
    life = Life(nats.url, stream_name, postgres_url, seed=seed)
    await life.begin()
    with life.worker():
        async with steady(life):
            for _ in range(10):
                await gets_on(life, 3)
                life.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND application_name = 'refold' AND pid <> pg_backend_pid()"
                )
        await finishes(life)


@pytest.mark.parametrize("forwarded", [True, False], ids=["committed", "not committed"])
async def test_the_connection_is_lost_in_a_commit(
    nats: EmbeddedNats, postgres_url: str, stream_name: str, seed: int, *, forwarded: bool
) -> None:
    life = Life(nats.url, stream_name, postgres_url, seed=seed)
    await life.begin()
    proxy, cuts = Proxy(), 0

    def cut(data: bytes) -> bytes:
        nonlocal cuts
        if b"COMMIT" not in data or b"refold_pending" in data:
            return data
        cuts += 1
        if cuts % 3:
            return data
        # Not at once: what is passed on must have arrived.
        asyncio.get_running_loop().call_later(0.05, proxy.cut)
        proxy.to_client = lambda _: b""
        asyncio.get_running_loop().call_later(0.06, setattr, proxy, "to_client", bytes)
        return data if forwarded else b""

    async with proxy.before(port_of(postgres_url)):
        with life.worker(life.settings | {"database_url": proxied(postgres_url, proxy)}) as worker:
            async with steady(life):
                await gets_on(life)
                proxy.to_server = cut
                await asyncio.to_thread(life.wait, lambda: cuts >= 12 or worker.process.poll() is not None, 20)
            await finishes(life)


async def test_a_lock_is_held_for_long(nats: EmbeddedNats, lasting_url: str, stream_name: str, seed: int) -> None:
    life = Life(nats.url, stream_name, lasting_url, seed=seed)
    await life.begin()
    with life.worker():
        await life.publish(20)
        await gets_on(life, 10)
        with life.engine.connect() as connection:
            if life.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(sa.text("SELECT * FROM refold_checkpoints FOR UPDATE"))
            before = life.position()
            await life.publish(20)
            await asyncio.sleep(4)  # longer than a commit waits for a lock
            assert life.position() == before
            connection.rollback()
        await finishes(life)


async def test_the_disk_is_full(nats: EmbeddedNats, sqlite_url: str, stream_name: str, seed: int) -> None:
    life = Life(nats.url, stream_name, sqlite_url, seed=seed)
    await life.begin()
    with life.worker(LIFE_FILE_BYTES="400000") as worker:
        while "a projection failed" not in worker.told() and "asked again" not in worker.told():
            await life.publish(100)
    found = await life.views()
    for name in ("accounts", "tags", "entries"):  # each may have gone on by itself, and is whole up to where it is
        assert found[name] == life.expected(upto=life.position(name))[name]
    assert found["log"] == life.expected(upto=life.position("entries"))["log"]
    assert life.position("entries") < len(life.events)
    with life.worker():
        await finishes(life)


@pytest.mark.parametrize("side", ["nats", "database"])
async def test_the_network_loses_its_way(
    nats: EmbeddedNats, postgres_url: str, stream_name: str, seed: int, side: str
) -> None:
    life = Life(nats.url, stream_name, postgres_url, seed=seed)
    await life.begin()
    proxy = Proxy()
    async with proxy.before(nats.port if side == "nats" else port_of(postgres_url)):
        through = {"nats_url": proxy.url} if side == "nats" else {"database_url": proxied(postgres_url, proxy)}
        with life.worker(life.settings | through):
            await life.publish(20)
            await gets_on(life, 10)
            for end in (proxy.cut, lambda: None):
                proxy.hold()
                await life.publish(20)
                await asyncio.sleep(1)
                end()
                proxy.release()
                await gets_on(life, 10)
            await finishes(life)


@pytest.mark.parametrize("where", ["between commits", "within a commit"])
async def test_a_process_sleeps_past_its_lease(life: Life, where: str) -> None:
    await life.begin()
    sleepy = {"LIFE_SLEEPS": "3"} if where == "within a commit" else {}
    with life.worker(LIFE_LEASE="1", **sleepy) as zombie:
        while where == "within a commit" and not zombie.sleeps():
            await life.publish(5)
        if where == "between commits":
            await life.publish(50)
            await gets_on(life, 10)
            zombie.send(signal.SIGSTOP)
        with life.worker(LIFE_LEASE="1") as heir:
            await life.publish(50)
            if life.engine.dialect.name == "sqlite" and where == "within a commit":
                # It has the file's only lock: nobody else writes before it wakes, and then either may be the one.
                await asyncio.sleep(2)
            else:
                await gets_on(life, 10)
            zombie.send(signal.SIGCONT)
            await asyncio.to_thread(life.wait, lambda: bool(zombie.process.poll() or heir.process.poll()))
            loser, winner = (zombie, heir) if zombie.process.poll() else (heir, zombie)
            assert loser.join() == 2
            assert "ended: Claim" in loser.errors, loser.errors
            await life.publish(20)
            await finishes(life)
            assert winner.process.poll() is None


async def test_the_sleeper_would_do_harm_without_the_guard(
    nats: EmbeddedNats, postgres_url: str, stream_name: str, seed: int
) -> None:
    """The twin: a writer that does not compare position and epoch applies a batch that another has applied."""
    life = Life(nats.url, stream_name, postgres_url, seed=seed)
    await life.begin()
    with life.worker(LIFE_LEASE="1", LIFE_UNGUARDED="1", LIFE_SLEEPS="3") as zombie:
        while not zombie.sleeps():
            await life.publish(5)
        with life.worker(LIFE_LEASE="1"):
            await gets_on(life, 5)
            await asyncio.to_thread(life.wait_for_head)
            zombie.send(signal.SIGCONT)
            await asyncio.to_thread(life.wait, lambda: max(life.applied().values()) > 1)


async def test_a_second_process_begins(life: Life) -> None:
    await life.begin()
    with life.worker(LIFE_LEASE="1") as one:
        async with steady(life):
            await gets_on(life)
            with life.worker(LIFE_LEASE="1") as other:
                assert await asyncio.to_thread(other.join) == 2
            assert "ended: ClaimHeld" in other.errors, other.errors
        await finishes(life)
        assert one.process.poll() is None


async def test_two_processes_begin_at_once(life: Life) -> None:
    """Each projection is run by one of them, whichever was first."""
    await life.begin()
    with life.worker(LIFE_LEASE="1"), life.worker(LIFE_LEASE="1"):
        async with steady(life):
            await gets_on(life, 200)
        await finishes(life)


@pytest.mark.parametrize("harm", ["lost", "twice", "cut short"])
async def test_messages_are_lost_or_come_twice(
    nats: EmbeddedNats, sqlite_url: str, stream_name: str, seed: int, harm: str
) -> None:
    life = Life(nats.url, stream_name, sqlite_url, seed=seed)
    await life.begin()
    proxy, rng = Proxy(), life.random

    def harmed(data: bytes) -> bytes:
        if b"MSG " not in data or rng.random() > 0.1:
            return data
        return {"lost": b"", "twice": data + data, "cut short": data[: len(data) // 2]}[harm]

    async with proxy.before(nats.port):
        with life.worker(life.settings | {"nats_url": proxy.url}):
            await asyncio.to_thread(life.wait, lambda: life.position() >= 0)
            await life.publish(5)
            await gets_on(life, 1)
            proxy.to_client = harmed
            async with steady(life):
                await asyncio.sleep(3)
            proxy.to_client = bytes
            await finishes(life)


async def consumers(app: App) -> list[str]:
    answer = await app.client.request(f"$JS.API.CONSUMER.NAMES.{app.stream}", b"", timeout=5)
    found: list[str] = json.loads(answer.data).get("consumers") or []
    return found


async def test_the_consumer_is_deleted(nats: EmbeddedNats, sqlite_url: str, stream_name: str, seed: int) -> None:
    life = Life(nats.url, stream_name, sqlite_url, seed=seed)
    await life.begin()
    with life.worker():
        async with life.app(database_url="memory://") as app, steady(life):
            for _ in range(5):
                await gets_on(life, 10)
                for name in await consumers(app):
                    await app.api.delete_consumer(app.stream, name)
        await finishes(life)


@pytest.mark.parametrize("length", ["shorter", "longer"])
async def test_the_stream_is_made_anew(life: Life, length: str) -> None:
    await life.begin()
    with life.worker():
        await life.publish(50)
        await finishes(life)
        async with life.app(database_url="memory://") as app:
            await app.client.jetstream().delete_stream(app.stream)
            prefix = life.settings["subject_prefix"]
            await app.api.ensure_stream(app.stream, [f"{prefix}.>"])
            for i in range(10 if length == "shorter" else 100):
                await app.client.jetstream().publish(f"{prefix}.account.b{i}.added", b"{}")
        await asyncio.to_thread(life.wait, lambda: life.status()[0] == "faulted")
        assert "refold" in life.status()[1]
        assert "reset" in life.status()[1]
    await life.check()


async def test_unread_events_are_purged(life: Life) -> None:
    await life.begin()
    with life.worker() as worker:
        await life.publish(30)
        await finishes(life)
        worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(worker.join) == 0, worker.errors
    await life.publish(30)
    async with life.app(database_url="memory://") as app:
        await app.client.jetstream().purge_stream(app.stream, seq=41)
    with life.worker():
        await asyncio.to_thread(life.wait, lambda: life.status()[0] == "faulted")
        assert life.position() == 30
    with life.worker(LIFE_EXPIRED="1"):
        await asyncio.to_thread(life.wait_for_head)


async def test_messages_are_deleted_in_between(life: Life) -> None:
    await life.begin()
    await life.publish(60)
    gone = [*life.random.sample(range(10, 60), 15), 60]
    async with life.app(database_url="memory://") as app:
        for position in gone:
            await app.client.jetstream().delete_msg(app.stream, position)
    with life.worker():
        await asyncio.to_thread(life.wait_for_head)
        life.forget(gone)
        await life.check()


async def test_killed_while_it_rebuilds_beside_live(
    nats: EmbeddedNats, lasting_url: str, stream_name: str, seed: int
) -> None:
    life = Life(nats.url, stream_name, lasting_url, seed=seed)
    await life.begin()
    await asyncio.to_thread(life.publish_bulk, 3_000)
    with life.worker():
        await asyncio.to_thread(life.wait_for_head)
    async with life.app() as app:
        for name in ("accounts", "tags", "entries"):
            await app.order(name, Wanted.REBUILD)
    for pause in (0.0, 0.05, 0.2):
        with life.worker() as worker:
            await asyncio.to_thread(life.wait, lambda: worker.process.poll() is not None or "begun" in worker.told())
            await life.publish(10)
            await asyncio.sleep(pause)
            worker.send(signal.SIGKILL)
            worker.join()
        assert len(life.ask("SELECT id FROM entries")) >= 2_500
    with life.worker():
        await asyncio.to_thread(
            life.wait, lambda: all("g1" not in life.table(name) for name in ("accounts", "tags", "entries"))
        )
        await life.publish(10)
        await asyncio.to_thread(life.wait_for_head)
    found, expected = await life.views(), life.expected()
    for name in ("accounts", "tags", "entries"):
        assert found[name] == expected[name]


@pytest.mark.parametrize("minor", ["2.11", "2.12", "2.14", "2.15"])
async def test_servers(
    own_nats: Callable[..., EmbeddedNats], sqlite_url: str, stream_name: str, seed: int, minor: str
) -> None:
    async with own_nats(version=minor) as server:
        life = Life(server.url, stream_name, sqlite_url, seed=seed, broken=10)
        await life.begin()
        with life.worker():
            await life.publish(50)
            await asyncio.to_thread(life.publish_bulk, 200)
            await finishes(life)
