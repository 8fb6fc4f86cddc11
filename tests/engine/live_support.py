"""A store in memory whose commits fail as told, a process that dies, and what live running should come to."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fold_domain import ListSource, Total, make, plain_totals, shown

from refold import JsonCodec, SubjectScheme
from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import BatchApplied, LiveEvent, StateChanged
from refold.engine.live.runner import Runner, RunnerParts
from refold.errors import RowRefused, StoreBusy, StoreUnavailable
from refold.ports import Changes, Checkpoint, Claims, Database, Status
from refold.stores.memory import MemoryStore
from refold.stores.memorylive import MemoryClaims
from refold.view import Row, ViewSchema

FATES = ["ok", "ok", "ok", "busy", "lost before", "lost after", "crash before", "crash after"]


class Died(Exception):
    """The process is gone."""


class FailingStore(MemoryStore):
    """Meets every commit with the next of its fates.

    Attributes:
        fates: what happens to the commits to come; all is well after the last.
        died: set when the process that commits is to die.
        applied: positions of the events that each projection's commits were about, in order, as committed.
    """

    def __init__(self, fates: Sequence[str] = ()) -> None:
        super().__init__()
        self.fates = list(fates)
        self.died = asyncio.Event()
        self.spans: list[tuple[str, int, int]] = []

    async def commit(
        self,
        claims: Mapping[str, Checkpoint],
        changes: Mapping[str, Changes],
        *,
        old: int,
        new: int,
        anchor: str | None,
    ) -> None:
        if self.died.is_set():
            raise Died
        fate = self.fates.pop(0) if self.fates else "ok"
        if fate == "busy":
            raise StoreBusy("busy, as told")
        if fate == "lost before":
            raise StoreUnavailable("lost, as told")
        if fate == "crash before":
            self.died.set()
            raise Died
        before = {name: self.of(claim) for name, claim in claims.items()}
        stood = {name: g.checkpoint.position for name, g in before.items() if g is not None}
        await super().commit(claims, changes, old=old, new=new, anchor=anchor)
        for name, position in stood.items():
            if position != new:
                self.spans.append((name, position, new))
        if fate == "lost after":
            raise StoreUnavailable("lost after the commit, as told")
        if fate == "crash after":
            self.died.set()
            raise Died

    def revive(self) -> None:
        """Another process may begin: nobody lives any more."""
        self.died = asyncio.Event()
        self._lives.clear()


def limits(batch: int) -> LiveLimits:
    return LiveLimits(batch_events=batch, idle_seconds=0.0, hot_views=2)


async def run_until(
    store: Database,
    source: ListSource,
    projectors: Sequence[Any],
    position: int,
    *,
    batch: int = 10_000,
    hook: Any = None,
    seconds: float = 20.0,
) -> None:
    """Runs the projections until all of them are at a position; a process that dies is followed by another."""
    names = [projector.spec.name for projector in projectors]
    async with asyncio.timeout(seconds):
        while True:
            stop = asyncio.Event()
            parts = RunnerParts(
                source=source,
                store=store,
                codec=JsonCodec(),
                scheme=SubjectScheme(),
                app="t",
                stream="list",
                limits=limits(batch),
                hook=hook,
            )
            running = asyncio.create_task(Runner(parts, [projector() for projector in projectors]).run(stop))
            died = asyncio.create_task((store.died if isinstance(store, FailingStore) else stop).wait())
            try:
                while not (running.done() or died.done()):
                    at = await store.positions("t", names)
                    if all(at.get(name, -1) >= position for name in names):
                        stop.set()
                        await running
                        return
                    await asyncio.sleep(0)
                if running.done():
                    running.result()
                    raise AssertionError("the runner ended by itself")
            finally:
                running.cancel()
                died.cancel()
                await asyncio.gather(running, died, return_exceptions=True)
            if isinstance(store, FailingStore):
                store.revive()


def told(kind: type[Any], events: list[LiveEvent]) -> list[Any]:
    return [one for one in events if isinstance(one, kind)]


# -- One or several processes on one store ----------------------------------------------------------------------------------


class Process:
    """One runner of a lab: a process, as far as the store can tell.

    Attributes:
        told: what its hook was told.
        task: its run.
    """

    def __init__(self, lab: Lab, projectors: Sequence[type[Any]], options: Mapping[str, Any]) -> None:
        self._lab = lab
        self.told: list[LiveEvent] = []
        self.stopping = asyncio.Event()
        quick: dict[str, Any] = {"tick": 0.002, "backoff": 0.002, "grace": 1.0, "lease": 60.0}
        quick["limits"] = LiveLimits(idle_seconds=0.0, hot_views=1)
        parts = RunnerParts(
            source=lab.source,
            store=lab.store,
            codec=JsonCodec(),
            scheme=SubjectScheme(),
            app="t",
            stream="list",
            hook=self.told.append,
        )
        parts = dataclasses.replace(parts, **{**quick, **options})
        self.runner = Runner(parts, [projector() for projector in projectors])
        self.task = asyncio.create_task(self.runner.run(self.stopping))

    def status(self, name: str = "totals") -> Status:
        return self.runner.standing[name][0]

    def reason(self, name: str = "totals") -> str:
        return self.runner.standing[name][1]

    def states(self, name: str = "totals") -> list[str]:
        """How a projection stood, one after another."""
        changes = [one for one in told(StateChanged, self.told) if one.projection == name]
        return [one.now.value for one in changes if one.now is not one.before]

    def batches(self) -> list[BatchApplied]:
        return told(BatchApplied, self.told)

    async def stop(self) -> None:
        self.stopping.set()
        async with asyncio.timeout(5):
            await self.task

    async def kill(self) -> None:
        """It is gone from one moment to the next: nothing is released, and its sign of life ends."""
        self._lab.store.freeze()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self._lab.store.thaw()
        self._lab.store._lives.clear()


class LabStore(MemoryStore):
    """A store whose commits wait, fail and refuse as told.

    Attributes:
        commits: (changes by projection, old, new) of every commit that came through.
        before, after: awaited before and after a commit; what they raise, the writer gets.
        refuses: told of each row that is to be written; True refuses it.
        calls: names of what was reported, as (projection, status, reason).
    """

    def __init__(self, clock: Any = None) -> None:
        super().__init__(clock)
        self.commits: list[tuple[Mapping[str, Changes], int, int]] = []
        self.before: Callable[[Mapping[str, Changes], int, int], Awaitable[None]] | None = None
        self.after: Callable[[Mapping[str, Changes], int, int], Awaitable[None]] | None = None
        self.refuses: Callable[[str, Row], bool] = lambda projection, row: False
        self.calls: list[tuple[str, Status, str]] = []
        self.away = False
        self._dead = False

    def freeze(self) -> None:
        self._dead = True

    def thaw(self) -> None:
        self._dead = False

    def check_rows(self, projection: str, rows: Sequence[Row]) -> None:
        for row in rows:
            if self.refuses(projection, row):
                raise RowRefused("refused, as told", key=row[0])

    async def commit(
        self,
        claims: Mapping[str, Checkpoint],
        changes: Mapping[str, Changes],
        *,
        old: int,
        new: int,
        anchor: str | None,
    ) -> None:
        if self.before is not None:
            await self.before(changes, old, new)
        self._check()
        first = next(iter(claims.values()))
        stood = None if (found := self.of(first)) is None else found.checkpoint.position
        await super().commit(claims, changes, old=old, new=new, anchor=anchor)
        if stood == old:  # else it was committed before
            self.commits.append((changes, old, new))
        if self.after is not None:
            await self.after(changes, old, new)

    @asynccontextmanager
    async def claims(self, app: str, *, lease: float = 15.0) -> AsyncIterator[Claims]:
        claims = LabClaims(self, app, lease)
        try:
            yield claims
        finally:
            if not (self._dead or self.away):
                await claims.close()

    def _check(self) -> None:
        if self._dead:
            raise Died
        if self.away:
            raise StoreUnavailable("the database is away, as told")


class LabClaims(MemoryClaims):
    """Claims in a lab's store, which may be away."""

    _store: LabStore

    async def take(self, projection: str, version: int) -> Checkpoint | None:
        self._store._check()
        return await super().take(projection, version)

    async def renew(self, projections: Collection[str]) -> Mapping[str, Checkpoint | None]:
        self._store._check()
        return await super().renew(projections)

    async def report(self, projection: str, status: Status, reason: str = "") -> None:
        self._store._check()
        self._store.calls.append((projection, status, reason))
        await super().report(projection, status, reason)

    async def release(self, projection: str, status: Status, reason: str = "") -> None:
        self._store._check()
        await super().release(projection, status, reason)


class Lab:
    """A store, a stream, and processes that run projections of it."""

    def __init__(self, *payloads: tuple[str, Any], clock: Any = None, batch: int = 3) -> None:
        self.store = LabStore(clock)
        self.source = ListSource([], batch)
        self.processes: list[Process] = []
        self._versions: dict[str, int] = {}
        self.publish(*payloads)

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            process.task.cancel()
        await asyncio.gather(*(process.task for process in self.processes), return_exceptions=True)

    def start(self, *projectors: type[Any], **options: Any) -> Process:
        self.processes.append(Process(self, projectors, options))
        return self.processes[-1]

    def publish(self, *payloads: tuple[str, Any]) -> int:
        """Publishes events with the next version of their aggregate; the last position."""
        for key, payload in payloads:
            version = self._versions[key] = self._versions.get(key, 0) + 1
            self.source.append(make(len(self.source.events) + 1, key, version, payload))
        return len(self.source.events)

    def publish_as(self, key: str, version: int, payload: Any) -> int:
        """Publishes an event with a version of one's own."""
        self.source.append(make(len(self.source.events) + 1, key, version, payload))
        return len(self.source.events)

    @property
    def head(self) -> int:
        return len(self.source.events)

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Waits for something, and for no runner to have ended by an error of its own."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.0005)

    async def reach(self, *names: str, position: int | None = None) -> None:
        """Waits until projections are at the head."""
        at = self.head if position is None else position
        wanted = names or ("totals",)
        await self.until(lambda: all(self.position(name) >= at for name in wanted))

    async def stands(self, status: Status, name: str = "totals") -> None:
        """Waits until a status is written."""
        await self.until(lambda: self.is_built(name) and self.checkpoint(name).status is status)

    def position(self, name: str = "totals") -> int:
        found = self.store.active("t", name)
        return -1 if found is None else found.checkpoint.position

    def checkpoint(self, name: str = "totals") -> Checkpoint:
        found = self.store.active("t", name)
        assert found is not None, f"{name} has no active generation"
        return found.checkpoint

    def is_built(self, name: str = "totals") -> bool:
        return self.store.active("t", name) is not None

    async def totals(self, name: str = "totals") -> dict[str, int]:
        return {view.id: view.total for view in await self.store.repository(ViewSchema.of(Total), name).find_all()}

    async def check_totals(self, name: str = "totals") -> None:
        views = await self.store.repository(ViewSchema.of(Total), name).find_all()
        assert {view.id: shown(view) for view in views} == plain_totals(self.source.events)

    async def letters(self, name: str = "totals") -> list[tuple[int, str, str]]:
        return [(one.position, one.key, one.kind.value) for one in await self.store.letters("t", name)]
