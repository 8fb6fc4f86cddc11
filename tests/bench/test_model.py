"""The benchmark's events are the same for the same seed, and make every kind of view."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from refold.bench.model import AGGREGATE, OrderSummaries, draw
from refold.codecs import JsonCodec
from refold.errors import ConfigurationError


def test_same_seed_same_events():
    assert list(draw(500, 20, seed=3)) == list(draw(500, 20, seed=3))
    assert list(draw(500, 20, seed=3)) != list(draw(500, 20, seed=4))


def test_versions_count_up_and_types_take_turns():
    seen = Counter()
    for event in draw(2_000, 30):
        seen[event.aggregate_id] += 1
        assert event.version == seen[event.aggregate_id]
        assert event.type == ("placed", "paid", "shipped")[(event.version - 1) % 3]


def test_ids_are_unique():
    assert len({event.id for event in draw(20_000, 100)}) == 20_000


def test_uniform_is_even_and_zipf_is_not():
    even = Counter(event.aggregate_id for event in draw(20_000, 100))
    skewed = Counter(event.aggregate_id for event in draw(20_000, 100, skew="zipf"))
    assert max(even.values()) < 2 * min(even.values())
    assert skewed["0"] == pytest.approx(2 * skewed["1"], rel=0.15)
    assert skewed["0"] > 10 * skewed["99"]


def test_bodies_have_at_least_200_bytes():
    assert min(len(JsonCodec().encode(event)[0]) for event in draw(1_000, 100)) >= 200


def test_projector_folds_an_order():
    view = OrderSummaries().project(AGGREGATE, "0", draw(5, 1))
    assert view is not None
    assert (view.status, view.version, view.customer) == ("paid", 5, "customer-00003")
    assert (view.total, view.paid, view.carrier) == (Decimal("3.03"), Decimal("4.04"), "united parcels")


@pytest.mark.parametrize("arguments", [{"events": 0, "aggregates": 1}, {"events": 1, "aggregates": 0}])
def test_counts_below_one_are_refused(arguments):
    with pytest.raises(ConfigurationError, match="at least 1"):
        draw(**arguments)


def test_unknown_skew_is_refused():
    with pytest.raises(ConfigurationError, match="skew 'normal'"):
        draw(1, 1, skew="normal")  # type: ignore[arg-type]
