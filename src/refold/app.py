"""The application: one object that knows stream, database and projectors, and connects them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import stamina
from nats.aio.client import Client

from refold.clock import Clock, SystemClock
from refold.codecs import codec_named
from refold.config import Settings, load_settings
from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import Hook
from refold.engine.live.retry import discard, retry
from refold.engine.live.runner import Runner, RunnerParts
from refold.engine.live.waiting import read_at, wait_for
from refold.engine.outcome import ProgressHook, RebuildLimits, RebuildResult
from refold.engine.policy import ErrorPolicies, ErrorPolicy
from refold.engine.projector import Projector
from refold.engine.rebuild import Rebuild
from refold.errors import ConfigurationError, NatsUnavailable, StoreUnavailable, StreamNotFound
from refold.event import EventType, NewEvent
from refold.jetstream.api import JetStreamApi
from refold.jetstream.bulk import JetStreamSource
from refold.jetstream.connection import connected
from refold.jetstream.indexer import JetStreamIndexer
from refold.jetstream.publisher import JetStreamPublisher
from refold.jetstream.reader import JetStreamEventReader, JetStreamStreamReader
from refold.ports import Checkpoint, Database, PublishAck, Snapshot, ViewRepository, Wanted
from refold.stores import open_store
from refold.subjects import SubjectScheme
from refold.view import View

__all__ = ["App"]

V = TypeVar("V", bound=View)
R = TypeVar("R")

log = logging.getLogger(__name__)


class App:
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

    def __init__(
        self,
        name: str,
        *,
        limits: RebuildLimits | None = None,
        clock: Clock | None = None,
        environment: bool = True,
        **settings: Any,
    ) -> None:
        if not name or not name.replace("_", "a").replace("-", "a").isalnum() or name != name.lower():
            raise ConfigurationError(f"app name {name!r}: use lower-case letters, digits, _ and -")
        self.name = name
        self.settings: Settings = load_settings(environment=environment, **settings)
        self.stream = self.settings.stream or name
        self.scheme = SubjectScheme(self.settings.subject_scheme, self.settings.subject_prefix)
        self.codec = codec_named(self.settings.codec)
        self._nats = self.settings.nats(f"refold {name}")
        self._limits = limits
        self._clock = clock or SystemClock()
        self._projectors: dict[str, Projector[Any]] = {}
        self._stack: AsyncExitStack | None = None
        self._client: Client | None = None
        self._store: Database | None = None

    def __repr__(self) -> str:
        return f"App({self.name!r}, stream={self.stream!r}, projections={sorted(self._projectors)})"

    # -- Projectors --------------------------------------------------------------------------------------------------

    def register(self, *projectors: type[Projector[Any]] | Projector[Any]) -> None:
        """Adds projectors, as classes or instances.

        Raises:
            ConfigurationError: one is no projector, or its name is taken.
        """
        for given in projectors:
            projector = given() if isinstance(given, type) else given
            if not isinstance(projector, Projector) or not hasattr(type(projector), "spec"):
                raise ConfigurationError(f"{given!r} is no projector with a name: class X(Projector[View], name='x')")
            other = self._projectors.setdefault(projector.spec.name, projector)
            if type(other) is not type(projector):
                raise ConfigurationError(f"two projectors are called {projector.spec.name!r}; rename one")

    @property
    def projections(self) -> Sequence[str]:
        """Names of the registered projectors, in the order of registration."""
        return tuple(self._projectors)

    @property
    def event_types(self) -> dict[str, EventType]:
        """The event types that registered projectors handle, by name."""
        return {n: route.event_type for p in self._projectors.values() for n, route in p.spec.routes.items()}

    def projector(self, which: str | type[Projector[V]]) -> Projector[Any]:
        """A registered projector, by name or class.

        Raises:
            ConfigurationError: there is none; lists those there are.
        """
        name = which if isinstance(which, str) else which.spec.name
        if name not in self._projectors:
            known = ", ".join(sorted(self._projectors)) or "none"
            raise ConfigurationError(f"projection {name!r} is not registered; there are: {known}")
        return self._projectors[name]

    # -- Lifecycle ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise ConfigurationError(f"app {self.name!r} is open already")
        async with AsyncExitStack() as stack:
            url = self.settings.database_url.get_secret_value()
            self._store = await self._persist(
                lambda: stack.enter_async_context(open_store(url)), "database", StoreUnavailable
            )
            self._client = await self._persist(
                lambda: stack.enter_async_context(connected(self._nats)), "nats", NatsUnavailable
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._client, self._store = self._stack, None, None, None
        if stack is not None:
            await stack.aclose()

    async def _persist(self, enter: Callable[[], Awaitable[R]], what: str, away: type[Exception]) -> R:
        """Connects, trying again while the other side is away."""
        retry = stamina.retry_context(
            on=away, attempts=None, timeout=self.settings.startup_timeout, wait_initial=0.2, wait_max=2.0
        )
        async for attempt in retry:
            with attempt:
                try:
                    return await enter()
                except away as error:
                    log.warning("not reachable at start; trying again", extra={"what": what, "reason": str(error)})
                    raise
        raise AssertionError("retry_context ends by returning or raising")

    # -- Parts -------------------------------------------------------------------------------------------------------

    @property
    def store(self) -> Database:
        """The database. Raises ConfigurationError unless the app is open."""
        return self._opened(self._store)

    @property
    def client(self) -> Client:
        """The app's NATS connection. Raises ConfigurationError unless the app is open."""
        return self._opened(self._client)

    @property
    def api(self) -> JetStreamApi:
        """The JetStream API of the app's connection."""
        return JetStreamApi(self.client)

    @property
    def publisher(self) -> JetStreamPublisher:
        """Appends events to the app's stream."""
        return JetStreamPublisher(self.client, self.stream, self.codec, self.scheme, self._clock)

    @property
    def indexer(self) -> JetStreamIndexer:
        """Lists aggregates of the app's stream."""
        return JetStreamIndexer(self.client, self.stream, self.scheme)

    @property
    def event_reader(self) -> JetStreamEventReader:
        """Reads events of the app's stream by type."""
        return JetStreamEventReader(self.client, self.stream, self.codec, self.scheme, self.event_types)

    @property
    def stream_reader(self) -> JetStreamStreamReader:
        """Reads the events of one aggregate of the app's stream."""
        return JetStreamStreamReader(self.client, self.stream, self.codec, self.scheme, self.event_types)

    @property
    def source(self) -> JetStreamSource:
        """Reads the app's stream in bulk, on connections of its own."""

        def connect() -> AbstractAsyncContextManager[Client]:
            return connected(self._nats, purpose="bulk")

        return JetStreamSource(connect, self.stream, self.scheme)

    def _opened(self, part: R | None) -> R:
        if part is None:
            raise ConfigurationError(f"app {self.name!r} is not open: use it inside `async with app:`")
        return part

    # -- What a user does --------------------------------------------------------------------------------------------

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
        names = list(dict.fromkeys(which)) or list(self._projectors)
        projectors = [self.projector(one) for one in names]
        if not projectors:
            raise ConfigurationError(f"app {self.name!r} has no projections; register some: app.register(MyProjector)")
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
        names = list(dict.fromkeys(which)) or list(self._projectors)
        projectors = [self.projector(one) for one in names]
        if not projectors:
            raise ConfigurationError(f"app {self.name!r} has no projections; register some: app.register(MyProjector)")
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

    def read_at(
        self, *which: str | type[Projector[Any]], position: int = 0, timeout: float = 10.0
    ) -> AbstractAsyncContextManager[Snapshot]:
        """Views of several projections as they are at one and the same position: ``async with app.read_at(A, B) as at:``.

        Args:
            which: projections that run in one process.
            position: at least this one.
            timeout: seconds to wait for it.

        Raises:
            WaitTimeout: they did not get there, or did not stand at one position.
        """
        return read_at(self.store, self.name, self._names(which), position, timeout=timeout)

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
