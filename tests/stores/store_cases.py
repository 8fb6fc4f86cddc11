"""The contract of view stores: every backend's tests derive from `StoreCases`."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest

from refold import Condition, Index, Order, View, ViewStore
from refold.errors import DefinitionError, RowRefused, SchemaMismatch, StoreError
from refold.stores import open_store
from refold.view import ViewSchema

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, UTC)


class State(enum.StrEnum):
    NEW = "new"
    OLD = "old"


class Thing(View):
    text: Annotated[str, Index()] = ""
    whole: int = 0
    real: float = 0.0
    flag: bool = False
    money: Decimal = Decimal(0)
    when: datetime | None = None
    day: date | None = None
    uid: UUID | None = None
    blob: bytes = b""
    tags: list[str] = []
    state: State = State.NEW


class Wider(View):
    text: str = ""
    more: int = 0


SCHEMA = ViewSchema.of(Thing)
ORDERED: dict[str, list[Any]] = {
    "text": ["", "A", "Z", "a", "é", "你", "😀"],
    "whole": [-(2**63), -1, 0, 9, 10, 2**63 - 1],
    "real": [-1.5, 0.0, 1e-9, 2.5, 1e300],
    "flag": [False, True],
    "money": [Decimal("-10"), Decimal("-9.99"), Decimal("0.10"), Decimal("2"), Decimal("10.1"), Decimal("1E+20")],
    "when": [NOW, NOW + timedelta(microseconds=1), NOW + timedelta(days=1)],
    "day": [date(1999, 12, 31), date(2026, 1, 2), date(2026, 1, 10)],
    "uid": [UUID(int=1), UUID(int=2**100), UUID(int=2**127)],
    "blob": [b"", b"\0", b"\0\1", b"\xff"],
}
EAST, WEST = timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))
REFUSED = {
    "text": ["a\0b", "\ud800", 5, "x" * 3_000],
    "whole": [2**70, "1", True],
    "real": [float("nan"), float("inf"), 1],
    "money": [Decimal("NaN"), 1.5, Decimal("1." + "1" * 20_000), Decimal("1E+200000"), Decimal("1E-20000")],
    "when": [datetime(2026, 1, 1), datetime(1, 1, 1, tzinfo=EAST), datetime(9999, 12, 31, 23, tzinfo=WEST)],
    "tags": [["a\0"], ["\ud800"], [1], "text", {"a": 1}, [float("nan")]],
    "state": ["nonsense", 5],
    "id": ["", "k" * 3_000, "\0"],
}


class StoreCases:
    """Subclasses give `url`."""

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[ViewStore]:
        async with open_store(url) as store:
            yield store

    @pytest.fixture
    async def things(self, store: ViewStore) -> Any:
        await store.create_table(SCHEMA, "things")
        return store.repository(SCHEMA, "things")

    async def test_a_view_comes_back_as_it_was(self, things: Any) -> None:
        view = Thing(
            "k", NOW, NOW, 3, 9, "ü'\"\n\\", 7, 1.5, True, Decimal("1.10"), NOW, date(2026, 1, 2), UUID(int=5), b"\0x"
        )
        view.tags = ["a", "ü"]
        await things.save(view)
        found = await things.find_by_id("k")
        assert found == view
        assert str(found.money) == "1.10"

    @pytest.mark.parametrize("field", list(ORDERED))
    async def test_order_and_ranges_are_those_of_python(self, things: Any, field: str) -> None:
        values = ORDERED[field]
        await things.save_batch([Thing(f"k{i}", **{field: value}) for i, value in enumerate(values)])
        keys = [f"k{i}" for i in range(len(values))]
        assert [v.id for v in await things.find(order_by=[Order(field)])] == keys
        assert [v.id for v in await things.find(order_by=[Order(field, descending=True)])] == keys[::-1]
        for i, value in enumerate(values):
            assert getattr(await things.find_by_id(f"k{i}"), field) == value
            assert {v.id for v in await things.find(Condition(field, "<", value))} == set(keys[:i])
            assert {v.id for v in await things.find(Condition(field, ">=", value))} == set(keys[i:])
            assert [v.id for v in await things.find_by_field(field, value)] == [f"k{i}"]
        assert await things.count(Condition(field, "in", values[:2])) == 2

    async def test_nulls(self, things: Any) -> None:
        await things.save_batch([Thing("a"), Thing("b", when=NOW)])
        for descending in (False, True):
            assert [v.id for v in await things.find(order_by=[Order("when", descending)])] == ["b", "a"]
        assert [v.id for v in await things.find(Condition("when", "is null"))] == ["a"]
        assert [v.id for v in await things.find_by_field("when", None)] == ["a"]
        assert await things.count(Condition("when", "!=", NOW)) == 0

    @pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in REFUSED.items() for v in values])
    async def test_what_no_store_takes(self, things: Any, field: str, value: Any) -> None:
        bad = Thing("k", text="before")
        setattr(bad, field, value)
        with pytest.raises(RowRefused, match=field):
            await things.save_batch([Thing("good"), bad])
        assert await things.count() == 0

    async def test_saving_deleting_and_paging(self, things: Any) -> None:
        await things.save_batch([Thing(f"{i:02}", whole=i) for i in range(10)] + [Thing("03", whole=33)])
        page = await things.page(
            Condition("whole", ">=", 2), order_by=[Order("whole", descending=True)], limit=3, offset=1
        )
        assert ([v.whole for v in page.items], page.total, page.has_more) == ([9, 8, 7], 8, True)
        assert await things.exists("03")
        assert set(await things.find_by_ids(["01", "no", "03"])) == {"01", "03"}
        assert (await things.delete("01"), await things.delete("01")) == (True, False)
        assert await things.delete_batch(["02", "03", "no"]) == 2
        assert [v.id for v in await things.find_all(limit=2)] == ["00", "04"]
        with pytest.raises(DefinitionError, match="no field"):
            await things.find(Condition("nothing", "=", 1))

    async def generation(self, store: ViewStore, rows: int, *, version: int = 1, schema: Any = SCHEMA) -> Any:
        writer = await store.begin_generation(schema, app="t", name="shown", version=version)
        await writer.insert([schema.freeze(schema.view(f"k{i}", position=i)) for i in range(rows)])
        return writer

    async def publish(self, writer: Any) -> None:
        await writer.publish(stream="S", created="c", position=5, fingerprint="f", seen=[("order", "x", 3)])

    async def test_a_generation_is_seen_when_it_is_published(self, store: ViewStore) -> None:
        shown = store.repository(SCHEMA, "shown")
        async with await self.generation(store, 3) as writer:
            with pytest.raises(StoreError):
                await shown.count()
            await self.publish(writer)
        assert (writer.table, await shown.count()) == ("shown__v1g1", 3)
        async with await self.generation(store, 5) as writer:
            assert await shown.count() == 3
            await writer.upsert([SCHEMA.freeze(Thing("k0", whole=7)), SCHEMA.freeze(Thing("new"))], ["k1"])
            assert set(await writer.load(["k0", "k1", "new"])) == {"k0", "new"}
            await self.publish(writer)
        assert (await shown.count(), (await shown.find_by_id("k0")).whole) == (5, 7)  # type: ignore[union-attr]
        active = [row for row in await store.checkpoints("t") if row["state"] == "active"]
        assert [(row["table_name"], row["position"]) for row in active] == [("shown__v1g2", 5)]

    async def test_leaving_without_publishing_drops_the_generation(self, store: ViewStore) -> None:
        async with await self.generation(store, 1) as first:
            await self.publish(first)
        with pytest.raises(ZeroDivisionError):
            async with await self.generation(store, 2):
                raise ZeroDivisionError
        assert await store.repository(SCHEMA, "shown").count() == 1
        assert len(await store.checkpoints("t")) == 1

    async def test_two_generations_at_once(self, store: ViewStore) -> None:
        async with await self.generation(store, 1) as one, await self.generation(store, 2) as two:
            assert one.table != two.table
            await self.publish(two)
            await self.publish(one)
        assert await store.repository(SCHEMA, "shown").count() == 1

    async def test_other_columns_need_a_new_version(self, store: ViewStore) -> None:
        async with await self.generation(store, 1) as writer:
            await self.publish(writer)
        wider = ViewSchema.of(Wider)
        with pytest.raises(SchemaMismatch, match="version") as caught:
            await store.begin_generation(wider, app="t", name="shown", version=1)
        assert caught.value.column in {*SCHEMA.names, "more"}
        async with await self.generation(store, 4, version=2, schema=wider) as writer:
            await self.publish(writer)
        assert await store.repository(wider, "shown").count() == 4

    async def test_names_that_are_none(self, store: ViewStore) -> None:
        for name in ("", "Upper", "a b", "refold_x", 'x"y', "x" * 60):
            with pytest.raises(DefinitionError):
                await store.begin_generation(SCHEMA, app="t", name=name, version=1)
