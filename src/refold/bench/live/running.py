"""A worker process that runs projections live, as the benchmark's parts start, watch and end it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from refold.bench.servers import Servers
from refold.errors import RefoldError
from refold.ports import Database

__all__ = ["Worker", "at_position", "ran"]

_ENDING: Final = 15.0
_POLL: Final = 0.02


class Worker:
    """A process that runs projections.

    Args:
        process: the process.

    Attributes:
        pid: its id.
    """

    def __init__(self, process: Process) -> None:
        self.pid = process.pid
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(
        cls, servers: Servers, *, stream: str, projections: str, until: int | None = None
    ) -> AsyncIterator[Worker]:
        """Starts one; it is ended on leaving.

        Args:
            servers: where it connects to.
            stream: what it reads.
            projections: ``orders``, or one of `refold.bench.live.kinds.SETS`.
            until: the position at which it ends; None for no end.
        """
        told = {"app": f"bench-{projections}", "stream": stream, "projections": projections, "until": until}
        told["app"] = "bench" if projections == "orders" else told["app"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "refold.bench.live.worker",
            json.dumps(told | {"commanded": time.perf_counter()}),
            env=servers.environment,
            stdout=PIPE,
        )
        try:
            yield cls(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def result(self) -> dict[str, Any]:
        """What it told at its end.

        Raises:
            RefoldError: it failed.
        """
        output, _ = await self._process.communicate()
        if self._process.returncode:
            raise RefoldError(f"the worker ended with code {self._process.returncode}; its own words are above")
        told: dict[str, Any] = json.loads(output)
        return told

    async def end(self) -> dict[str, Any]:
        """Tells it to end, and gives what it told."""
        self._process.terminate()
        async with asyncio.timeout(_ENDING):
            return await self.result()

    def check(self) -> None:
        """Raises RefoldError if it has ended."""
        if self._process.returncode is not None:
            raise RefoldError(f"the worker ended with code {self._process.returncode}; its own words are above")


async def ran(servers: Servers, *, stream: str, projections: str, until: int) -> dict[str, Any]:
    """Runs projections until a position; what the worker told."""
    async with Worker.started(servers, stream=stream, projections=projections, until=until) as worker:
        return await worker.result()


async def at_position(store: Database, app: str, projection: str, position: int, worker: Worker) -> int:
    """Waits until a projection that a worker runs is at a position; where it is then.

    Raises:
        RefoldError: the worker has ended.
    """
    while True:
        at = (await store.positions(app, [projection])).get(projection, -1)
        if at >= position:
            return at
        worker.check()
        await asyncio.sleep(_POLL)
