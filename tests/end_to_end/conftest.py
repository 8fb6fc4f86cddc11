"""Fixtures of the end-to-end tests: an app on a real stream and a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from refold import App
from refold.embedded import EmbeddedNats


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def lasting_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind that outlives a process."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def make_app(nats: EmbeddedNats, stream_name: str) -> Any:
    """Makes apps on one stream of the shared server."""

    def make(database_url: str, **more: Any) -> App:
        return App(
            "chaos",
            nats_url=nats.url,
            stream=stream_name,
            subject_prefix=stream_name,
            database_url=database_url,
            **more,
        )

    return make


@pytest.fixture
async def app(make_app: Any, database_url: str) -> AsyncIterator[App]:
    """An open app with a stream, on each kind of database."""
    async with make_app(database_url) as app:
        await app.create_stream()
        yield app
