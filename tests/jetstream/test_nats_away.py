"""NATS or the database away: at the start, where waiting for it is tried for a while, and later."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
from jetstream_support import Orders, Placed, Proxy, eventually, exercise

from refold import App
from refold.embedded import EmbeddedNats
from refold.errors import NatsUnavailable, StoreUnavailable, StreamError, StreamNotFound
from refold.jetstream import connection
from refold.jetstream.connection import NatsSettings, connected
from servers import free_port

MakeNats = Callable[..., EmbeddedNats]


def app(**settings: Any) -> App:
    return App("shop", **{"nats_url": "nats://127.0.0.1:1", "database_url": "memory://", **settings})


def waits(caplog: pytest.LogCaptureFixture, what: str) -> list[logging.LogRecord]:
    """What the log says about waiting for something."""
    said = "not reachable at start; trying again"
    return [r for r in caplog.records if r.message == said and vars(r)["what"] == what]


# -- At the start ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "what", "kind", "words"),
    [
        ({"nats_url": "nats://ann:s3cret@127.0.0.1:1"}, "nats", NatsUnavailable, "nats://127.0.0.1:1.*check the URL"),
        (
            {"database_url": "postgresql://ann:s3cret@127.0.0.1:1/views"},
            "database",
            StoreUnavailable,
            "postgresql host=127.0.0.1 port=1",
        ),
    ],
)
async def test_what_stays_away_is_waited_for_and_then_told(
    caplog: pytest.LogCaptureFixture, settings: dict[str, str], what: str, kind: type[Exception], words: str
) -> None:
    began = monotonic()
    with pytest.raises(kind, match=words) as caught:
        async with app(**settings, startup_timeout=1):
            pass
    assert 0.5 < monotonic() - began < 5
    assert len(waits(caplog, what)) > 1
    assert all("127.0.0.1" in vars(record)["reason"] for record in waits(caplog, what))
    for text in [str(caught.value), *(str(vars(record)) for record in caplog.records)]:
        assert "s3cret" not in text


async def test_nats_that_comes_late(own_nats: MakeNats, caplog: pytest.LogCaptureFixture) -> None:
    server = own_nats(port=free_port())
    late = app(nats_url=server.url)
    entering = asyncio.create_task(late.__aenter__())
    await eventually(lambda: len(waits(caplog, "nats")) > 1)
    async with server:
        await entering
        try:
            await exercise(late)
        finally:
            await late.__aexit__(None, None, None)


async def test_a_database_that_comes_late(
    nats: EmbeddedNats, stream_name: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts = urlsplit(postgres_url)
    proxy = Proxy(free_port())
    url = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")).geturl()
    late = app(nats_url=nats.url, database_url=url, stream=stream_name, subject_prefix=stream_name)
    entering = asyncio.create_task(late.__aenter__())
    await eventually(lambda: len(waits(caplog, "database")) > 1)
    assert parts.port is not None
    async with proxy.before(parts.port):
        await entering
        try:
            await exercise(late)
        finally:
            await late.__aexit__(None, None, None)


async def test_a_start_that_is_given_up_leaves_nothing_open(own_nats: MakeNats, tmp_path: Any) -> None:
    waiting = app(nats_url=f"nats://127.0.0.1:{free_port()}", database_url=f"sqlite:///{tmp_path / 'v.db'}")
    task = asyncio.create_task(waiting.__aenter__())
    await eventually(lambda: (tmp_path / "v.db").exists())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_second_address_is_tried(nats: EmbeddedNats) -> None:
    for _ in range(4):  # the client shuffles them
        async with connected(NatsSettings(url=f"nats://127.0.0.1:1,{nats.url}")) as client:
            assert client.is_connected


# -- Later -----------------------------------------------------------------------------------------------------------------


async def test_a_connection_comes_back_after_a_restart_and_says_so(
    own_nats: MakeNats, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    caplog.set_level(logging.INFO, logger="refold")
    async with own_nats(tmp_path / "store") as server, app(nats_url=server.url) as one:
        await exercise(one)
        await server.kill()
        await eventually(lambda: not one.client.is_connected)
        with pytest.raises(StreamError):
            await one.rebuild()
        await server.start()
        await eventually(lambda: "nats connection made again" in caplog.messages)
        assert "nats connection lost; connecting again" in caplog.messages
        (result,) = await one.rebuild()
        assert (result.complete, result.events) == (True, 3)
    assert capsys.readouterr().err == ""


async def test_leaving_does_not_wait_for_a_server_that_takes_nothing(
    own_nats: MakeNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LAST_WORDS", 0.3)
    async with own_nats() as server:
        async with connected(NatsSettings(url=server.url)) as client:
            transport = client._transport._io_writer.transport  # type: ignore[union-attr]
            os.kill(server.pid, signal.SIGSTOP)
            try:
                # More than the kernel takes for it; `publish` would wait for it to be taken.
                transport.write(b"PUB a 20000000\r\n" + bytes(20_000_000) + b"\r\n")
                began = monotonic()
                await client.shut()
                assert monotonic() - began < 3
                await eventually(lambda: transport.get_extra_info("socket").fileno() == -1, deadline=3)
            finally:
                os.kill(server.pid, signal.SIGCONT)
        assert client.is_closed


# -- No stream -------------------------------------------------------------------------------------------------------------


async def test_a_stream_that_does_not_exist(
    nats: EmbeddedNats, stream_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning and nothing from readers and indexer; an error from a rebuild."""
    async with app(nats_url=nats.url, stream=stream_name) as one:
        one.register(Orders)
        for reading in (
            one.indexer.aggregate_ids("order"),
            one.event_reader.events(Orders.spec.wanted),
            one.stream_reader.read("order", "1"),
        ):
            caplog.clear()
            assert [item async for item in reading] == []
            (warning,) = caplog.records
            assert (warning.levelname, vars(warning)["stream"]) == ("WARNING", stream_name)
            assert "stream does not exist" in warning.message
        assert await one.event_reader.latest(Orders.spec.wanted, by_subject=True) == {}
        with pytest.raises(StreamNotFound, match=f"stream '{stream_name}' does not exist; create it"):
            await one.rebuild()
        with pytest.raises(StreamNotFound):
            await one.publisher.publish("order", "1", [Placed()])


async def test_closing_that_is_cancelled_leaves_no_socket_open(
    nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = asyncio.Event()

    async def never(self: object, *_: object) -> None:
        closing.set()
        await asyncio.Event().wait()

    async def use() -> None:
        async with connected(NatsSettings(url=nats.url, name="t")) as client:
            transports.append(client._transport._io_writer.transport)  # type: ignore[attr-defined]
            monkeypatch.setattr(type(client), "flush", never)

    transports: list[asyncio.BaseTransport] = []
    using = asyncio.create_task(use())
    await closing.wait()
    using.cancel()
    await asyncio.gather(using, return_exceptions=True)
    assert transports[0].is_closing()
    await asyncio.sleep(0.05)
