"""What a runner works with."""

from __future__ import annotations

import dataclasses
import logging
import random
from typing import Any

from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import Hook
from refold.engine.outcome import ProgressHook, RebuildLimits
from refold.ports import Codec, Database, EventSource
from refold.subjects import SubjectScheme

__all__ = ["RunnerParts"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunnerParts:
    """What a runner works with.

    Attributes:
        source: reads the stream.
        store: keeps views and checkpoints.
        codec: how messages are written.
        scheme: how subjects are written.
        app: the application's name.
        stream: the stream's name.
        lease: seconds after which a claim that was not renewed may be taken by another process.
        limits: how to cut batches.
        rebuild_limits: how much memory rebuilds may take.
        accept_expired: go on though events after a checkpoint are gone from the stream.
        hook: told what happens.
        progress: told how far rebuilds are.
        tick: seconds between signs of life, and so about how long an order takes to be noticed.
        grace: seconds that what is under way has to come to its end, when the runner or a group is to end.
        backoff: seconds to wait after a first failure, about; longer after each that follows, up to half a minute.
    """

    source: EventSource
    store: Database
    codec: Codec
    scheme: SubjectScheme
    app: str
    stream: str
    lease: float = 15.0
    limits: LiveLimits | None = None
    rebuild_limits: RebuildLimits | None = None
    accept_expired: bool = False
    hook: Hook | None = None
    progress: ProgressHook | None = None
    tick: float = 0.5
    grace: float = 5.0
    backoff: float = 0.5

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures: jitter over an exponential."""
        return random.uniform(0.4 * self.backoff, min(30.0, self.backoff * 2.0 ** min(failures, 10)))  # noqa: S311

    def tell(self, detail: Any) -> None:
        """Tells the hook, whose exceptions are logged and passed over."""
        if self.hook is not None:
            try:
                self.hook(detail)
            except Exception:
                log.exception("a hook raised", extra={"detail": type(detail).__name__})

    def tell_progress(self, progress: Any) -> None:
        """Tells the hook of rebuilds, in the same way."""
        if self.progress is not None:
            try:
                self.progress(progress)
            except Exception:
                log.exception("a hook raised", extra={"detail": type(progress).__name__})
