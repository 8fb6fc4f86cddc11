"""What is committed: rows as they were when their batch was cut, exactly once, whatever becomes of a commit.

Each test has a twin in which its guard is switched off, and in which the views come out wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from fold_domain import Added, ByTag, Closed, Noted, Tags, Totals, plain_tags
from live_support import Lab, Process

import refold.engine.live.member as member_module
from refold.engine.live.cache import TouchedCache
from refold.engine.live.group import Group, LiveLimits
from refold.errors import StoreBusy, StoreUnavailable
from refold.ports import Changes, Status, Wanted
from refold.view import Row, ViewSchema

Guard = Callable[[pytest.MonkeyPatch], None]


class _Late(list[Row]):
    """Rows that are made of their views when they are written."""

    def __init__(self, rows: list[Row], views: Mapping[str, Any], schema: Any) -> None:
        super().__init__(rows)
        self._views, self._schema = views, schema

    def __iter__(self) -> Iterator[Row]:
        return iter([self._schema.freeze(self._views[row[0]]) for row in super().__iter__()])


def unfrozen(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = member_module.Member.finish

    async def late(self: Any, batch: Any, loader: Any) -> Changes:
        await self.settle(loader)
        views = dict(self.fold.cache.hot.items())
        changes = await finish(self, batch, loader)
        rows = [row for row in changes.rows if row[0] in views]
        return Changes(
            rows=_Late(rows, views, self.fold.spec.schema),
            deleted=changes.deleted,
            seen=changes.seen,
            letters=changes.letters,
        )

    monkeypatch.setattr(member_module.Member, "finish", late)


def kept_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[Any, TouchedCache[Any]] = {}

    def keeping(schema: Any, capacity: int) -> TouchedCache[Any]:
        cache = kept.get(schema)
        if cache is None:
            cache = kept[schema] = TouchedCache(schema, 1_000)
        else:
            cache.settle()
        return cache

    monkeypatch.setattr(member_module, "TouchedCache", keeping)


def wrong_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are read without regard to the commit under way."""

    async def rows(self: Group, projection: str, keys: Any) -> Any:
        return await self._writer.load(projection, keys)

    monkeypatch.setattr(Group, "rows", rows)


class Held:
    """Holds the first commit of some events, while more come; then something becomes of it."""

    def __init__(self, lab: Lab, then: str) -> None:
        self.lab, self.then = lab, then
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.times = 0
        lab.store.before, lab.store.after = self.before, self.after

    async def before(self, changes: Mapping[str, Changes], *_: int) -> None:
        if changes and not self.begun.is_set():
            self.begun.set()
            await self.go_on.wait()
            if self.then == "busy":
                raise StoreBusy("as told")
            if self.then == "not committed":
                raise StoreUnavailable("as told")
            if self.then == "order":
                await self.lab.store.order("t", "totals", Wanted.RUN)

    async def after(self, *_: object) -> None:
        self.times += 1
        if self.then == "committed" and self.times == 1:
            raise StoreUnavailable("as told, after it was committed")


@pytest.fixture(autouse=True)
def _patient() -> Any:
    import stamina

    stamina.set_testing(True, attempts=100)
    yield
    stamina.set_testing(False)


async def live(lab: Lab, *projectors: Any, **options: Any) -> Process:
    process = lab.start(*(projectors or (Totals,)), **options)
    await lab.stands(Status.LIVE)
    await lab.reach()
    return process


async def hold_and(then: str) -> None:
    async with Lab(("a", Added(1)), ("b", Added(1))) as lab:
        process = await live(lab, Totals, ByTag, limits=None)
        held = Held(lab, then)
        lab.publish(("a", Added(10, ["x"])), ("b", Added(20)), ("c", Added(1)))
        await held.begun.wait()
        lab.publish(("a", Noted("n")), ("b", Closed()), ("a", Added(100)), ("c", Noted("m")))
        await lab.until(lambda: _folded(process) >= lab.head)
        if then == "kill":
            await process.kill()
            assert lab.position() == 2
            assert await lab.totals() == {"a": 1, "b": 1}
            lab.store.before = lab.store.after = None
            lab.start(Totals, ByTag)
        held.go_on.set()
        await lab.reach("totals", "by_tag", position=5)
        lab.publish(("a", Added(1_000, ["x", "y"])))
        await lab.reach("totals", "by_tag")
        await lab.check_totals()
        tags = await lab.store.repository(ViewSchema.of(Tags), "by_tag").find_all()
        assert {view.id: view.accounts for view in tags} == plain_tags(lab.source.events)
        spans = [(old, new) for _, old, new in lab.store.commits if old >= 2]
        assert spans[0][0] == 2
        assert spans[-1][1] == lab.head
        assert len({old for old, _ in spans}) == len({new for _, new in spans})


def _folded(process: Process) -> int:
    """How far a process has read, committed or not."""
    source = process._lab.source
    return source.given


@pytest.mark.parametrize("then", ["well", "busy", "not committed", "committed", "order", "kill"])
async def test_a_batch_is_committed_as_it_was_cut(then: str) -> None:
    await hold_and(then)


async def test_twin_rows_taken_when_they_are_committed_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in what the held batch wrote: it has what came after it."""
    unfrozen(monkeypatch)
    async with Lab(("a", Added(1))) as lab:
        process = await live(lab, limits=None)
        held = Held(lab, "well")
        lab.publish(("a", Added(10)))
        await held.begun.wait()
        lab.publish(("a", Added(100)))
        await lab.until(lambda: _folded(process) >= lab.head)
        shown: list[dict[str, int]] = []

        async def after(*_: object) -> None:
            shown.append(await lab.totals())

        lab.store.after = after
        held.go_on.set()
        await lab.reach()
        assert shown[0] == {"a": 111}, "the guard is not what makes it right"


async def test_readers_never_see_what_is_not_committed_yet() -> None:
    """The same without the twin's mistake."""
    async with Lab(("a", Added(1))) as lab:
        process = await live(lab, limits=None)
        held = Held(lab, "well")
        lab.publish(("a", Added(10)))
        await held.begun.wait()
        lab.publish(("a", Added(100)))
        await lab.until(lambda: _folded(process) >= lab.head)
        shown: list[dict[str, int]] = []

        async def after(*_: object) -> None:
            shown.append(await lab.totals())

        lab.store.after = after
        held.go_on.set()
        await lab.reach()
        assert shown == [{"a": 11}, {"a": 111}]


async def test_twin_a_cache_that_is_kept_when_a_claim_is_lost_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    kept_cache(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError)):
        await hold_and("order")


async def deleted_and_made_anew() -> None:
    """A view is needed again while the commit that removes its row is under way; batches of one event do not wait for it."""
    async with Lab(("a", Added(1))) as lab:
        process = await live(lab, limits=LiveLimits(batch_events=1))
        held = Held(lab, "well")
        lab.publish(("a", Closed()))
        await held.begun.wait()
        lab.publish(("a", Added(5)))
        await lab.until(lambda: _folded(process) >= lab.head)
        for _ in range(20):  # so that what does not wait has its way
            await asyncio.sleep(0)
        held.go_on.set()
        await lab.reach()
        await lab.check_totals()


async def test_a_view_that_is_not_cached_is_read_after_the_commit_before() -> None:
    await deleted_and_made_anew()


async def test_twin_reading_it_before_that_commit_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_load(monkeypatch)
    with pytest.raises(AssertionError):
        await deleted_and_made_anew()


async def test_duplicates_and_disorder_change_nothing_and_are_counted() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = await live(lab)
        lab.publish_as("a", 5, Added(10))  # with a gap
        lab.publish_as("a", 5, Added(10))
        lab.publish_as("a", 3, Added(100))  # too late
        lab.publish_as("b", 2, Added(1))
        lab.publish_as("b", 3, Closed())
        lab.publish_as("c", 1, Added(1))
        lab.publish_as("b", 2, Added(1))  # after a DELETE
        await lab.reach()
        await process.stop()
        assert sum(batch.duplicates for batch in process.batches()) == 3
        process = lab.start(Totals)
        lab.publish_as("b", 3, Closed())
        lab.publish_as("b", 1, Added(50))
        lab.publish_as("a", 4, Added(50))
        lab.publish_as("b", 4, Added(7))
        await lab.reach()
        await lab.until(lambda: sum(batch.duplicates for batch in process.batches()) == 3)
        assert await lab.totals() == {"a": 11, "b": 7, "c": 1}
        await lab.check_totals()
