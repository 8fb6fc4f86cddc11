"""The order service on a free port, as a client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest
import uvicorn
from example_support import StillClock, until

from orders.api import create_api, running
from orders.views import make_app
from refold import App, SequentialScheduler
from refold.embedded import EmbeddedNats


@pytest.fixture
def clock() -> StillClock:
    """The scheduler's."""
    return StillClock()


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def app(request: pytest.FixtureRequest, nats: EmbeddedNats, stream_name: str) -> App:
    """The example's app on a stream and a database of its own."""
    return make_app(
        nats_url=nats.url,
        database_url=request.getfixturevalue(request.param),
        stream=stream_name,
        subject_prefix=stream_name,
        environment=False,
    )


Serve = Callable[[App], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def serve(clock: StillClock) -> Serve:
    """Serves an app over HTTP: ``async with serve(app) as client``; its views are built then."""

    @asynccontextmanager
    async def start(app: App) -> AsyncIterator[httpx.AsyncClient]:
        api = create_api(lambda _: running(app, SequentialScheduler(clock=clock)))
        config = uvicorn.Config(api, port=0, log_level="warning", lifespan="on")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(30):
            while not server.started:
                assert not serving.done(), "it did not start; its log says why"
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                await until(lambda health: bool(health["well"]), client)
                yield client
        finally:
            server.should_exit = True
            await serving

    return start


@pytest.fixture
async def client(serve: Serve, app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service."""
    async with serve(app) as client:
        yield client
