"""How soon another process sees a published event in its view, while the stream is published to steadily."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any, Final

from refold.app import App
from refold.bench.connection import BareConnection
from refold.bench.fill import Filling, Publications
from refold.bench.live.backlog import check_orders
from refold.bench.live.running import Worker, at_position
from refold.bench.model import AGGREGATE, Address, OrderPlaced, OrderSummaries, OrderSummary
from refold.bench.peers.table import Table
from refold.bench.rebuild import STREAM
from refold.bench.servers import Servers
from refold.codecs import JsonCodec
from refold.errors import RefoldError
from refold.event import DomainEvent
from refold.subjects import SubjectScheme

__all__ = ["Latency", "measure_latency", "percentiles"]

_TICK: Final = 0.005
"""Seconds between two sends of the steady publishing."""
_PROBES: Final = 50
"""A second, and as many of the floor's, in turn."""
_WARM_UP: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How soon events were seen.

    Attributes:
        rate: events a second that were published.
        visible: milliseconds from before ``publish()`` until the row was seen, an entry a probe.
        acknowledged: milliseconds that ``publish()`` took.
        floor: milliseconds of a bare publish with its acknowledgement and one committed upsert after it.
        worker: what the worker told.
        poller_cpu: processor time of the process that looked, as a part of the time that passed.
    """

    rate: int
    visible: Sequence[float]
    acknowledged: Sequence[float]
    floor: Sequence[float]
    worker: dict[str, Any]
    poller_cpu: float


async def measure_latency(servers: Servers, filling: Filling, *, rate: int, seconds: float, seed: int = 1) -> Latency:
    """Publishes steadily while a worker runs.

    Args:
        servers: where.
        filling: gives the events that most of the publishing consists of.
        rate: events a second, those of the probes and of the floor among them.
        seconds: how long.
        seed: of the probes' times.

    Raises:
        RefoldError: a process failed, or views are not complete at the end.
    """
    filling.share()
    app = App("bench", environment=False, stream=STREAM, nats_url=servers.nats, database_url=servers.database)
    async with app, Worker.started(servers, stream=STREAM, projections="orders") as worker:
        run = _Run(servers, filling, app, worker, rate=rate, seconds=seconds, random=Random(seed))  # noqa: S311
        return await run.measured()


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median, and what 99 of 100 do not exceed."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {name: round(ordered[round(part * last)], 2) for name, part in (("p50", 0.5), ("p99", 0.99))}


class _Run:
    """One measuring at one rate."""

    def __init__(
        self,
        servers: Servers,
        filling: Filling,
        app: App,
        worker: Worker,
        *,
        rate: int,
        seconds: float,
        random: Random,
    ) -> None:
        self._servers = servers
        self._filling = filling
        self._app = app
        self._worker = worker
        self._rate = rate
        self._seconds = seconds
        self._slot = 1 / (2 * min(_PROBES, rate / 4))  # a probe and a floor take turns in these
        self._offsets = [random.random() for _ in range(int(seconds / self._slot))]
        self._acknowledged: list[float] = []
        self._floor: list[float] = []

    async def measured(self) -> Latency:
        """Measures."""
        before = await asyncio.to_thread(self._filling.settle, self._filling.stored)
        ticks = await asyncio.to_thread(self._ticks)
        await self._at(before)
        async with _poller(self._servers) as poller:
            start = time.perf_counter() + 0.1
            first = start + _WARM_UP
            load = asyncio.to_thread(self._load, ticks, start)
            floors = asyncio.to_thread(self._floors, first)
            await asyncio.gather(load, floors, self._probes(first, poller))
            assert poller.stdin is not None  # noqa: S101 (a pipe was asked for)
            poller.stdin.close()
            output, _ = await poller.communicate()
        if poller.returncode:
            raise RefoldError("the process that looks for rows failed; its own words are above")
        seen = json.loads(output)
        expected = self._filling.stored + len(self._offsets)
        head = await asyncio.to_thread(self._filling.settle, expected)
        await self._at(head)
        check_orders(self._servers, head)
        return Latency(
            rate=self._rate,
            visible=seen["took"],
            acknowledged=self._acknowledged,
            floor=self._floor,
            worker=await self._worker.end(),
            poller_cpu=seen["cpu"] / (self._seconds + _WARM_UP),
        )

    async def _at(self, position: int) -> None:
        await at_position(self._app.store, "bench", OrderSummaries.spec.name, position, self._worker)

    # -- Steady publishing -----------------------------------------------------------------------------------------------

    def _ticks(self) -> list[bytes]:
        """What is published besides probes and floors, a tick at a time, encoded beforehand."""
        rate = self._rate - 1 / self._slot
        count = int((self._seconds + _WARM_UP) / _TICK)
        numbers = [int(rate * _TICK * tick) for tick in range(count + 1)]
        return [self._filling.lines(after - before) for before, after in itertools.pairwise(numbers)]

    def _load(self, ticks: Sequence[bytes], start: float) -> None:
        for number, lines in enumerate(ticks):
            _sleep_until(start + number * _TICK)
            if lines:
                self._filling.send(lines)

    # -- Probes and floors -----------------------------------------------------------------------------------------------

    def _times(self, first: float, odd: int) -> Iterator[tuple[int, float]]:
        """Numbers and times of every other slot: a moment that is drawn in each, so as not to go with the ticks."""
        for number in range(odd, len(self._offsets), 2):
            yield number, first + (number + self._offsets[number]) * self._slot

    async def _probes(self, first: float, poller: Process) -> None:
        async with asyncio.TaskGroup() as group:
            for number, when in self._times(first, 0):
                await asyncio.sleep(when - time.perf_counter())
                group.create_task(self._probe(f"probe-{self._rate}-{number}", poller))

    async def _probe(self, key: str, poller: Process) -> None:
        payload = _placed()
        assert poller.stdin is not None  # noqa: S101 (a pipe was asked for)
        start = time.perf_counter()
        poller.stdin.write(f"{key} {start!r}\n".encode())
        await self._app.publish(AGGREGATE, key, [payload])
        self._acknowledged.append((time.perf_counter() - start) * 1000)

    def _floors(self, first: float) -> None:
        """Each a publish by hand, acknowledged, and an upsert by the plain driver, committed."""
        database = self._servers.database
        if database.startswith("sqlite"):
            database = f"sqlite:///{self._servers.home / 'floor.db'}"  # one file has one writer at a time
        publications = Publications(STREAM, JsonCodec(), SubjectScheme())
        with BareConnection(self._servers.nats) as connection, Table.opened("bench_floor", database) as table:
            for number, when in self._times(first, 1):
                key = f"floor-{self._rate}-{number}"
                event = DomainEvent(
                    id=key,
                    aggregate_id=key,
                    type="placed",
                    aggregate_type=AGGREGATE,
                    timestamp=datetime.now(UTC),
                    version=1,
                    payload=_placed(),
                )
                lines = publications.lines(event, connection.inbox)
                view = OrderSummary(id=key, customer=event.payload.customer, total=event.payload.total)
                _sleep_until(when)
                start = time.perf_counter()
                connection.ask(lines, "publishing", STREAM)
                table.save(view)
                self._floor.append((time.perf_counter() - start) * 1000)


def _placed() -> OrderPlaced:
    address = Address("1 Main Street", "Springfield", "00001")
    return OrderPlaced("customer-00001", Decimal("9.99"), datetime.now(UTC), address)


def _sleep_until(when: float) -> None:
    wait = when - time.perf_counter()
    if wait > 0:
        time.sleep(wait)


@asynccontextmanager
async def _poller(servers: Servers) -> AsyncIterator[Process]:
    """The process that looks for rows, ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "refold.bench.live.poller",
        servers.database,
        OrderSummaries.spec.name,
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
