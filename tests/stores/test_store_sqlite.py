"""The contracts of view stores and of live running, kept by SQLite."""

from __future__ import annotations

import pytest
from live_cases import EVERYTHING, Everything, LiveCases
from store_cases import StoreCases

from refold.view import Row


class TestStore(StoreCases):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url


class TestLive(LiveCases):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    def bad_row(self) -> Row:
        """A STRICT table takes no BLOB for a text."""
        row = EVERYTHING.freeze(Everything("bad"))
        at = EVERYTHING.names.index("tags")
        return (*row[:at], b"blob", *row[at + 1 :])
