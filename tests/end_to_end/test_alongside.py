"""Projections that run beside a caller's event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest

from refold import App, DomainEvent, Projector, View, alongside, event, on
from refold.embedded import EmbeddedNats
from refold.errors import ClaimHeld, ConfigurationError


@event("counted")
class Counted(msgspec.Struct, gc=False):
    slow: float = 0.0


class Count(View):
    events: int = 0
    thread: str = ""


class Counts(Projector[Count], name="counts", aggregate="thing"):
    @on(Counted)
    def counted(self, view: Count, event: DomainEvent[Counted]) -> None:
        time.sleep(event.payload.slow)  # a handler that takes its time
        view.events += 1
        view.thread = threading.current_thread().name


@pytest.fixture
def app(nats: EmbeddedNats, stream_name: str, lasting_url: str) -> App:
    app = App(
        "beside",
        nats_url=nats.url,
        stream=stream_name,
        subject_prefix=stream_name,
        database_url=lasting_url,
        environment=False,
    )
    app.register(Counts)
    return app


async def test_the_callers_loop_goes_on_while_handlers_are_slow(app: App) -> None:
    longest = 0.0

    async def look() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - began)

    async with app:
        await app.create_stream()
    async with alongside(app) as opened:
        assert opened is app
        looking = asyncio.create_task(look())
        ack = await app.publish("thing", "1", [Counted(0.7)])
        await app.wait_for(Counts, ack.position)
        looking.cancel()
        view = await app.views(Counts).find_by_id("1")
        assert view is not None
        assert (view.events, view.thread) == (1, "refold-engine")
    assert longest < 0.5
    async with alongside(app):  # its claims were let go of
        ack = await app.publish("thing", "1", [Counted()])
        await app.wait_for(Counts, ack.position)


async def test_an_error_of_the_callers_block_is_its_own(app: App) -> None:
    async with app:
        await app.create_stream()
    with pytest.raises(ValueError, match="mine"):
        async with alongside(app):
            raise ValueError("mine")


async def test_why_running_ended_is_told_in_the_end(app: App) -> None:
    async with app:
        await app.create_stream()
        await app.rebuild()
        async with app.store.claims(app.name) as claims:
            await claims.take("counts", 1)
            renewing = asyncio.create_task(_renew(claims))
            with pytest.raises(ClaimHeld):
                await _beside(app.twin())
            renewing.cancel()


async def _beside(app: App) -> None:
    async with alongside(app, lease=0.5):
        await app.publish("thing", "1", [Counted()])
        await asyncio.to_thread(_ended)


async def _renew(claims: Any) -> None:
    while True:
        await claims.renew(["counts"])
        await asyncio.sleep(0.1)


def _ended() -> None:
    end = time.monotonic() + 20
    while any(thread.name == "refold-engine" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


async def test_views_in_memory_are_refused() -> None:
    app = App("beside", database_url="memory://", environment=False)
    app.register(Counts)
    with pytest.raises(ConfigurationError, match="one event loop"):
        async with alongside(app):
            pass
