"""The application: one object that knows stream, database and projectors, and what a user does with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from refold.container import Container
from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import Hook
from refold.engine.live.retry import discard, retry
from refold.engine.live.runner import Runner, RunnerParts
from refold.engine.live.status import ProjectionStatus, look
from refold.engine.live.waiting import read_at, wait_for
from refold.engine.outcome import ProgressHook, RebuildResult
from refold.engine.policy import ErrorPolicies, ErrorPolicy
from refold.engine.projector import Projector
from refold.engine.rebuild import Rebuild
from refold.errors import ConfigurationError, StreamNotFound
from refold.event import NewEvent
from refold.jetstream.head import JetStreamHead
from refold.ports import Checkpoint, PublishAck, Snapshot, ViewRepository, Wanted
from refold.view import View

__all__ = ["App", "ViewsAt"]

V = TypeVar("V", bound=View)


class ViewsAt:
    """Views of several projections as they are at one position; see `App.read_at`.

    Args:
        app: where the projectors are registered.
        snapshot: what is read.
    """

    def __init__(self, app: App, snapshot: Snapshot) -> None:
        self._app = app
        self._snapshot = snapshot

    @property
    def position(self) -> int:
        """The position that all of them include."""
        return max(self._snapshot.positions.values())

    def views(self, which: type[Projector[V]]) -> ViewRepository[V]:
        """The views of one of the projections, for reading.

        Raises:
            ConfigurationError: it is not registered.
            StoreError: it is none of those that were named.
        """
        spec = self._app.projector(which).spec
        repository: ViewRepository[V] = self._snapshot.repository(spec.schema, spec.name)
        return repository


class App(Container):
    """An application: a stream, a database, and the projectors between them.

    An async context manager: it connects on entering (trying again for `startup_timeout` seconds while NATS or the
    database is away) and closes everything on leaving. Projectors are registered before or after.

    Args:
        name: the application's name: lower-case letters, digits, ``_`` and ``-``; also its stream's, unless told otherwise.
        limits: how much memory rebuilds may take.
        clock: gives events their time.
        environment: False leaves environment and ``.env`` alone: what `settings` do not say has its default.
        settings: any of `refold.config.Settings`; what is left out comes from the environment (``REFOLD_NATS_URL``,
            ``REFOLD_DATABASE_URL``, …) or ``.env``.

    Raises:
        ConfigurationError: a setting is wrong.
    """

    # -- Events and views --------------------------------------------------------------------------------------------

    async def create_stream(self, *aggregate_types: str) -> None:
        """Makes the app's stream, unless it is there; one that is there stays as it is.

        Args:
            aggregate_types: what it stores events of; those that registered projectors read are added. With a subject
                prefix the stream stores everything below it.

        Raises:
            ConfigurationError: no aggregate type is known.
            StreamError: it could not be made.
        """
        types = set(aggregate_types)
        for projector in self._projectors.values():
            types |= projector.spec.wanted.aggregate_types or set()
        prefix = self.scheme.prefix
        subjects = [f"{prefix}.>"] if prefix else [f"{self.scheme.encode(name)}.>" for name in sorted(types)]
        if not subjects:
            raise ConfigurationError("name the aggregate types that the stream stores: create_stream('order')")
        await self.api.ensure_stream(self.stream, subjects)

    async def publish(
        self,
        aggregate_type: str,
        aggregate_id: str,
        events: Sequence[Any | NewEvent],
        *,
        expected_version: int | None = None,
        atomic: bool = True,
    ) -> PublishAck:
        """Appends events to an aggregate; see `refold.StreamPublisher.publish`. Makes the stream where there is none."""
        publisher = self.publisher
        try:
            await self.api.stream_info(self.stream)
        except StreamNotFound:
            await self.create_stream(aggregate_type)
        return await publisher.publish(
            aggregate_type, aggregate_id, events, expected_version=expected_version, atomic=atomic
        )

    def views(self, which: type[Projector[V]]) -> ViewRepository[V]:
        """The views of a projection, as its readers see them.

        Raises:
            ConfigurationError: it is not registered, or the app is not open.
        """
        spec = self.projector(which).spec
        repository: ViewRepository[V] = self.store.repository(spec.schema, spec.name)
        return repository

    async def rebuild(
        self,
        *which: str | type[Projector[Any]],
        on_error: ErrorPolicy | str | None = None,
        accept_incomplete: bool = False,
        accept_truncated: bool = False,
        progress: ProgressHook | None = None,
    ) -> list[RebuildResult]:
        """Rebuilds projections in one pass over the stream, and shows each to its readers when all of it is there.

        Args:
            which: names or classes; all that are registered where none is given.
            on_error: what to do about events that fail, instead of what each projector says.
            accept_incomplete: show views though events failed; otherwise readers go on seeing the old ones.
            accept_truncated: rebuild though the stream no longer begins at its first event.
            progress: told how far it is, a few times a second.

        Returns:
            One result a projection, in the order asked for.

        Raises:
            RebuildError, StreamError, StoreError: readers see what they saw; see `refold.engine.rebuild.Rebuild.run`.
        """
        projectors = self.chosen(which)
        policies = {p.spec.name: ErrorPolicies.of(on_error) for p in projectors} if on_error is not None else {}
        rebuild = Rebuild(
            self.source,
            self.store,
            self.codec,
            self.scheme,
            app=self.name,
            limits=self._limits,
            hook=progress,
            policies=policies,
        )
        return await rebuild.run(projectors, accept_incomplete=accept_incomplete, accept_truncated=accept_truncated)

    # -- Live running ------------------------------------------------------------------------------------------------

    async def run(
        self,
        *which: str | type[Projector[Any]],
        stop: asyncio.Event | None = None,
        accept_truncated: bool = False,
        lease: float = 15.0,
        limits: LiveLimits | None = None,
        hook: Hook | None = None,
        progress: ProgressHook | None = None,
    ) -> None:
        """Keeps projections up to date: builds those that are new, and follows the stream from then on.

        It waits out what may pass, as a server or a database that is away, and says so in the log; what it cannot mend, it
        writes to the projection's status. The app may be used at the same time, in the same event loop.

        Args:
            which: names or classes; all that are registered where none is given.
            stop: set it to end: batches under way are finished, and claims let go of. Cancelling does the same.
            accept_truncated: go on though events that were not read are gone from the stream.
            lease: seconds after which another process may take over what this one holds, when it gives no sign of life.
            limits: how to cut batches.
            hook: told what happens; see `refold.engine.live.hooks`.
            progress: told how far first builds are.

        Raises:
            ClaimHeld, ClaimLost: another process runs them, or newer code does.
            StoreError, StreamError: at the start.
        """
        projectors = self.chosen(which)
        parts = RunnerParts(
            source=self.source,
            store=self.store,
            codec=self.codec,
            scheme=self.scheme,
            app=self.name,
            stream=self.stream,
            lease=lease,
            limits=limits,
            rebuild_limits=self._limits,
            accept_expired=accept_truncated,
            hook=hook,
            progress=progress,
        )
        await Runner(parts, projectors).run(stop or asyncio.Event())

    async def wait_for(
        self,
        which: str | type[Projector[Any]] | Sequence[str | type[Projector[Any]]],
        position: int,
        *,
        timeout: float = 10.0,
    ) -> None:
        """Returns when views include a position, as the one that `publish` gave: for reading one's own writes.

        Args:
            which: one projection, or several.
            position: a stream sequence.
            timeout: seconds.

        Raises:
            WaitTimeout: they did not in time; it says how far each is.
        """
        await wait_for(self.store, self.name, self._names(which), position, timeout=timeout)

    @asynccontextmanager
    async def read_at(
        self, *which: str | type[Projector[Any]], position: int = 0, timeout: float = 10.0
    ) -> AsyncIterator[ViewsAt]:
        """Views of several projections as they are at one and the same position: ``async with app.read_at(A, B) as at:``.

        Args:
            which: projections that run in one process.
            position: at least this one.
            timeout: seconds to wait for it.

        Raises:
            WaitTimeout: they did not get there, or did not stand at one position.
        """
        async with read_at(self.store, self.name, self._names(which), position, timeout=timeout) as snapshot:
            yield ViewsAt(self, snapshot)

    # -- Managing ----------------------------------------------------------------------------------------------------

    async def status(
        self, *which: str | type[Projector[Any]], before: Sequence[ProjectionStatus] = (), lease: float = 15.0
    ) -> list[ProjectionStatus]:
        """How projections stand: state, position, lag, dead letters; from any process, whoever runs them.

        What NATS alone can tell is None where it is away, and `ProjectionStatus.unknown` says why.

        Args:
            which: names or classes; all that are registered where none is given.
            before: an earlier answer, for the rate.
            lease: seconds without a sign of life after which a projection counts as stopped.

        Raises:
            StoreError: the database cannot be asked.
        """
        reader = JetStreamHead(self.reach_nats, self.stream)
        projectors = self.chosen(which)
        return await look(self.store, reader, self.name, projectors, clock=self._clock, lease=lease, before=before)

    async def order(self, which: str | type[Projector[Any]], wanted: Wanted) -> Checkpoint | None:
        """Tells whoever runs a projection, now or later, to pause, to go on, or to build it anew.

        Returns:
            How it stands; None where it was never built.
        """
        return await self.store.order(self.name, self.projector(which).spec.name, wanted)

    async def skip(self, which: str | type[Projector[Any]], position: int) -> Checkpoint | None:
        """Tells whoever runs a projection to pass over the event at a position, and to go on; it becomes a dead letter.

        Returns:
            How it stands; None where it was never built.
        """
        return await self.store.skip(self.name, self.projector(which).spec.name, position)

    async def retry_dead_letters(self, which: str | type[Projector[Any]], key: str) -> int:
        """Applies the dead letters of a quarantined view in order, and lifts its quarantine; how many there were.

        Raises:
            HandlerError: one fails again; nothing was changed.
            StoreError: there are none, or they cannot be applied.
        """
        return await retry(self.store, self.name, self.projector(which), self.codec, self.scheme, key)

    async def discard_dead_letters(
        self, which: str | type[Projector[Any]], *, key: str | None = None, position: int | None = None
    ) -> int:
        """Removes dead letters for good, of one view or of one event where told so; how many there were."""
        return await discard(self.store, self.name, self.projector(which).spec.name, key=key, position=position)

    def _names(self, which: str | type[Projector[Any]] | Sequence[str | type[Projector[Any]]]) -> list[str]:
        several = [which] if isinstance(which, (str, type)) else which
        return [self.projector(one).spec.name for one in several]
