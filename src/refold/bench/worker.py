"""The process whose rebuild is measured: an app with the benchmark's projector, one rebuild, a line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time

__all__ = ["main"]


async def _run() -> dict[str, object]:
    from refold.app import App
    from refold.bench.model import OrderSummaries
    from refold.engine.rebuild import Progress

    phases: dict[str, float] = {"import": time.perf_counter() - _START}
    last = time.perf_counter()

    def hook(progress: Progress) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[progress.phase] = phases.get(progress.phase, 0.0) + now - last
        last = now

    app = App("bench", stream="bench")
    app.register(OrderSummaries)
    async with app:
        (result,) = await app.rebuild(progress=hook)
    if not result.published:
        raise SystemExit(1)
    return {"views": result.views, "phases": {name: round(seconds, 3) for name, seconds in phases.items()}}


def main() -> None:
    """Runs one rebuild."""
    sys.stdout.write(json.dumps(asyncio.run(_run())) + "\n")


_START = time.perf_counter()

if __name__ == "__main__":
    main()
