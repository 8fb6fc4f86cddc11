"""What an application is made of: its settings, its projectors, its connections, and the parts made of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import stamina
from nats.aio.client import Client

from refold.clock import Clock, SystemClock
from refold.codecs import codec_named
from refold.config import Settings, load_settings
from refold.engine.aggregates import AGGREGATE_INDEX, CaughtUpIndexer, IndexedAggregate, StoredIndexer, aggregate_index
from refold.engine.outcome import RebuildLimits
from refold.engine.projector import Projector
from refold.errors import ConfigurationError, NatsUnavailable, StoreUnavailable
from refold.event import EventType
from refold.jetstream.api import JetStreamApi
from refold.jetstream.bulk import JetStreamSource
from refold.jetstream.connection import connected
from refold.jetstream.head import JetStreamHead
from refold.jetstream.indexer import JetStreamIndexer
from refold.jetstream.publisher import JetStreamPublisher
from refold.jetstream.reader import JetStreamEventReader, JetStreamStreamReader
from refold.ports import AggregateIndexer, Database
from refold.stores import open_store
from refold.subjects import SubjectScheme
from refold.view import View, ViewSchema

__all__ = ["Container"]

V = TypeVar("V", bound=View)
R = TypeVar("R")

log = logging.getLogger(__name__)


class Container:
    """What an `App` is made of; see there.

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
        self._indexes_aggregates = False
        self._stack: AsyncExitStack | None = None
        self._client: Client | None = None
        self._store: Database | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, stream={self.stream!r}, projections={sorted(self._projectors)})"

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
        if self._indexes_aggregates:
            self.index_aggregates()

    def index_aggregates(self) -> type[Projector[IndexedAggregate]]:
        """Registers the aggregate index: a projection with one row for each aggregate that has events of the app's types.

        It is built and kept up to date as every other one, under the name ``aggregate_index``, and `indexer` uses it. Its
        types are those that registered projectors handle; where a new one joins them, it is to be built anew
        (``refold reset aggregate_index``), and says so.

        Returns:
            The projector, for `App.views` and `App.wait_for`.

        Raises:
            ConfigurationError: no projector is registered, or another one has that name.
        """
        if AGGREGATE_INDEX in self._projectors and not self._indexes_aggregates:
            raise ConfigurationError(f"a projector is called {AGGREGATE_INDEX!r} already; rename it")
        types = self.event_types
        if not types:
            raise ConfigurationError("register projectors before index_aggregates(): it indexes what they handle")
        index = aggregate_index(types)
        self._projectors[AGGREGATE_INDEX] = index()
        self._indexes_aggregates = True
        return index

    @property
    def projections(self) -> Sequence[str]:
        """Names of the registered projectors, in the order of registration."""
        return tuple(self._projectors)

    @property
    def event_types(self) -> dict[str, EventType]:
        """The event types that registered projectors handle, by name."""
        others = [one for name, one in self._projectors.items() if not self._is_index(name)]
        return {n: route.event_type for p in others for n, route in p.spec.routes.items()}

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

    def chosen(self, which: Sequence[str | type[Projector[Any]]]) -> list[Projector[Any]]:
        """Registered projectors by name or class, each once; all of them where none is given.

        Raises:
            ConfigurationError: one is not registered, or there is none at all.
        """
        projectors = list(dict.fromkeys(map(self.projector, which or self.projections)))
        if not projectors:
            raise ConfigurationError(f"app {self.name!r} has no projections; register some: app.register(MyProjector)")
        return projectors

    def twin(self) -> Self:
        """Another app that is the same in everything, and not open: for another event loop."""
        settings = self.settings.model_dump()
        twin = type(self)(self.name, limits=self._limits, clock=self._clock, environment=False, **settings)
        twin.register(*(one for name, one in self._projectors.items() if not self._is_index(name)))
        if self._indexes_aggregates:
            twin.index_aggregates()
        return twin

    # -- Lifecycle ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return await self._open(nats=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._client, self._store = self._stack, None, None, None
        if stack is not None:
            await stack.aclose()

    @asynccontextmanager
    async def database_alone(self) -> AsyncIterator[Self]:
        """Opens the app without NATS: enough for views, orders and dead letters; `status` says what it cannot tell then.

        Raises: as opening the app does.
        """
        await self._open(nats=False)
        try:
            yield self
        finally:
            await self.__aexit__(None, None, None)

    async def _open(self, *, nats: bool) -> Self:
        if self._stack is not None:
            raise ConfigurationError(f"app {self.name!r} is open already")
        async with AsyncExitStack() as stack:
            url = self.settings.database_url.get_secret_value()
            self._store = await self._persist(
                lambda: stack.enter_async_context(open_store(url)), "database", StoreUnavailable
            )
            if nats:
                self._client = await self._persist(
                    lambda: stack.enter_async_context(connected(self._nats)), "nats", NatsUnavailable
                )
            self._stack = stack.pop_all()
        return self

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

    async def reach_nats(self) -> Client:
        """The app's NATS connection, made now where the app was opened without one.

        Raises:
            NatsUnavailable, NotPermitted, ConfigurationError: there is none; it can be asked for again.
        """
        if self._client is None:
            stack = self._opened(self._stack)
            self._client = await stack.enter_async_context(connected(self._nats))
        return self._client

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
    def indexer(self) -> AggregateIndexer:
        """Lists aggregates of the app's stream: from the aggregate index where that is registered and has all of the stream
        (live, it is waited for, a second at most), else from the server's index of subjects.
        """
        from_stream = JetStreamIndexer(self.client, self.stream, self.scheme)
        if not self._indexes_aggregates:
            return from_stream
        head = JetStreamHead(self.reach_nats, self.stream).state
        return CaughtUpIndexer(self.stored_indexer, from_stream, head=head, store=self.store, app=self.name)

    @property
    def stored_indexer(self) -> StoredIndexer:
        """Lists aggregates from the aggregate index alone, as far as that is; needs no NATS.

        Raises:
            ConfigurationError: the app has no aggregate index, or is not open.
        """
        if not self._indexes_aggregates:
            raise ConfigurationError("the app has no aggregate index: call index_aggregates() first")
        return StoredIndexer(self.store.repository(ViewSchema.of(IndexedAggregate), AGGREGATE_INDEX))

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

    def _is_index(self, name: str) -> bool:
        return self._indexes_aggregates and name == AGGREGATE_INDEX

    def _opened(self, part: R | None) -> R:
        if part is None:
            raise ConfigurationError(f"app {self.name!r} is not open: use it inside `async with app:`")
        return part
