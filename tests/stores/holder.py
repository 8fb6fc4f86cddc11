"""A process that holds a claim until it is killed: ``python holder.py URL [open]``.

With ``open``, it stays within the transaction of a commit. It says ``held`` when it is there.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from live_cases import APP, SIMPLE, row

from refold.ports import Changes
from refold.stores import open_store


async def hold(url: str, *, within: bool) -> None:
    async with open_store(url) as store, store.claims(APP) as claims:
        await claims.take("one", 1)
        async with await claims.writer({"one": SIMPLE}) as writer:
            if within:
                await stay_within(writer)
            print("held", flush=True)
            await asyncio.Event().wait()


async def stay_within(writer: Any) -> None:
    """PostgreSQL: everything of a batch but its COMMIT."""
    await writer.load("one", ["a"])
    writer._connection.commit = lambda: (print("held", flush=True), sys.stdin.read())
    await writer.commit({"one": Changes(rows=[row("a", 666)])}, old=5, new=6, anchor=None)


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], within="open" in sys.argv[2:]))
