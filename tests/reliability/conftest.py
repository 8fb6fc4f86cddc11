"""Fixtures of the reliability tests."""

from __future__ import annotations

import os
import random

import pytest
from life_support import Life

from refold.embedded import EmbeddedNats


@pytest.fixture
def seed() -> int:
    """Of everything that is drawn; REFOLD_TEST_SEED runs a failed test again with its own."""
    drawn = int(os.environ.get("REFOLD_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"REFOLD_TEST_SEED={drawn}")  # shown where the test fails
    return drawn


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def lasting_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind that outlives a process."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def life(nats: EmbeddedNats, lasting_url: str, stream_name: str, seed: int) -> Life:
    """The app on a stream of the shared server, some of whose events no handler can take, and an empty database."""
    return Life(nats.url, stream_name, lasting_url, seed=seed, broken=5)
