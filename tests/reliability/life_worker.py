"""A process that runs the app until it is told to stop, or dies where it was told to.

``python life_worker.py``; LIFE_DIES says where: ``before commit`` or ``after commit``, and LIFE_COMMITS after how many.
LIFE_LEASE is the lease in seconds. SIGTERM ends it in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import life_app

from refold.engine.live.group import LiveLimits
from refold.errors import RefoldError
from refold.ports import BatchWriter


def dying(where: str, commits: int) -> None:
    """Makes the process kill itself around one of its commits."""
    count = 0

    def wrap(kind: type[BatchWriter]) -> None:
        commit = kind.commit

        async def fatal(self: BatchWriter, *given: Any, **named: Any) -> None:
            nonlocal count
            count += 1
            if where == "before commit" and count > commits:
                os.kill(os.getpid(), signal.SIGKILL)
            await commit(self, *given, **named)
            if where == "after commit" and count > commits:
                os.kill(os.getpid(), signal.SIGKILL)

        kind.commit = fatal  # type: ignore[method-assign]

    for kind in BatchWriter.__subclasses__():
        wrap(kind)


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    limits = LiveLimits(batch_events=int(os.environ.get("LIFE_BATCH", "250000")), hot_views=50)
    async with life_app.app as app:
        if where := os.environ.get("LIFE_DIES"):
            dying(where, int(os.environ.get("LIFE_COMMITS", "3")))
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        await app.run(stop=stop, lease=float(os.environ.get("LIFE_LEASE", "15")), limits=limits)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(main())
    except RefoldError as error:
        sys.stderr.write(f"ended: {type(error).__name__}: {error}\n")
        sys.exit(2)
