"""Fixtures of the JetStream tests: a connection and a stream of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from jetstream_support import Proxy, Stream

from refold.embedded import EmbeddedNats
from refold.jetstream.api import JetStreamApi
from refold.jetstream.connection import NatsConnection, NatsSettings, connected
from servers import NATS_VERSIONS, nats_server_binary, run


@pytest_asyncio.fixture
async def client(nats: EmbeddedNats) -> AsyncIterator[NatsConnection]:
    """A connection to the shared server."""
    async with connected(NatsSettings(url=nats.url), purpose="test") as connection:
        yield connection


@pytest_asyncio.fixture
async def proxy(nats: EmbeddedNats) -> AsyncIterator[Proxy]:
    """A proxy before the shared server, which passes everything on until a test tells it otherwise."""
    async with Proxy().before(nats.port) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def stream(client: NatsConnection, stream_name: str) -> Stream:
    """A new stream on the shared server, with subjects of its own."""
    await JetStreamApi(client).ensure_stream(stream_name, [f"{stream_name}.>"])
    return Stream(client, stream_name, prefix=stream_name)


@pytest.fixture(scope="session", params=sorted(NATS_VERSIONS))
def every_nats(request: pytest.FixtureRequest) -> Iterator[tuple[str, EmbeddedNats]]:
    """Each server version in turn: its minor version and a running server."""
    server = EmbeddedNats(binary=nats_server_binary(request.param))
    run(server.__aenter__())
    try:
        yield request.param, server
    finally:
        run(server.__aexit__(None, None, None))
