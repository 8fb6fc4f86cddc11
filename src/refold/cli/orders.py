"""``refold pause | resume | reset | skip``: orders to whoever runs a projection, now or later."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Final

from refold.app import App
from refold.cli.text import confirm, console_on, tell
from refold.clock import SystemClock
from refold.engine.live.status import is_tended
from refold.errors import ConfigurationError
from refold.ports import Checkpoint, Status, Wanted

__all__ = ["run_order", "run_skip"]

_LEASE: Final = timedelta(seconds=15)

_SOON: Final = {
    Wanted.PAUSE: "it pauses within a second or so",
    Wanted.RUN: "it goes on within a second or so",
    Wanted.REBUILD: "its views are built anew from now on, and readers see the old ones until that is done",
}
_LATER: Final = {
    Wanted.PAUSE: "it stays paused when somebody runs it, until refold resume",
    Wanted.RUN: "it goes on with the next refold run",
    Wanted.REBUILD: "its views are built anew with the next refold run, and readers see the old ones until that is done",
}


async def run_order(app: App, name: str, wanted: Wanted, *, yes: bool = True) -> int:
    """Gives an order, and says what will come of it; the exit code."""
    app.projector(name)  # a wrong name is told before anything is connected
    if not confirm(f"Build all views of {name} anew, from the beginning of the stream?", yes=yes):
        return 1
    async with app.database_alone():
        found = await _active(app, name)
        await app.order(name, wanted)
    _told(name, found, _SOON[wanted], _LATER[wanted])
    return 0


async def run_skip(app: App, name: str, position: int | None) -> int:
    """Orders to pass over an event, and says what will come of it; the exit code."""
    app.projector(name)
    async with app.database_alone():
        found = await _active(app, name)
        if position is None:
            raise ConfigurationError(f"say which event: refold skip {name} --position P. {_standing(found)}")
        if position <= found.position:
            raise ConfigurationError(
                f"{name} is past position {position:,} already: it is at {found.position:,}, and its next event comes after that"
            )
        await app.skip(name, position)
    what = f"the event at position {position:,} becomes a dead letter, and is passed over"
    _told(name, found, f"{what} within a second or so", f"{what} with the next refold run")
    return 0


async def _active(app: App, name: str) -> Checkpoint:
    """What readers see, as it is before an order, which takes a fault away."""
    for checkpoint in await app.store.generations(app.name, name):
        if checkpoint.role == "active":
            return checkpoint
    raise ConfigurationError(f"{name} was never built: refold run builds it, and refold rebuild {name} does")


def _told(name: str, checkpoint: Checkpoint, soon: str, later: str) -> None:
    """Says what comes of an order, of which whoever ran the projection before it may know soon."""
    at = f"it is at position {checkpoint.position:,}"
    if not is_tended(checkpoint, SystemClock().now(), _LEASE):
        text = f"{name}: nobody runs it now; {later} ({at})"
    elif checkpoint.status in (Status.PAUSED, Status.FAULTED):  # as they also stay when their process has ended
        text = f"{name}: if {checkpoint.owner} still runs it, {soon}; else {later} ({at})"
    else:
        text = f"{name}: {soon}; {checkpoint.owner} runs it ({at})"
    tell(console_on(sys.stdout), text)


def _standing(found: Checkpoint) -> str:
    if found.status is Status.FAULTED:
        return f"It is faulted at {found.position:,}: {found.reason}"
    return f"It is {found.status.value} at {found.position:,}, and stopped by no event"
