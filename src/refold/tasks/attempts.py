"""One attempt at a task: its work under a timeout, what becomes of it, and what is to come then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

from msgspec.structs import replace

from refold.clock import AlarmClock
from refold.errors import TaskFailed, TaskTimedOut, told
from refold.tasks.agenda import Alarms
from refold.tasks.callbacks import Callbacks
from refold.tasks.entry import Attempt, Ending, Entry, Phase
from refold.tasks.info import TaskInfo, TaskStatus
from refold.tasks.store import TaskStore

__all__ = ["Attempts"]

log = logging.getLogger(__name__)


class Attempts:
    """Runs attempts, ends those that take too long, and records how tasks stand.

    An attempt runs in an asyncio task, which is cancelled only while the work runs: what is done before and after is
    never cut off. Work that does not end within the grace is abandoned: it is waited for no more, but goes on being there.

    Args:
        clock: gives all times.
        store: told every change.
        grace: seconds that work may take to end when it is cancelled, and callbacks to do what they do.
        random: for the jitter of retries.
    """

    def __init__(self, clock: AlarmClock, store: TaskStore, grace: float, random: Random) -> None:
        self._clock = clock
        self._store = store
        self._grace = grace
        self._random = random
        self._callbacks = Callbacks(clock, grace)
        self._deadlines: Alarms[Entry] = Alarms(clock, clock.monotonic, self._past_deadline)
        self._abandoned: dict[Entry, None] = {}
        self._saving: set[asyncio.Task[None]] = set()

    @property
    def abandoned(self) -> Collection[Entry]:
        """Tasks whose attempts were told to end and did not; may be asked from another thread."""
        return tuple(self._abandoned)

    def stop(self) -> None:
        """Looks at no deadline any more."""
        self._deadlines.stop()

    # -- One attempt -------------------------------------------------------------------------------------------------

    async def run(self, entry: Entry) -> datetime | None:
        """Runs one attempt.

        Returns:
            When the next one is due: a retry's, or the next due time's; None where the task is over, or let go of.
        """
        error = await self._begin(entry)
        if error is None and entry.ending is None:
            error = await self._work(entry)
        if entry.phase is Phase.OVER:  # abandoned when the scheduler closed
            return None
        if entry.info.abandoned:
            entry.come_back()
        if entry.ending is Ending.CANCEL:
            await self.cancelled(entry, error)
            return None
        if entry.ending is Ending.TIMEOUT:
            error = TaskTimedOut(f"not done within {entry.task.timeout:g} s")
        if error is None:
            return await self._run_over(entry, TaskStatus.COMPLETED, None)
        return await self._failed(entry, error)

    async def _begin(self, entry: Entry) -> BaseException | None:
        info, now = entry.info, self._clock.now()
        due, misfires = info.due_at, info.misfires
        if info.status is TaskStatus.WAITING:  # a retry goes on with the run that it belongs to
            due, passed = entry.task.schedule.latest(due, now)
            misfires += passed
        entry.info = replace(
            info,
            status=TaskStatus.RUNNING,
            due_at=due,
            misfires=misfires,
            started_at=now,
            next_retry_at=None,
            progress=None,
            attempt=info.attempt + 1 if info.status is TaskStatus.RETRYING else 1,
        )
        try:
            await self._store.save(entry.info)
        except Exception as error:
            log.exception("an attempt could not be recorded, and is not made", extra=_told(entry.info))
            return error
        return None

    async def _work(self, entry: Entry) -> BaseException | None:
        """Runs the work; what it raised."""
        task = entry.task
        entry.phase = Phase.WORK
        if task.timeout is not None:
            self._deadlines.put(self._clock.monotonic() + task.timeout, entry)
        try:
            await task.work(Attempt(entry))
        except asyncio.CancelledError as error:
            if _runner().cancelling() and entry.ending is None:  # from outside: a loop that shuts down
                entry.ending = Ending.CANCEL
            return error  # without any of it, it is the work's own, and a failure
        except Exception as error:  # noqa: BLE001 (a user's work may raise anything; it is recorded)
            return error
        finally:
            self._abandoned.pop(entry, None)
            self._deadlines.discard(entry)
            if entry.phase is Phase.WORK:
                entry.phase = Phase.BUSY
            while _runner().cancelling():
                _runner().uncancel()
        return None

    # -- What becomes of it ------------------------------------------------------------------------------------------

    async def _failed(self, entry: Entry, error: BaseException) -> datetime | None:
        info, task = entry.info, entry.task
        reason = told(error)
        log.info("an attempt failed", extra=_told(info) | {"attempt": info.attempt, "reason": reason})
        if isinstance(error, TaskFailed) or not task.max_retries:
            return await self._run_over(entry, TaskStatus.FAILED, reason)
        if info.attempt > task.max_retries:
            return await self._run_over(entry, TaskStatus.DEAD_LETTER, reason)
        wait = task.backoff.delay(info.attempt, self._random)
        retry_at = self._clock.now() + timedelta(seconds=wait)
        await self._change(entry, status=TaskStatus.RETRYING, next_retry_at=retry_at, last_error=reason)
        return retry_at

    async def _run_over(self, entry: Entry, status: TaskStatus, reason: str | None) -> datetime | None:
        info, task, now = entry.info, entry.task, self._clock.now()
        well = status is TaskStatus.COMPLETED
        following = task.schedule.after(info.due_at)
        await self._change(
            entry,
            status=status,
            finished_at=now,
            completed=info.completed + well,
            failed=info.failed + (not well),
            last_error=info.last_error if well else reason,
            expires_at=now + timedelta(seconds=task.ttl) if following is None else None,
        )
        await self._callbacks.tell(task.on_complete, entry.info)
        if following is not None and entry.ending is not Ending.CANCEL:
            await self._change(entry, status=TaskStatus.WAITING, due_at=following)
        return following

    async def cancelled(self, entry: Entry, error: BaseException | None = None) -> None:
        """Records that a task is cancelled, and tells it.

        Args:
            entry: the task; it neither waits nor runs any more, or is abandoned for good.
            error: what its work raised when it was cancelled.
        """
        if error is not None and not isinstance(error, asyncio.CancelledError):
            entry.info = replace(entry.info, last_error=told(error))
        now = self._clock.now()
        await self._change(
            entry,
            status=TaskStatus.CANCELLED,
            finished_at=now,
            next_retry_at=None,
            expires_at=now + timedelta(seconds=entry.task.ttl),
        )
        await self._callbacks.tell(entry.task.on_cancel, entry.info)

    async def broken(self, entry: Entry, error: Exception) -> None:
        """Records that a task is over because its own schedule, or the scheduler, is at fault."""
        now = self._clock.now()
        ttl = timedelta(seconds=entry.task.ttl)
        await self._change(
            entry, status=TaskStatus.FAILED, finished_at=now, expires_at=now + ttl, last_error=told(error)
        )

    async def _change(self, entry: Entry, **changes: Any) -> None:
        entry.info = replace(entry.info, **changes)
        await self._save(entry.info)

    async def _save(self, info: TaskInfo) -> None:
        try:
            await self._store.save(info)
        except Exception:
            log.exception("how a task stands could not be recorded", extra=_told(info))

    # -- Ending ------------------------------------------------------------------------------------------------------

    def cancel(self, entry: Entry) -> None:
        """Tells an attempt to end: at once where its work runs, else before it begins or before the next one."""
        working = entry.phase is Phase.WORK
        # Who was told to end already may be putting things in order: it is told once more only when that takes too long.
        untold = entry.ending is None or entry.info.abandoned
        entry.ending = Ending.CANCEL
        if working and untold:
            self._end(entry)

    def _end(self, entry: Entry) -> None:
        runner = entry.runner
        assert runner is not None  # noqa: S101 (its work runs)
        if asyncio.current_task() is runner:
            # It cancels itself, and may return before it awaits: the cancellation must not reach what comes after.
            asyncio.get_running_loop().call_soon(self._end_later, entry, runner)
            return
        runner.cancel()
        if not entry.info.abandoned:
            self._deadlines.put(self._clock.monotonic() + self._grace, entry)

    def _end_later(self, entry: Entry, runner: asyncio.Task[None] | None) -> None:
        if entry.runner is runner and entry.phase is Phase.WORK:
            self._end(entry)

    def _past_deadline(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.ending is None:
                entry.ending = Ending.TIMEOUT
                self._end(entry)
            else:
                self._abandon(entry)

    def _abandon(self, entry: Entry) -> None:
        log.error(
            "a task does not end though it was cancelled; it is abandoned, and keeps its slot",
            extra=_told(entry.info) | {"seconds": self._grace},
        )
        self._abandoned[entry] = None
        entry.abandon()
        saving = asyncio.get_running_loop().create_task(self._save(entry.info))
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)


def _runner() -> asyncio.Task[Any]:
    runner = asyncio.current_task()
    assert runner is not None  # noqa: S101 (it is asked for in coroutines)
    return runner


def _told(info: TaskInfo) -> dict[str, object]:
    return {"task_id": info.id, "task_type": info.type}
