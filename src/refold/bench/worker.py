"""The process whose rebuild is measured: an app with the benchmark's projector, one rebuild, a line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time

__all__ = ["main"]


async def _run(commanded: float) -> dict[str, object]:
    from refold.app import App
    from refold.bench.model import OrderSummaries
    from refold.engine.outcome import Progress

    phases = {"importing": time.perf_counter() - commanded}
    last = time.perf_counter()

    def hook(progress: Progress) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[progress.phase] = phases.get(progress.phase, 0.0) + now - last
        last = now

    app = App("bench", stream="bench")
    app.register(OrderSummaries)
    async with app:
        phases["connecting"] = time.perf_counter() - last
        last = time.perf_counter()
        (result,) = await app.rebuild(progress=hook)
        committed = last  # told when readers see the views; PostgreSQL's statistics come after that
    if not result.published:
        raise SystemExit(1)
    return {
        "views": result.views,
        "seconds": committed - commanded,
        "phases": {name: round(seconds, 3) for name, seconds in phases.items()},
    }


def main() -> None:
    """Runs one rebuild.

    The argument is what `time.perf_counter`, which counts for all processes of a machine alike, said when it was commanded.
    """
    sys.stdout.write(json.dumps(asyncio.run(_run(float(sys.argv[1])))) + "\n")


if __name__ == "__main__":
    main()
