"""The contract of view stores, kept by sqlite."""

from __future__ import annotations

import pytest
from store_cases import StoreCases


class TestStore(StoreCases):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url
