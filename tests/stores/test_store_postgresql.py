"""The contracts of view stores and of live running, kept by PostgreSQL."""

from __future__ import annotations

import pytest
from live_cases import EVERYTHING, Everything, LiveCases
from store_cases import SCHEMA, StoreCases, Thing

from refold import ViewStore
from refold.errors import RowRefused
from refold.view import Row


class TestStore(StoreCases):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

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
