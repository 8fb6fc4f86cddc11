"""Fixtures of the tasks' tests: a clock that tests move, and schedulers that run by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from tasks_support import ManualClock, Works, closed

from refold.tasks import ConcurrentScheduler, LaneScheduler


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def works() -> Works:
    return Works()


@pytest_asyncio.fixture
async def started(clock: ManualClock) -> AsyncIterator[Callable[..., Any]]:
    """Makes schedulers that run by the clock of the test: ``await started(SequentialScheduler, capacity=3)``."""
    made: list[LaneScheduler] = []

    async def start(kind: type[Any] = ConcurrentScheduler, **options: Any) -> Any:
        made.append(kind(**({"clock": clock, "blocked_after": None} | options)))
        await made[-1].start()
        return made[-1]

    yield start
    for scheduler in made:
        await closed(scheduler, clock, 0)
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("refold ")]
    assert not left
