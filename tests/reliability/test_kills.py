"""Processes that are killed at any moment, and at the worst ones: nothing is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import random
import signal
import time

import pytest
from life_support import Life


def lives(life: Life, rng: random.Random, kills: int, share: int) -> None:
    """Publishes while one process after the other is killed at random."""
    for _ in range(kills):
        with life.worker() as worker:
            life.publish_bulk(share)
            before = life.position()
            life.wait(lambda: life.position() > before)  # noqa: B023 (asked at once)
            time.sleep(rng.uniform(0.0, 0.05))
            worker.send(signal.SIGKILL)
            worker.join()


async def killed_at_random(life: Life, seed: int, kills: int, share: int) -> None:
    await life.begin()
    await asyncio.to_thread(lives, life, random.Random(seed), kills, share)
    with life.worker():
        await life.publish(50)
        await asyncio.to_thread(life.wait_for_head)
    await life.check()


async def test_killed_at_random(life: Life, seed: int) -> None:
    await killed_at_random(life, seed, 5, 300)


@pytest.mark.soak
async def test_killed_at_random_a_hundred_times(life: Life, seed: int) -> None:
    await killed_at_random(life, seed, 100, 2_000)


@pytest.mark.parametrize("where", ["before commit", "within commit", "after commit"])
async def test_killed_around_a_commit(life: Life, where: str) -> None:
    await life.begin()
    for commits in range(3):
        with life.worker(LIFE_DIES=where, LIFE_COMMITS=str(commits)) as worker:
            while worker.process.poll() is None:
                await life.publish(3)
            assert worker.join() == -signal.SIGKILL, worker.errors
    with life.worker():
        await asyncio.to_thread(life.wait_for_head)
    await life.check()
