"""The contract of live running: every backend's tests derive from `LiveCases`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from refold import Condition, Index, View
from refold.errors import ClaimHeld, ClaimLost, ProjectionStoreError, RowRefused, SchemaMismatch, StoreError
from refold.ports import Changes, Checkpoint, Claims, Database, DeadLetter, LetterKind, Quarantined, Status, Wanted
from refold.stores import open_store
from refold.stores.sqllive import SqlLiveStore
from refold.view import Row, ViewSchema

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)
APP = "t"


class Everything(View):
    """A column of each kind, and each once more where it may be null."""

    text: Annotated[str, Index()] = ""
    whole: int = 0
    real: float = 0.0
    flag: bool = False
    money: Decimal = Decimal(0)
    when: datetime = NOW
    day: date = date(2026, 1, 1)
    uid: UUID = UUID(int=0)
    blob: bytes = b""
    tags: list[str] = []
    text_or_none: str | None = None
    whole_or_none: int | None = None
    real_or_none: float | None = None
    flag_or_none: bool | None = None
    money_or_none: Decimal | None = None
    when_or_none: datetime | None = None
    day_or_none: date | None = None
    uid_or_none: UUID | None = None
    blob_or_none: bytes | None = None
    tags_or_none: list[str] | None = None


class Simple(View):
    total: int = 0


EVERYTHING = ViewSchema.of(Everything)
SIMPLE = ViewSchema.of(Simple)


def row(key: str, total: int = 0) -> Row:
    return SIMPLE.freeze(Simple(key, total=total))


def letter(position: int, key: str, kind: LetterKind = LetterKind.FAILED, reason: str = "bad") -> DeadLetter:
    return DeadLetter(
        projection="one",
        position=position,
        key=key,
        kind=kind,
        reason=reason,
        subject=f"order.{key}.placed",
        headers=b"NATS/1.0\r\n\r\n" if position % 2 else None,
        body=b"\0\xff{}",
    )


class LiveCases:
    """Subclasses give `url`; `second` is the same database as another process sees it."""

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Database]:
        async with open_store(url) as store:
            yield store

    @pytest.fixture
    async def second(self, url: str, store: Database) -> AsyncIterator[Database]:
        async with open_store(url) as second:
            yield second

    # -- Helpers -------------------------------------------------------------------------------------------------------

    async def build(
        self, store: Database, *names: str, rows: list[Row] | None = None, schema: Any = SIMPLE, **options: Any
    ) -> None:
        version = options.pop("version", 1)
        letters = options.pop("letters", ())
        for name in names or ("one",):
            async with await store.begin_generation(schema, app=APP, name=name, version=version) as writer:
                await writer.insert(rows or [])
                await writer.record(letters)
                await writer.publish(stream="S", created="c", fingerprint="f", **{"position": 5, **options})

    @asynccontextmanager
    async def running(self, store: Database, *names: str, schema: Any = SIMPLE) -> AsyncIterator[tuple[Claims, Any]]:
        """Claims of projections, and a writer."""
        async with store.claims(APP) as claims:
            for name in names or ("one",):
                assert await claims.take(name, 1) is not None
            async with await claims.writer(dict.fromkeys(names or ("one",), schema)) as writer:
                yield claims, writer

    async def checkpoint(self, store: Database, name: str = "one") -> Checkpoint:
        (active,) = [c for c in await store.generations(APP, name) if c.role == "active"]
        return active

    async def shown(self, store: Database, name: str = "one") -> dict[str, int]:
        return {view.id: view.total for view in await store.repository(SIMPLE, name).find_all()}

    # -- Claims --------------------------------------------------------------------------------------------------------

    async def test_what_was_never_built_cannot_be_claimed(self, store: Database) -> None:
        await self.build(store, "one")
        async with store.claims(APP) as claims:
            assert await claims.take("other", 1) is None
            assert await claims.take("one", 2) is None
            with pytest.raises(StoreError, match="not claimed"):
                await claims.writer({"one": SIMPLE})
            with pytest.raises(StoreError, match="not claimed"):
                await claims.renew(["one"])
        assert await store.generations("another app") == []

    async def test_a_published_generation_has_all_that_was_said(self, store: Database) -> None:
        await self.build(store, "one", anchor="5:abc")
        found = await self.checkpoint(store)
        assert (found.app, found.projection, found.version, found.generation) == (APP, "one", 1, 1)
        assert (found.table, found.role, found.fingerprint) == ("one__v1g1", "active", "f")
        assert (found.stream, found.created, found.position, found.anchor) == ("S", "c", 5, "5:abc")
        assert (found.epoch, found.status, found.reason, found.wanted, found.skip) == (
            0,
            Status.STOPPED,
            "",
            Wanted.RUN,
            None,
        )
        assert found.since is not None
        assert abs((datetime.now(UTC) - found.since).total_seconds()) < 60

    async def test_one_of_two_claimers_has_it(self, store: Database, second: Database) -> None:
        await self.build(store)
        async with store.claims(APP) as mine, second.claims(APP) as yours:
            assert mine.owner != yours.owner
            claim = await mine.take("one", 1)
            assert claim is not None
            assert (claim.owner, claim.epoch, claim.position) == (mine.owner, 1, 5)
            with pytest.raises(ClaimHeld, match="since") as caught:
                await yours.take("one", 1)
            assert (caught.value.projection, caught.value.owner) == ("one", mine.owner)
            assert (await self.checkpoint(store)).epoch == 1
            await mine.release("one", Status.FAULTED, "because")
            found = await self.checkpoint(store)
            assert (found.status, found.reason) == (Status.FAULTED, "because")
            taken = await yours.take("one", 1)
            assert taken is not None
            assert taken.owner == yours.owner
            assert taken.epoch > 1
            with pytest.raises(ClaimHeld):
                await mine.take("one", 1)

    async def test_leaving_lets_go(self, store: Database, second: Database) -> None:
        await self.build(store, "one", "two")
        async with store.claims(APP) as mine:
            for name in ("one", "two"):
                await mine.take(name, 1)
                await mine.report(name, Status.LIVE)
        for name in ("one", "two"):
            assert (await self.checkpoint(store, name)).status is Status.STOPPED
        async with second.claims(APP) as yours:
            assert await yours.take("one", 1) is not None

    async def test_a_writer_is_over_when_its_claim_is_released(self, store: Database) -> None:
        await self.build(store)
        async with self.running(store) as (claims, writer):
            await claims.release("one", Status.STOPPED)
            with pytest.raises(ClaimLost):
                await writer.commit({"one": Changes(rows=[row("a")])}, old=5, new=6, anchor=None)
        assert await self.shown(store) == {}

    async def test_an_expired_claim_is_taken_over_and_the_sleeper_writes_nothing(
        self, store: Database, second: Database
    ) -> None:
        await self.build(store)
        async with self.running(store) as (mine, writer):
            async with second.claims(APP, lease=0.0) as yours:
                taken = await yours.take("one", 1)
                assert taken is not None
                assert taken.owner == yours.owner
                with pytest.raises(ClaimLost, match=yours.owner):
                    await self.insistently(writer, {"one": Changes(rows=[row("a", 1)])}, old=5, new=6)
                stands = (await mine.renew(["one"]))["one"]
                assert stands is not None
                assert stands.owner == yours.owner
                assert stands.renewed == (await self.checkpoint(store)).renewed
                await mine.report("one", Status.FAULTED, "not mine to say")
                with pytest.raises(ClaimHeld):
                    await mine.take("one", 1)
                async with await yours.writer({"one": SIMPLE}) as theirs:
                    await theirs.commit({"one": Changes(rows=[row("b", 2)])}, old=5, new=7, anchor=None)
                await mine.release("one", Status.FAULTED, "not mine to say either")
                found = await self.checkpoint(store)
                assert (found.owner, found.position, found.reason) == (yours.owner, 7, "")
        assert await self.shown(store) == {"b": 2}

    async def insistently(self, writer: Any, changes: Any, *, old: int, new: int) -> None:
        """A commit that is tried again where the session was ended, as the engine does."""
        for _ in range(20):
            try:
                await writer.commit(changes, old=old, new=new, anchor=None)
                return
            except ClaimLost:
                raise
            except StoreError as error:
                if type(error).__name__ not in ("StoreUnavailable", "StoreBusy"):
                    raise

    async def test_renewing_tells_how_things_stand(self, store: Database) -> None:
        await self.build(store, "one", "two")
        async with store.claims(APP) as claims:
            assert await claims.renew([]) == {}
            await claims.take("one", 1)
            await claims.take("two", 1)
            before = await self.checkpoint(store)
            stands = await claims.renew(["one", "two"])
            assert set(stands) == {"one", "two"}
            one = stands["one"]
            assert one is not None
            assert one == await self.checkpoint(store)
            assert one.renewed is not None
            assert before.renewed is not None
            assert one.renewed >= before.renewed
            await store.order(APP, "one", Wanted.PAUSE)
            paused = (await claims.renew(["one"]))["one"]
            assert paused is not None
            assert (paused.wanted, paused.epoch, paused.renewed) == (Wanted.PAUSE, 2, one.renewed)
            again = await claims.take("one", 1)
            assert again is not None
            assert (again.epoch, again.owner, again.wanted) == (3, claims.owner, Wanted.PAUSE)
            await self.build(store, "one")
            retired = (await claims.renew(["one"]))["one"]
            assert retired is not None
            assert retired.role == "retired"
            await self.build(store, "one")
            assert (await claims.renew(["one"]))["one"] is None

    async def test_reports(self, store: Database) -> None:
        await self.build(store)
        async with store.claims(APP) as claims:
            await claims.take("one", 1)
            await claims.report("one", Status.DEGRADED, "two views")
            first = await self.checkpoint(store)
            await claims.report("one", Status.DEGRADED, "three views")
            second = await self.checkpoint(store)
            assert (first.status, first.reason, second.reason) == (Status.DEGRADED, "two views", "three views")
            assert first.since == second.since
            await claims.report("one", Status.LIVE)
            third = await self.checkpoint(store)
            assert (third.status, third.reason) == (Status.LIVE, "")
            assert third.since is not None
            assert first.since is not None
            assert third.since >= first.since
            await claims.report("one", Status.FAULTED, "odd \0 and \ud800 text")
            assert "odd" in (await self.checkpoint(store)).reason

    # -- Commits -------------------------------------------------------------------------------------------------------

    async def test_a_commit_moves_everything_at_once(self, store: Database) -> None:
        await self.build(store, rows=[row("a", 1), row("b", 2)], seen=[("order", "x", 3)], anchor="5:x")
        async with self.running(store) as (_, writer):
            changes = Changes(
                rows=[row("a", 10), row("c", 3)], deleted=["b", "no"], seen=[("order", "x", 4), ("order", "y", 1)]
            )
            await writer.commit({"one": changes}, old=5, new=9, anchor="9:y")
            assert await writer.load("one", ["a", "b", "c"]) == {"a": row("a", 10), "c": row("c", 3)}
            assert await writer.load("one", []) == {}
            asked = [("order", "x"), ("order", "y"), ("order", "z"), ("other", "x")]
            assert await writer.load_seen("one", asked) == {("order", "x"): 4, ("order", "y"): 1}
            found = await self.checkpoint(store)
            assert (found.position, found.anchor) == (9, "9:y")
            assert await self.shown(store) == {"a": 10, "c": 3}
            await writer.commit({}, old=9, new=12, anchor=None)
            found = await self.checkpoint(store)
            assert (found.position, found.anchor) == (12, "9:y")
            await writer.commit({"one": Changes(seen=[("order", "x", 2)])}, old=12, new=13, anchor=None)
            assert await writer.load_seen("one", [("order", "x")]) == {("order", "x"): 4}
            assert await store.positions(APP, ["one", "none"]) == {"one": 13}

    async def test_a_commit_again_changes_nothing(self, store: Database) -> None:
        await self.build(store)
        async with self.running(store) as (_, writer):
            first = Changes(rows=[row("a", 1)], letters=[letter(6, "k")])
            for _ in range(3):
                await writer.commit({"one": first}, old=5, new=6, anchor=None)
            # What the second batch would do if it were taken for the first.
            with pytest.raises(ClaimLost, match="position 6"):
                await writer.commit({"one": Changes(rows=[row("a", 2)])}, old=5, new=7, anchor=None)
            assert await self.shown(store) == {"a": 1}
            assert len(await store.letters(APP)) == 1

    async def test_a_commit_after_an_order_is_refused(self, store: Database) -> None:
        await self.build(store)
        async with self.running(store) as (claims, writer):
            await store.order(APP, "one", Wanted.RUN)
            with pytest.raises(ClaimLost, match="order"):
                await writer.commit({"one": Changes(rows=[row("a")])}, old=5, new=6, anchor=None)
            await claims.take("one", 1)
            with pytest.raises(ClaimLost, match="epoch"):
                await writer.commit({"one": Changes(rows=[row("a")])}, old=5, new=6, anchor=None)
            async with await claims.writer({"one": SIMPLE}) as another:
                await another.commit({"one": Changes(rows=[row("a", 7)])}, old=5, new=6, anchor=None)
        assert await self.shown(store) == {"a": 7}

    async def test_a_group_moves_together_or_not_at_all(self, store: Database) -> None:
        names = ["one", "two", "three"]
        await self.build(store, *names)
        async with self.running(store, *names) as (claims, writer):
            changes = {name: Changes(rows=[row(name, i)]) for i, name in enumerate(names)}
            await writer.commit(changes, old=5, new=6, anchor="6:z")
            assert await store.positions(APP, names) == dict.fromkeys(names, 6)
            assert [await self.shown(store, name) for name in names] == [{n: i} for i, n in enumerate(names)]
            await store.skip(APP, "two", 8)
            with pytest.raises(ClaimLost, match="'two'") as caught:
                await writer.commit({"one": Changes(rows=[row("x")])}, old=6, new=7, anchor=None)
            assert "'three'" not in str(caught.value)
            assert await store.positions(APP, names) == dict.fromkeys(names, 6)
            assert await self.shown(store, "one") == {"one": 0}
            async with await claims.writer({"one": SIMPLE, "three": SIMPLE}) as fewer:
                await fewer.commit({"one": Changes(rows=[row("x")])}, old=6, new=7, anchor=None)
            assert await store.positions(APP, names) == {"one": 7, "two": 6, "three": 7}

    @pytest.mark.parametrize("count", [1, 3, 2_000])
    async def test_every_kind_of_column_by_every_way(self, store: Database, count: int) -> None:
        await self.build(store, schema=EVERYTHING)
        full = Everything(
            "full", NOW, NOW, 3, 9, "ü'\"\n\\", -(2**63), 1e-300, True, Decimal("-1.10E+30"), NOW, date(1, 1, 1)
        )
        full.uid, full.blob, full.tags = UUID(int=2**127), b"\0\xff", ["a", "ü"]
        full.text_or_none, full.whole_or_none, full.real_or_none, full.flag_or_none = "\x01", 2**63 - 1, -0.5, False
        full.money_or_none, full.when_or_none, full.day_or_none = Decimal("0.000"), NOW, date(9999, 12, 31)
        full.uid_or_none, full.blob_or_none, full.tags_or_none = UUID(int=7), b"", []
        views = [Everything(f"k{i}", whole=i) for i in range(count - 1)] + [full]
        rows = EVERYTHING.freeze_all([(view.id, view) for view in views])
        async with self.running(store, schema=EVERYTHING) as (_, writer):
            old = [EVERYTHING.freeze(Everything(view.id, text="old")) for view in views[::2]]
            await writer.commit({"one": Changes(rows=old)}, old=5, new=6, anchor=None)
            await writer.commit({"one": Changes(rows=rows)}, old=6, new=7, anchor=None)
            loaded = await writer.load("one", [view.id for view in views])
            assert {key: EVERYTHING.thaw(found) for key, found in loaded.items()} == {view.id: view for view in views}
            assert str(EVERYTHING.thaw(loaded["full"]).money_or_none) == "0.000"
            await writer.commit({"one": Changes(deleted=[v.id for v in views[1:]])}, old=7, new=8, anchor=None)
        found = await store.repository(EVERYTHING, "one").find_all()
        assert found == views[:1]

    async def test_odd_ids(self, store: Database) -> None:
        """Of keyed views, an aggregate's id is in no row, so that it may be what no column holds."""
        await self.build(store)
        odd = [("order", name) for name in ("a\0b", "x" * 5_000, "ü*.>", "é" * 900)]
        async with self.running(store) as (_, writer):
            seen = [(*aggregate, i + 1) for i, aggregate in enumerate(odd)]
            await writer.commit({"one": Changes(seen=[*seen, *seen])}, old=5, new=6, anchor=None)
            assert await writer.load_seen("one", odd) == {a: i + 1 for i, a in enumerate(odd)}
            assert await writer.load("one", ["a\0b", "\ud800", "fine"]) == {}
            letters = [letter(7, "a\0b", reason="\0"), letter(7, "", LetterKind.SKIPPED), letter(7, "k" * 5_000)]
            await writer.commit({"one": Changes(letters=letters)}, old=6, new=7, anchor=None)
            assert len(await store.letters(APP, "one")) == 3
            await writer.commit({"one": Changes(deleted=["a\0b"])}, old=7, new=8, anchor=None)

    async def test_only_the_claimed_generation_is_written(self, store: Database) -> None:
        await self.build(store, rows=[row("a", 1)])
        async with self.running(store) as (_, writer):
            await self.build(store, rows=[row("a", 2)])
            with pytest.raises(ClaimLost, match="retired"):
                await writer.commit({"one": Changes(rows=[row("a", 3)])}, old=5, new=6, anchor=None)
            assert await writer.load("one", ["a"]) == {"a": row("a", 1)}
            await self.build(store, rows=[row("a", 4)])
            await self.build(store, rows=[row("a", 5)])
            with pytest.raises(ProjectionStoreError) as caught:
                await writer.load("one", ["a"])
            assert caught.value.projection == "one"
            with pytest.raises(ClaimLost, match="gone"):
                await writer.commit({}, old=5, new=6, anchor=None)
        assert await self.shown(store) == {"a": 5}

    async def test_another_class_is_refused(self, store: Database) -> None:
        await self.build(store)
        async with store.claims(APP) as claims:
            await claims.take("one", 1)
            with pytest.raises(SchemaMismatch, match="version"):
                await claims.writer({"one": EVERYTHING})
            async with await claims.writer({"one": SIMPLE}) as writer:
                with pytest.raises(StoreError, match="not claimed"):
                    await writer.commit({"two": Changes(rows=[row("a")])}, old=5, new=6, anchor=None)

    # -- Orders --------------------------------------------------------------------------------------------------------

    async def test_orders(self, store: Database, second: Database) -> None:
        assert await store.order(APP, "one", Wanted.PAUSE) is None
        assert await store.skip(APP, "one", 7) is None
        await self.build(store)
        async with store.claims(APP) as claims:
            await claims.take("one", 1)
            await claims.report("one", Status.FAULTED, "help")
            paused = await second.order(APP, "one", Wanted.PAUSE)
            assert paused is not None
            assert (paused.wanted, paused.epoch, paused.status) == (Wanted.PAUSE, 2, Status.FAULTED)
            resumed = await second.order(APP, "one", Wanted.RUN)
            assert resumed is not None
            assert (resumed.wanted, resumed.epoch, resumed.status, resumed.reason) == (
                Wanted.RUN,
                3,
                Status.STOPPED,
                "",
            )
            assert resumed == await self.checkpoint(store)

    async def test_an_event_to_skip_is_forgotten_once_it_is_passed(self, store: Database) -> None:
        await self.build(store)
        await store.skip(APP, "one", 7)
        async with self.running(store) as (_, writer):
            await writer.commit({}, old=5, new=6, anchor=None)
            assert (await self.checkpoint(store)).skip == 7
            await writer.commit({}, old=6, new=8, anchor=None)
            assert (await self.checkpoint(store)).skip is None

    async def test_a_pause_outlives_a_rebuild_and_an_order_to_rebuild_does_not(self, store: Database) -> None:
        await self.build(store)
        await store.order(APP, "one", Wanted.PAUSE)
        await self.build(store)
        assert (await self.checkpoint(store)).wanted is Wanted.PAUSE
        await store.order(APP, "one", Wanted.REBUILD)
        await self.build(store)
        assert (await self.checkpoint(store)).wanted is Wanted.RUN

    # -- Dead letters --------------------------------------------------------------------------------------------------

    async def test_dead_letters_are_kept_whole(self, store: Database) -> None:
        await self.build(store, "one", "two")
        async with self.running(store) as (claims, writer):
            first = [letter(6, "k"), letter(7, "k", LetterKind.PARKED), letter(7, "j", LetterKind.SKIPPED)]
            await writer.commit({"one": Changes(letters=first)}, old=5, new=7, anchor=None)
            later = [letter(8, "k", reason="again"), letter(8, "b")]
            await writer.commit({"one": Changes(letters=later)}, old=7, new=8, anchor=None)
            found = await store.letters(APP)
            assert [(x.position, x.key) for x in found] == [(6, "k"), (7, "j"), (7, "k"), (8, "b"), (8, "k")]
            by_key = {(x.position, x.key): x for x in [*first, *later]}
            for one in found:
                expected = by_key[(one.position, one.key)]
                for name in ("projection", "kind", "reason", "subject", "headers", "body"):
                    assert getattr(one, name) == getattr(expected, name)
                assert one.recorded is not None
                assert abs((datetime.now(UTC) - one.recorded).total_seconds()) < 60
            assert await claims.quarantined("one") == [Quarantined("b", 8, "bad"), Quarantined("k", 6, "bad")]
            assert await store.letter_counts(APP) == {"one": (5, 2)}
            assert [x.position for x in await store.letters(APP, "one", key="k", limit=2)] == [6, 7]
            assert await store.letters(APP, "two") == []
            assert await store.letters("another app") == []

    async def test_resolving(self, store: Database, second: Database) -> None:
        await self.build(store, rows=[row("k", 1), row("gone", 1)])
        async with self.running(store) as (claims, writer):
            written = [letter(6, "k"), letter(7, "k", LetterKind.PARKED), letter(7, "b")]
            await writer.commit({"one": Changes(letters=written)}, old=5, new=7, anchor=None)
            epoch = (await self.checkpoint(store)).epoch
            mine = await second.letters(APP, "one", key="k")
            change: dict[str, Any] = {"lifted": ["k"], "rows": [row("k", 3)], "deleted": ["gone"]}
            change |= {"seen": [("order", "k", 9)], "schema": SIMPLE}
            with pytest.raises(ClaimLost, match="epoch"):
                await second.resolve(APP, "one", mine, epoch=epoch - 1, **change)
            assert await self.shown(store) == {"k": 1, "gone": 1}
            await second.resolve(APP, "one", mine, epoch=epoch, **change)
            assert await self.shown(store) == {"k": 3}
            assert [(x.position, x.key) for x in await store.letters(APP)] == [(7, "b")]
            assert [q.key for q in await claims.quarantined("one")] == ["b"]
            assert await store.letter_counts(APP) == {"one": (1, 1)}
            assert await writer.load_seen("one", [("order", "k")]) == {("order", "k"): 9}
            with pytest.raises(ClaimLost, match="order"):
                await writer.commit({}, old=7, new=8, anchor=None)
            with pytest.raises(ClaimLost):
                await second.resolve(APP, "none", [], epoch=0)

    async def test_resolving_is_refused_when_letters_came_meanwhile(self, store: Database, second: Database) -> None:
        await self.build(store, rows=[row("k", 1)])
        async with self.running(store) as (claims, writer):
            await writer.commit({"one": Changes(letters=[letter(6, "k"), letter(6, "b")])}, old=5, new=6, anchor=None)
            epoch = (await self.checkpoint(store)).epoch
            mine = await second.letters(APP, "one", key="k")
            await writer.commit(
                {"one": Changes(letters=[letter(7, "k", LetterKind.PARKED)])}, old=6, new=7, anchor=None
            )
            change: dict[str, Any] = {"rows": [row("k", 3)], "schema": SIMPLE, "epoch": epoch}
            with pytest.raises(ClaimLost, match="'k'"):
                await second.resolve(APP, "one", mine, lifted=["k"], **change)
            assert await self.shown(store) == {"k": 1}
            assert await store.letter_counts(APP) == {"one": (3, 2)}
            assert (await self.checkpoint(store)).epoch == epoch
            await second.resolve(APP, "one", mine, **change)  # without lifting it, that is nobody's loss
            assert [x.position for x in await store.letters(APP, "one", key="k")] == [7]
            assert [q.key for q in await claims.quarantined("one")] == ["b", "k"]

    async def test_resolving_is_refused_when_another_generation_came_meanwhile(
        self, store: Database, second: Database
    ) -> None:
        await self.build(store, rows=[row("k", 1)], letters=[letter(3, "k")])
        epoch = (await self.checkpoint(store)).epoch
        mine = await second.letters(APP, "one", key="k")
        await self.build(store, rows=[row("k", 7)])
        assert (await self.checkpoint(store)).epoch > epoch
        with pytest.raises(ClaimLost, match="epoch"):
            await second.resolve(APP, "one", mine, lifted=["k"], rows=[row("k", 3)], schema=SIMPLE, epoch=epoch)
        assert await self.shown(store) == {"k": 7}

    async def test_letters_go_and_come_with_their_generation(self, store: Database) -> None:
        old, new = [letter(3, "old")], [letter(3, "new"), letter(4, "new", LetterKind.PARKED)]
        await self.build(store, letters=old)
        assert [x.key for x in await store.letters(APP)] == ["old"]
        async with await store.begin_generation(SIMPLE, app=APP, name="one", version=1) as writer:
            await writer.record([letter(3, "never")])
        assert [x.key for x in await store.letters(APP)] == ["old"]
        await self.build(store, letters=new)
        assert [x.key for x in await store.letters(APP)] == ["new", "new"]
        assert await store.letter_counts(APP) == {"one": (2, 1)}
        async with store.claims(APP) as claims:
            await claims.take("one", 1)
            assert await claims.quarantined("one") == [Quarantined("new", 3, "bad")]
        await self.build(store)
        assert await store.letter_counts(APP) == {}
        # Nothing is left of those that were dropped.
        await self.build(store)
        assert {c.generation for c in await store.generations(APP)} == {3, 4}
        assert await self.leftovers(store) <= {3, 4}

    async def leftovers(self, store: Database) -> set[int]:
        """Generations of which letters, quarantines or seen versions are kept."""
        if not isinstance(store, SqlLiveStore):
            return set()

        def find(connection: sa.Connection) -> set[int]:
            kept = [table for table in store.catalog if table is not store.catalog.checkpoints]
            return {found for table in kept for found in connection.execute(sa.select(table.c.generation)).scalars()}

        return await store.read(find)

    # -- Snapshots -----------------------------------------------------------------------------------------------------

    async def test_a_snapshot_is_of_one_moment(self, store: Database) -> None:
        await self.build(store, "one", "two", rows=[row("a", 5)])
        async with self.running(store, "one", "two") as (_, writer):
            async with store.snapshot(APP, ["one", "two", "none"]) as snapshot:
                assert snapshot.positions == {"one": 5, "two": 5}
                one, two = snapshot.repository(SIMPLE, "one"), snapshot.repository(SIMPLE, "two")
                assert (await one.find_by_id("a")).total == 5  # type: ignore[union-attr]
                changes = {name: Changes(rows=[row("a", 6), row("b", 6)]) for name in ("one", "two")}
                await writer.commit(changes, old=5, new=6, anchor=None)
                assert [view.total for view in await two.find_all()] == [5]
                assert await two.find_by_field("total", 6) == []
                assert await one.count(Condition("total", ">=", 0)) == 1
                assert snapshot.positions == {"one": 5, "two": 5}
                with pytest.raises(StoreError, match="none"):
                    snapshot.repository(SIMPLE, "none")
                with pytest.raises(StoreError):
                    await one.save(Simple("c"))
                with pytest.raises(SchemaMismatch):
                    await snapshot.repository(EVERYTHING, "one").count()
            async with store.snapshot(APP, ["one", "two"]) as snapshot:
                assert snapshot.positions == {"one": 6, "two": 6}
                assert await snapshot.repository(SIMPLE, "two").count() == 2
        assert set(await self.shown(store)) == {"a", "b"}

    # -- Rows that are refused -----------------------------------------------------------------------------------------

    def bad_row(self) -> Row:
        """A row with key ``bad`` that this database refuses, though its class does not."""
        raise NotImplementedError

    @pytest.mark.parametrize("count", [1, 5, 1_000])
    async def test_a_refused_row_is_named_and_leaves_nothing(self, store: Database, count: int) -> None:
        names = ["one", "two"]
        await self.build(store, *names, schema=EVERYTHING)
        good = [EVERYTHING.freeze(Everything(f"k{i}")) for i in range(count)]
        mixed = [*good[: count // 2], self.bad_row(), *good[count // 2 :]]
        async with self.running(store, *names, schema=EVERYTHING) as (_, writer):
            changes = {"one": Changes(rows=good, letters=[letter(6, "q")]), "two": Changes(rows=mixed)}
            with pytest.raises(RowRefused, match="bad") as caught:
                await writer.commit(changes, old=5, new=6, anchor=None)
            assert (caught.value.projection, caught.value.key) == ("two", "bad")
            assert await store.positions(APP, names) == dict.fromkeys(names, 5)
            assert [await store.repository(EVERYTHING, name).count() for name in names] == [0, 0]
            assert await store.letters(APP) == []
            await writer.commit({**changes, "two": Changes(rows=good)}, old=5, new=6, anchor=None)
        assert [await store.repository(EVERYTHING, name).count() for name in names] == [count, count]

    async def test_a_refused_row_of_a_resolution(self, store: Database) -> None:
        await self.build(store, schema=EVERYTHING, letters=[letter(3, "bad")])
        with pytest.raises(RowRefused, match="bad") as caught:
            await store.resolve(APP, "one", await store.letters(APP), rows=[self.bad_row()], schema=EVERYTHING, epoch=0)
        assert (caught.value.projection, caught.value.key) == ("one", "bad")
        assert await store.letter_counts(APP) == {"one": (1, 1)}
        assert (await self.checkpoint(store)).epoch == 0
