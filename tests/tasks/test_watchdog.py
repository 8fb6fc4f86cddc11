"""A blocked event loop is noticed from outside of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest
from tasks_support import settle

from refold.tasks import BlockedLoop, ConcurrentScheduler, Health, HealthStatus, Run, Task

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert "refold watchdog" not in [thread.name for thread in threading.enumerate()]


class Watched:
    """Blocks the loop until the watchdog has told of it."""

    def __init__(self) -> None:
        self.noticed = threading.Event()
        self.told: list[BlockedLoop] = []
        self.seen: list[Health] = []
        self.scheduler = ConcurrentScheduler(blocked_after=0.05, on_blocked=self.on_blocked)

    def on_blocked(self, blocked: BlockedLoop) -> None:
        self.told.append(blocked)
        self.seen.append(self.scheduler.health)  # as a health check in another thread sees it
        self.noticed.set()

    def block(self) -> None:
        assert self.noticed.wait(DEADLINE)
        self.noticed.clear()

    async def recovered(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.scheduler.health.status is not HealthStatus.GREEN:
                await asyncio.sleep(0.001)


async def test_a_task_that_blocks_the_loop_is_named_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()

    async def work(run: Run) -> None:
        a_call_that_blocks()

    def a_call_that_blocks() -> None:
        watched.block()

    async with watched.scheduler as scheduler:
        await scheduler.schedule(Task("report", work, id="nightly"))
        await settle()
        await watched.recovered()
    (blocked,) = watched.told
    assert (blocked.task_id, blocked.task_type) == ("nightly", "report")
    assert "a_call_that_blocks" in blocked.stack
    (health,) = watched.seen
    assert (health.status, health.blocked) == (HealthStatus.RED, blocked)
    assert health.reasons == ("the event loop is blocked by task 'nightly' (report)",)
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert vars(record)["task_id"] == "nightly"
    assert "a_call_that_blocks" in vars(record)["stack"]


async def test_what_else_blocks_the_loop_is_named_too() -> None:
    watched = Watched()
    async with watched.scheduler:

        async def other() -> None:
            watched.block()

        await asyncio.create_task(other(), name="somebody else")
        await watched.recovered()
        asyncio.get_running_loop().call_soon(watched.block)
        await settle()
        await watched.recovered()
    assert [(blocked.name, blocked.task_id) for blocked in watched.told] == [("somebody else", None), (None, None)]
    assert [health.reasons[0] for health in watched.seen] == [
        "the event loop is blocked by somebody else",
        "the event loop is blocked by no task",
    ]


async def test_a_hook_that_fails_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()

    def fails(blocked: BlockedLoop) -> None:
        watched.noticed.set()
        raise ValueError("a hook's")

    scheduler = ConcurrentScheduler(blocked_after=0.05, on_blocked=fails)
    async with scheduler:
        for _ in range(2):
            watched.block()
            async with asyncio.timeout(DEADLINE):
                while scheduler.health.blocked:
                    await asyncio.sleep(0.001)
    assert caplog.text.count("on_blocked failed") == 2


async def test_a_loop_that_answers_is_not_blocked() -> None:
    watched = Watched()
    async with watched.scheduler as scheduler:
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert scheduler.health == Health(HealthStatus.GREEN)
        await scheduler.start()  # once more, without a second thread
        assert [thread.name for thread in threading.enumerate()].count("refold watchdog") == 1


def test_a_loop_that_was_closed_ends_the_watch() -> None:
    async def main() -> None:
        await ConcurrentScheduler(blocked_after=0.01).start()

    asyncio.run(main())
    thread = next((t for t in threading.enumerate() if t.name == "refold watchdog"), None)
    if thread is not None:
        thread.join(DEADLINE)
        assert not thread.is_alive()
