"""The contracts of view stores and of live running, kept by PostgreSQL."""

from __future__ import annotations

import pytest
from live_cases import EVERYTHING, Everything, LiveCases
from store_cases import SCHEMA, StoreCases, Thing

from refold import ViewStore
from refold.errors import RowRefused, StoreError
from refold.stores.postgresql import PostgresStore
from refold.view import Row


class TestStore(StoreCases):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    async def test_a_published_generation_has_statistics_and_one_before_it(self, store: ViewStore) -> None:
        for _ in range(3):
            async with await self.generation(store, 50) as writer:
                await self.publish(writer)
                with pytest.raises(StoreError, match="is published"):
                    await writer.insert([SCHEMA.freeze(Thing("late"))])
        assert isinstance(store, PostgresStore)
        with store.connect() as connection:
            known = connection.execute(
                "SELECT DISTINCT tablename FROM pg_stats WHERE tablename LIKE 'shown%'"
            ).fetchall()
        assert sorted(known) == [("shown__v1g2",), ("shown__v1g3",)]

    async def test_a_row_that_only_the_database_refuses_is_named(self, store: ViewStore) -> None:
        """PostgreSQL parses JSON, and its stack ends where nobody else's does."""
        deep = Thing("deep")
        rows = [SCHEMA.freeze(view) for view in (Thing("a"), deep, Thing("b"))]
        at = SCHEMA.names.index("tags")
        rows[1] = (*rows[1][:at], "[" * 200_000 + "]" * 200_000, *rows[1][at + 1 :])
        async with await store.begin_generation(SCHEMA, app="t", name="shown", version=1) as writer:
            with pytest.raises(RowRefused, match="'deep'") as caught:
                await writer.insert(rows)
            assert caught.value.key == "deep"
            await writer.insert([rows[0], rows[2]])
            await self.publish(writer)
        assert await store.repository(SCHEMA, "shown").count() == 2


class TestLive(LiveCases):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    def bad_row(self) -> Row:
        """PostgreSQL parses JSON, and its stack ends where nobody else's does."""
        row = EVERYTHING.freeze(Everything("bad"))
        at = EVERYTHING.names.index("tags")
        return (*row[:at], "[" * 200_000 + "]" * 200_000, *row[at + 1 :])
