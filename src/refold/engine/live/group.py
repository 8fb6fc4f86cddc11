"""A group: projections at one position, which share one reading, one decoding and one transaction.

A batch is frozen and committed while the next one is folded. Small batches are committed as soon as the one before is; while
the stream has more, batches grow. A group never changes: when anything about its projections does, it ends, and others are made.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar, cast

import stamina

from refold.engine.dispatch import Dispatcher
from refold.engine.live.batch import Batch
from refold.engine.live.hooks import BatchApplied, Hook, Quarantine, Retrying
from refold.engine.live.member import Member
from refold.engine.policy import Counts
from refold.errors import (
    EventsExpired,
    NotPermitted,
    StoreBusy,
    StoreUnavailable,
    StreamError,
    StreamNotFound,
    StreamReplaced,
)
from refold.filters import EventFilter
from refold.ports import BatchWriter, Changes, Codec, DeadLetter, EventSource, RawBatch, StreamIdentity
from refold.subjects import SubjectScheme
from refold.view import Row

__all__ = ["Group", "LiveLimits"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_GRACE: Final = 5.0
"""Seconds that a commit has to come to its end when something after it fails."""

_UNNOTICED: Final = 0.2
"""Seconds for which a projection that waits stands as it stood."""

_FINAL: Final = (StreamReplaced, EventsExpired, StreamNotFound, NotPermitted)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimits:
    """How batches are cut, and how much memory live running takes.

    Attributes:
        batch_events: most messages of a batch.
        batch_bytes: about how many bytes of messages a batch may hold: they are kept until it is committed.
        batch_seconds: how long a batch may grow while the stream has more.
        behind: with more messages than this to come, a batch goes on growing.
        idle_seconds: how often a checkpoint moves at most when nothing but the position has changed.
        hot_views: views that are kept, shared among the projections; about twice as many at the most.
    """

    batch_events: int = 500_000
    batch_bytes: int = 192 * 2**20
    batch_seconds: float = 3.0
    behind: int = 1_000
    idle_seconds: float = 0.25
    hot_views: int = 500_000


class Group:
    """One reading of the stream for several projections.

    Args:
        source: reads the stream.
        members: the projections.
        writer: commits for all of them.
        identity: where they are.
        wanted: what to read.
        codec: how messages are written.
        scheme: how subjects are written.
        name: of the reader, in the server's lists.
        limits: how to cut batches.
        accept_expired: go on though events after the position are gone.
        hook: told what happens.
        on_standing: told, after every commit, whether the group is at the stream's head; and what keeps it from getting on,
            where something does.
    """

    def __init__(
        self,
        source: EventSource,
        members: Sequence[Member],
        writer: BatchWriter,
        identity: StreamIdentity,
        wanted: EventFilter,
        codec: Codec,
        scheme: SubjectScheme,
        *,
        name: str = "",
        limits: LiveLimits | None = None,
        accept_expired: bool = False,
        hook: Hook | None = None,
        on_standing: Callable[[bool, str], None] | None = None,
    ) -> None:
        self.members = members
        self.identity = identity
        self.names = tuple(member.name for member in members)
        self._source = source
        self._writer = writer
        self._wanted = wanted
        self._name = name
        self._limits = limits or LiveLimits()
        self._accept_expired = accept_expired
        self._hook = hook
        self._on_standing = on_standing
        self._dispatcher = Dispatcher([member.fold for member in members], codec, scheme)
        self._batch = Batch(identity.position)
        self._committing: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._committed = 0.0
        self._reaching = identity.position
        self._anchor = identity.anchor

    @property
    def position(self) -> int:
        """The last position committed."""
        return self.identity.position

    @property
    def reaching(self) -> int:
        """The position that the commit under way, or the last one, was to reach."""
        return self._reaching

    async def close(self) -> None:
        """Closes the connection to the database."""
        await self._writer.close()

    async def run(self, stop: asyncio.Event, *, until: int | None = None) -> None:
        """Runs until told to stop, or up to and including a position; what was folded by then is committed.

        Raises:
            ClaimLost, HandlerError, TryLater, RowRefused, ProjectionStoreError, StoreError, StreamReplaced, EventsExpired,
            StreamNotFound, NotPermitted: nothing after `position` was committed; make the group anew, without whom it
            concerns.
        """
        stopping = asyncio.create_task(stop.wait(), name="refold-stop")
        try:
            await self._follow(stopping, until)
            await self._cut()
            await self._wait_for_commit()
        except Exception:
            if self._committing is not None and not stopping.done():  # it has nothing to do with what failed after it
                await asyncio.wait([self._committing, stopping], timeout=_GRACE, return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            stopping.cancel()
            if self._committing is not None:
                self._committing.cancel()
            await asyncio.gather(stopping, *filter(None, [self._committing]), return_exceptions=True)

    # -- Reading -------------------------------------------------------------------------------------------------------

    async def _follow(self, stopping: asyncio.Task[bool], until: int | None) -> None:
        """Reads, and takes reading up again after interruptions, until it is told to stop."""
        waits = 0
        while not (stopping.done() or self._is_over(until)):
            reached = self._batch.last
            anchor = self._batch.anchor or self._anchor
            identity = StreamIdentity(self.identity.created, reached, anchor)
            reading = self._source.follow(self._wanted, identity, name=self._name, accept_expired=self._accept_expired)
            try:
                await self._take(reading, stopping, until)
            except _FINAL:
                raise
            except StreamError as error:
                waits = 0 if self._batch.last > reached else waits + 1
                await self._pause(stopping, error, min(5.0, 0.05 * 2.0 ** min(waits, 10)))

    def _is_over(self, until: int | None) -> bool:
        return until is not None and self._batch.last >= until

    async def _pause(self, stopping: asyncio.Task[bool], error: StreamError, seconds: float) -> None:
        """Waits after an interruption; what was folded before it is committed meanwhile."""
        log.warning(
            "reading was interrupted and is taken up again",
            extra={"projections": self.names, "position": self._batch.last, "reason": str(error)},
        )
        self._tell(Retrying(projections=self.names, what="read", reason=str(error), wait=seconds))
        await self._cut()
        if seconds > _UNNOTICED:
            self._stand(at_head=False, trouble=f"reading was interrupted: {error}")
        await asyncio.wait([stopping], timeout=seconds)

    async def _take(
        self, reading: AsyncGenerator[RawBatch, None], stopping: asyncio.Task[bool], until: int | None
    ) -> None:
        """Folds what is read, and cuts batches, until reading is interrupted, or is over."""
        async with aclosing(reading):
            coming: asyncio.Task[RawBatch] | None = None
            try:
                while not (stopping.done() or self._is_over(until)):
                    if coming is None:
                        coming = asyncio.create_task(_next(reading), name="refold-read")
                    waiting = [one for one in (coming, stopping, self._committing) if one is not None]
                    await asyncio.wait(waiting, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED)
                    if self._committing is not None and self._committing.done():
                        await self._wait_for_commit()
                    if coming.done():
                        part, coming = coming.result(), None
                        await self._fold(part if until is None else _up_to(until, part))
                    if self._is_due():
                        await self._cut()
            finally:
                if coming is not None:
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)

    async def _fold(self, part: RawBatch) -> None:
        self._batch.add(part)
        if len(part):
            self._dispatcher.apply(part)
        for member in self.members:
            if member.is_full:
                await member.settle(self)
        if not (self._batch.moved or part.pending):
            self._stand(at_head=True)

    # -- Cutting -------------------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        batch, limits = self._batch, self._limits
        if not batch.moved:
            return False
        is_large = batch.count >= limits.batch_events or batch.size >= limits.batch_bytes
        if is_large or any(member.is_crowded for member in self.members):
            return True
        if self._committing is not None:
            return False
        if not any(member.touched for member in self.members):
            return time.monotonic() - self._committed >= limits.idle_seconds
        return batch.pending <= limits.behind or batch.age >= limits.batch_seconds

    def _patience(self) -> float | None:
        """Seconds after which a batch may be due though nothing happens."""
        if not self._batch.moved or self._committing is not None:
            return None
        idle = self._limits.idle_seconds - (time.monotonic() - self._committed)
        return max(0.0, max(idle, 0.0) if not any(member.touched for member in self.members) else 0.05)

    async def _cut(self) -> None:
        """Ends the open batch and begins to commit it."""
        batch = self._batch
        if not batch.moved:
            return
        changes = dict(zip(self.names, await self._finish(batch), strict=True))
        counts = Counts()
        for member in self.members:
            counts.add(member.counted())
        await self._wait_for_commit()
        self._batch = Batch(batch.last)
        self._anchor = batch.anchor or self._anchor
        self._committing = asyncio.create_task(self._commit(batch, changes, counts), name="refold-commit")

    async def _finish(self, batch: Batch) -> Sequence[Changes]:
        """What the batch changes in each projection. While one's views are read, another's are folded."""
        ending = [member.finish(batch, self) for member in self.members]
        ended = await asyncio.gather(*ending, return_exceptions=True)
        for one in ended:
            if isinstance(one, BaseException):
                raise one
        return cast("Sequence[Changes]", ended)

    async def _commit(self, batch: Batch, changes: Mapping[str, Changes], counts: Counts) -> None:
        anchor, self._reaching = batch.anchor, batch.last
        some = {name: change for name, change in changes.items() if change}
        await self._persist("commit", lambda: self._writer.commit(some, old=batch.old, new=batch.last, anchor=anchor))
        self.identity = StreamIdentity(self.identity.created, batch.last, anchor or self.identity.anchor)
        self._committed = time.monotonic()
        for member in self.members:
            member.committed(batch.last)
        self._report(batch, some, counts)

    async def _wait_for_commit(self) -> None:
        """Waits for the commit that is under way, and raises what became of it."""
        committing = self._committing
        if committing is not None:
            try:
                await asyncio.shield(committing)
            finally:
                if committing.done():
                    self._committing = None

    def _report(self, batch: Batch, changes: Mapping[str, Changes], counts: Counts) -> None:
        letters: dict[str, Sequence[DeadLetter]] = {name: c.letters for name, c in changes.items() if c.letters}
        for name, some in letters.items():
            log.warning(
                "events became dead letters",
                extra={"projection": name, "count": len(some), "key": some[0].key, "position": some[0].position},
            )
            self._tell(Quarantine(projection=name, letters=tuple(some)))
        self._tell(
            BatchApplied(
                projections=self.names,
                position=batch.last,
                events=batch.count,
                rows=sum(len(c.rows) + len(c.deleted) for c in changes.values()),
                duplicates=counts.duplicates,
                ignored=counts.ignored,
                letters=sum(map(len, letters.values())),
                pending=batch.pending,
                seconds=batch.age,
            )
        )
        self._stand(at_head=batch.pending <= self._limits.behind)

    def _stand(self, *, at_head: bool, trouble: str = "") -> None:
        if self._on_standing is not None:
            self._on_standing(at_head, trouble)

    # -- Reading the database --------------------------------------------------------------------------------------------

    async def rows(self, projection: str, keys: Collection[str]) -> dict[str, Row]:
        """Rows as the batch before left them."""
        async with self._reading:
            await self._wait_for_commit()
            return await self._persist("load", lambda: self._writer.load(projection, keys))

    async def seen(self, projection: str, aggregates: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Handled versions as the batch before left them."""
        async with self._reading:
            await self._wait_for_commit()
            return await self._persist("load", lambda: self._writer.load_seen(projection, aggregates))

    async def _persist(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Calls until the database is there and has time."""
        async for attempt in stamina.retry_context(
            on=(StoreBusy, StoreUnavailable), attempts=None, timeout=None, wait_initial=0.02, wait_max=5.0
        ):
            with attempt:
                try:
                    return await call()
                except (StoreBusy, StoreUnavailable) as error:
                    log.warning(
                        "the database could not do it and is asked again",
                        extra={"projections": self.names, "what": what, "reason": str(error)},
                    )
                    self._tell(Retrying(projections=self.names, what=what, reason=str(error), wait=attempt.next_wait))
                    if attempt.next_wait > _UNNOTICED:
                        self._stand(at_head=False, trouble=f"the database is not there for it: {error}")
                    raise
        raise AssertionError("retry_context ends by returning or raising")

    def _tell(self, detail: Any) -> None:
        if self._hook is not None:
            self._hook(detail)


async def _next(reading: AsyncGenerator[RawBatch, None]) -> RawBatch:
    try:
        return await anext(reading)
    except StopAsyncIteration:
        raise StreamError("the stream's reader came to an end, which it never should") from None


def _up_to(until: int, part: RawBatch) -> RawBatch:
    """What a batch has up to and including a position."""
    if part.last <= until:
        return part
    return RawBatch([message for message in part.messages if message[3] <= until], until, 0)
