"""The contract of view stores, kept by postgresql."""

from __future__ import annotations

import pytest
from store_cases import StoreCases


class TestStore(StoreCases):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url
