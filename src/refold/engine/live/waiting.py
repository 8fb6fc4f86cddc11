"""Waiting for views: until they include a position, or until several stand at one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from refold.errors import WaitTimeout
from refold.ports import ProjectionStore, Snapshot

__all__ = ["read_at", "wait_for"]

_FIRST: Final = 0.002
_MOST: Final = 0.05
"""Seconds between two looks at the checkpoints: twice as long each time."""


async def wait_for(
    store: ProjectionStore, app: str, projections: Sequence[str], position: int, *, timeout: float
) -> None:
    """Returns when the views of every projection include a position.

    Raises:
        WaitTimeout: they did not in time; it says how far each is.
        StoreError: the database cannot be asked.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    wait = _FIRST
    while True:
        positions = await store.positions(app, projections)
        if all(positions.get(name, -1) >= position for name in projections):
            return
        if loop.time() >= deadline:
            far = ", ".join(f"{name} is {_told(positions.get(name))}" for name in projections)
            raise WaitTimeout(
                f"after {timeout:g} s, {far}, waiting for position {position}; is it running? (refold status)",
                positions,
            )
        await asyncio.sleep(min(wait, max(0.0, deadline - loop.time())))
        wait = min(_MOST, wait * 2)


@asynccontextmanager
async def read_at(
    store: ProjectionStore, app: str, projections: Sequence[str], position: int, *, timeout: float
) -> AsyncIterator[Snapshot]:
    """Views of several projections at one and the same position, which is at least the one given.

    Raises:
        WaitTimeout: they did not get there, or never stood at one position, in time.
        StoreError: the database cannot be asked.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        await wait_for(store, app, projections, position, timeout=max(0.0, deadline - loop.time()))
        async with store.snapshot(app, projections) as snapshot:
            positions = snapshot.positions
            at = set(positions.values())
            if len(positions) == len(set(projections)) and len(at) == 1 and at.pop() >= position:
                yield snapshot
                return
        if loop.time() >= deadline:
            raise WaitTimeout(
                f"the projections stand at different positions for {timeout:g} s: {dict(positions)}", positions
            )
        position = max(position, *positions.values())  # where the foremost is, the others soon are
        await asyncio.sleep(_FIRST)


def _told(position: int | None) -> str:
    return "without views" if position is None else f"at {position}"
