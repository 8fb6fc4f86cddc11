"""Tasks that raise, take too long, or are cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tasks_support import START, ManualClock, Works, settle

from refold.errors import ConfigurationError
from refold.tasks import Backoff, Run, Task, TaskFailed, TaskStatus

Started = Callable[..., Any]
STATUS = TaskStatus


async def test_a_task_that_raises_is_retried_with_growing_waits_and_then_a_dead_letter(
    started: Started, works: Works, clock: ManualClock
) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t", max_retries=3))
    await settle()
    for wait in (10, 20, 40):
        await works.end("t", ValueError("still no"))
        info = await scheduler.status("t")
        assert (info.status, info.last_error) == (STATUS.RETRYING, "ValueError: still no")
        assert info.next_retry_at == clock.now() + timedelta(seconds=wait)
        await clock.advance(wait - 1)
        assert not works.running
        await clock.advance(1)
        info = await scheduler.status("t")
        assert (info.status, info.next_retry_at) == (STATUS.RUNNING, None)
    assert not works.told
    await works.end("t", ValueError("never"))
    info = await scheduler.status("t")
    assert (info.status, info.attempt, info.last_error) == (STATUS.DEAD_LETTER, 4, "ValueError: never")
    assert (info.completed, info.failed, info.finished_at) == (0, 1, START + timedelta(seconds=70))
    assert works.told == [("complete", info)]
    assert len({run.run_id for run in works.runs}) == 1
    assert [run.attempt for run in works.runs] == [1, 2, 3, 4]


async def test_a_retry_may_succeed(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t"))
    await settle()
    await works.end("t", ValueError("no"))
    await clock.advance(10)
    await works.end("t")
    info = await scheduler.wait("t")
    assert (info.status, info.attempt, info.completed, info.failed) == (STATUS.COMPLETED, 2, 1, 0)
    assert info.last_error == "ValueError: no", "what went wrong on the way stays known"


@pytest.mark.parametrize(
    ("options", "error"), [({"max_retries": 0}, ValueError("x")), ({"max_retries": 9}, TaskFailed("x"))]
)
async def test_what_is_not_to_be_tried_again_failed(
    started: Started, works: Works, options: dict[str, Any], error: Exception
) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t", **options))
    await settle()
    await works.end("t", error)
    info = await scheduler.status("t")
    assert (info.status, info.last_error) == (STATUS.FAILED, f"{type(error).__name__}: x")
    assert [what for what, _ in works.told] == ["complete"]


async def test_an_attempt_past_its_timeout_is_cancelled_and_retried(
    started: Started, works: Works, clock: ManualClock
) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t", timeout=5.0, max_retries=1))
    await clock.advance(4.9)
    assert "t" in works.running
    await clock.advance(0.1)
    assert works.ended == [("t", "cancelled")]
    info = await scheduler.status("t")
    assert (info.status, info.last_error) == (STATUS.RETRYING, "TaskTimedOut: not done within 5 s")
    await clock.advance(10)
    await clock.advance(5)
    info = await scheduler.status("t")
    assert (info.status, info.attempt) == (STATUS.DEAD_LETTER, 2)
    assert works.ended == [("t", "cancelled")] * 2


async def test_a_timeout_does_not_outlive_its_attempt(started: Started, works: Works, clock: ManualClock) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t", timeout=15.0))
    await clock.advance(10)
    await works.end("t", ValueError("no"))
    await clock.advance(10)  # the second attempt begins
    await clock.advance(14.9)
    assert "t" in works.running
    await clock.advance(0.1)
    assert "t" not in works.running


async def test_what_timed_out_work_returns_does_not_count(started: Started, works: Works, clock: ManualClock) -> None:
    async def work(run: Run) -> str:
        with suppress(asyncio.CancelledError):  # bad manners, but it ends
            await asyncio.Event().wait()
        return "done"

    scheduler = await started()
    await scheduler.schedule(works.task("t", work=work, timeout=1.0, max_retries=0))
    await clock.advance(1)
    assert (await scheduler.status("t")).last_error == "TaskTimedOut: not done within 1 s"


async def test_work_that_is_cancelled_by_itself_failed(started: Started, works: Works) -> None:
    async def work(run: Run) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    scheduler = await started()
    await scheduler.schedule(works.task("t", work=work, max_retries=0))
    await settle()
    info = await scheduler.status("t")
    assert (info.status, info.last_error) == (STATUS.FAILED, "CancelledError: ")


async def test_work_that_is_no_coroutine_function_failed(started: Started, works: Works) -> None:
    scheduler = await started()
    await scheduler.schedule(works.task("t", work=lambda run: None, max_retries=0))
    await settle()
    assert "TypeError" in (await scheduler.status("t")).last_error


async def test_a_callback_that_raises_or_hangs_does_no_harm(
    started: Started, works: Works, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    def raises(info: object) -> None:
        raise ValueError("a callback's")

    async def hangs(info: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cut off")

    async def hangs_on(info: object) -> None:
        while True:
            try:
                await over.wait()
                return
            except asyncio.CancelledError:
                told.append("stays")

    over = asyncio.Event()
    scheduler = await started(limit=1, grace=3.0)
    for callback in (raises, hangs, hangs_on):
        await scheduler.schedule(works.task(callback.__name__, on_complete=callback))
    await scheduler.schedule(works.task("last"))
    await settle()
    await works.end("raises")
    await works.end("hangs")
    await clock.advance(2.9)
    assert not works.running, "a callback is a part of the run, and has its slot"
    await clock.advance(0.1)
    await works.end("hangs_on")
    await clock.advance(6)
    await works.end("last")
    assert told == ["cut off", "stays"]
    for text in ("callback failed", "takes too long", "does not end"):
        assert text in caplog.text
    over.set()
    await settle()


@given(
    st.floats(0, 1e6), st.floats(1, 1e3), st.floats(0, 1e6), st.floats(0, 1), st.integers(1, 10_000), st.integers(0, 99)
)
def test_a_backoff_grows_with_jitter_up_to_its_cap(
    initial: float, factor: float, maximum: float, jitter: float, retry: int, seed: int
) -> None:
    exact = Backoff(initial, factor, maximum, 0.0).delay(retry, Random(seed))
    assert exact <= maximum
    assert exact <= Backoff(initial, factor, maximum, 0.0).delay(retry + 1, Random(seed))
    shaken = Backoff(initial, factor, maximum, jitter).delay(retry, Random(seed))
    assert exact * (1 - jitter) <= shaken + 1e-6
    assert shaken <= exact


def test_jitter_tells_apart_what_failed_together() -> None:
    random = Random(1)
    delays = {Backoff(jitter=0.5).delay(3, random) for _ in range(20)}
    assert len(delays) == 20
    assert all(2 <= delay <= 4 for delay in delays)
    assert [Backoff(jitter=0).delay(n, random) for n in (1, 2, 3, 9, 20)] == [1, 2, 4, 256, 300]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("inf")},
        {"max_retries": -1},
        {"ttl": -1},
        {"ttl": float("nan")},
        {"id": ""},
        {"type": ""},
    ],
)
def test_a_task_that_makes_no_sense_is_refused(works: Works, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Task(**({"type": "t", "work": works.work} | options))


@pytest.mark.parametrize(
    "options", [{"initial": -1}, {"factor": 0.5}, {"maximum": -1}, {"jitter": 1.5}, {"maximum": float("nan")}]
)
def test_a_backoff_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Backoff(**options)
