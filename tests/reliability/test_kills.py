"""Processes that are killed at any moment, and at the worst ones: nothing is lost, nothing is there twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest
from life_support import Life

MakeLife = Callable[..., Life]


def lives(life: Life, rng: random.Random, kills: int, share: int) -> None:
    """Publishes while one process after the other is killed at random."""
    for _ in range(kills):
        with life.worker() as worker:
            life.publish_bulk(share)
            life.wait(lambda: life.position() >= 0)
            time.sleep(rng.uniform(0.0, 0.05))
            worker.send(signal.SIGKILL)
            worker.join()


async def test_killed_at_random(life: Life, seed: int) -> None:
    await life.begin()
    rng = random.Random(seed)
    import asyncio

    await asyncio.to_thread(lives, life, rng, 6, 300)
    with life.worker():
        await life.publish(50)
        await asyncio.to_thread(life.wait_for_head)
    await life.check()


@pytest.mark.parametrize("where", ["before commit", "after commit"])
async def test_killed_around_a_commit(life: Life, where: str) -> None:
    import asyncio

    await life.begin()
    for commits in range(3):
        with life.worker(LIFE_DIES=where, LIFE_COMMITS=str(commits)) as worker:
            await life.publish(30)
            assert await asyncio.to_thread(worker.join) == -signal.SIGKILL, worker.errors
    with life.worker():
        await asyncio.to_thread(life.wait_for_head)
    await life.check()
