"""``refold bench index``: what it tells is complete, and what it lists was compared."""

from __future__ import annotations

import json

import pytest

from refold.bench.index import run_index_bench


async def test_it_tells_what_listing_takes_and_what_the_index_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_index_bench(store="sqlite", events=300, aggregates=50, live=True, seed=1, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["listed"] <= 50
    assert told["stream_seconds"] > 0
    assert told["index_seconds"] > 0
    assert told["live_us_with"] > 0
    assert told["host"]["servers"]["nats"]


async def test_it_shows_the_same_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run_index_bench(store="sqlite", events=30, aggregates=5, live=False, seed=1, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "index seconds" in shown
    assert "live" not in shown
