"""A store in memory whose commits fail as told, a process that dies, and what live running should come to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fold_domain import ListSource

from refold import JsonCodec, SubjectScheme
from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import LiveEvent
from refold.engine.live.runner import Runner, RunnerParts
from refold.errors import StoreBusy, StoreUnavailable
from refold.ports import Changes, Checkpoint
from refold.stores.memory import MemoryStore

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
    store: FailingStore,
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
            died = asyncio.create_task(store.died.wait())
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
            store.revive()


def told(kind: type[Any], events: list[LiveEvent]) -> list[Any]:
    return [one for one in events if isinstance(one, kind)]
