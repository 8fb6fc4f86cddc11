"""The contracts of view stores and of live running, kept by memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from live_cases import APP, EVERYTHING, Everything, LiveCases
from store_cases import StoreCases

from refold.errors import RowRefused
from refold.ports import Database
from refold.stores.memory import MemoryStore
from refold.view import Row


class TestStore(StoreCases):
    @pytest.fixture
    def url(self) -> str:
        return "memory://"


class Choosy(MemoryStore):
    def check_rows(self, projection: str, rows: Sequence[Row]) -> None:
        if any(row[0] == "bad" for row in rows):
            raise RowRefused("bad is refused", key="bad")


class TestLive(LiveCases):
    @pytest.fixture
    async def store(self) -> Database:  # type: ignore[override]
        return Choosy()

    @pytest.fixture
    async def second(self, store: Database) -> Database:  # type: ignore[override]
        return store

    def bad_row(self) -> Row:
        return EVERYTHING.freeze(Everything("bad"))


class Hours:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


async def test_a_claim_ends_with_its_holder_or_with_its_lease() -> None:
    hours = Hours()
    store = MemoryStore(hours)
    cases = LiveCases()
    await cases.build(store)
    async with store.claims(APP) as first, store.claims(APP) as second, store.claims(APP) as third:
        await first.take("one", 1)
        store.end_life(first.owner)
        assert await second.take("one", 1) is not None
        hours.time += timedelta(seconds=16)
        assert await third.take("one", 1) is not None
