"""Live running beside an event loop: in a thread of its own, so that folding never keeps the loop from its work."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from refold.app import App
from refold.engine.projector import Projector
from refold.errors import ConfigurationError

__all__ = ["alongside"]

log = logging.getLogger(__name__)


@asynccontextmanager
async def alongside(app: App, *which: str | type[Projector[Any]], **options: Any) -> AsyncIterator[App]:
    """An open app whose projections run as long as the block lasts, as that of a web application's lifespan.

    The projections run in a thread with an event loop and connections of its own, so that a large batch does not hold up what
    else the caller's loop has to do; `app` itself stays the caller's, to publish and to read. On leaving, batches under way are
    finished, and claims let go of. Where running ends by itself, as when another process holds the projections, the caller's
    block goes on, the log says why, and the error is raised on leaving.

    Args:
        app: not open yet; not on ``memory://``, which no two loops can share.
        which: names or classes; all that are registered where none is given.
        options: those of `App.run`, but for ``stop``. Its hooks are called in the other thread.

    Yields:
        The app, open.

    Raises: as opening the app and `App.run` do.
    """
    app.chosen(which)
    if app.settings.database_url.get_secret_value().startswith("memory:"):
        raise ConfigurationError("views in memory belong to one event loop: use App.run there, or a database")
    running = _Thread(app.twin(), which, options)
    async with app:
        running.start()
        try:
            yield app
        finally:
            await asyncio.shield(asyncio.to_thread(running.end))
    if running.error is not None:
        raise running.error


class _Thread(threading.Thread):
    """Runs an app's projections until it is told to end.

    Attributes:
        error: what ended it before.
    """

    def __init__(self, app: App, which: tuple[str | type[Projector[Any]], ...], options: dict[str, Any]) -> None:
        super().__init__(name="refold-engine", daemon=True)
        self.error: BaseException | None = None
        self._app = app
        self._which = which
        self._options = options
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def run(self) -> None:
        """The thread's work."""
        try:
            asyncio.run(self._work())
        except Exception as error:
            self.error = error
            log.exception("live running ended", extra={"app": self._app.name})
        finally:
            self._begun.set()

    async def _work(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._begun.set()
        async with self._app:
            await self._app.run(*self._which, stop=self._stopping, **self._options)

    def end(self) -> None:
        """Ends it in order, and waits for that."""
        self._begun.wait()
        if self._loop is not None and self._stopping is not None and self.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:  # it has just ended by itself
                log.debug("live running had ended already")
        self.join()
