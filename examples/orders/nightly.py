"""A full projection every night: whatever went wrong in a view, it is right again in the morning."""

from __future__ import annotations

from typing import Final

from refold import App, Cron, Progress, Run, Task
from refold.errors import TaskFailed

EVERY_NIGHT: Final = Cron("0 3 * * *", zone="Europe/Berlin")


def nightly(app: App) -> Task:
    """The task that builds all views anew, while readers see the old ones and live running goes on.

    It folds in the caller's event loop, between requests: for millions of events, rather run ``refold rebuild`` by cron.
    """

    async def rebuild(run: Run) -> None:
        def tell(progress: Progress) -> None:
            run.progress(progress.position, progress.head, progress.phase)

        for result in await app.rebuild(progress=tell):
            if not result.complete:  # trying again would not mend the projector
                raise TaskFailed(f"{result.projection}: {result.faults[0].reason}; readers keep the old views")

    return Task("rebuild", rebuild, id="nightly", schedule=EVERY_NIGHT, timeout=3600, max_retries=3)
