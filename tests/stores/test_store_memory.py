"""The contract of view stores, kept by memory."""

from __future__ import annotations

import pytest
from store_cases import StoreCases


class TestStore(StoreCases):
    @pytest.fixture
    def url(self) -> str:
        return "memory://"
