"""The table of views: as a dict, whatever is done to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold import View
from refold.speedups import Views

KEYS = st.sampled_from([*map(str, range(60)), "", "ü", "\ud800", "x" * 300])
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "pop", "get", "clear"]), KEYS), max_size=300)


@given(STEPS)
def test_is_as_a_dict(steps: list[tuple[str, str]]) -> None:
    views, expected = Views(), {}
    for number, (step, key) in enumerate(steps):
        if step == "put":
            view = View(id=key, version=number)
            views[key], expected[key] = view, view
        elif step == "pop":
            assert views.pop(key, 7) is expected.pop(key, 7)
        elif step == "get":
            assert views.get(key) is expected.get(key)
        elif number % 7 == 0:
            views.clear()
            expected.clear()
        assert len(views) == len(expected)
    assert dict(views.items()) == expected
    assert all(views.get(key) is view for key, view in expected.items())


def test_many() -> None:
    views = Views()
    for number in range(100_000):
        views[f"key {number}"] = View(version=number)
    for number in range(0, 100_000, 2):
        assert views.pop(f"key {number}", None).version == number
    assert len(views) == 50_000
    assert {view.version for _, view in views.items()} == set(range(1, 100_000, 2))
    assert all(views.get(f"key {number}") is None for number in range(0, 100_000, 2))


def test_keys_are_texts() -> None:
    views = Views()
    with pytest.raises(TypeError, match="keys are str, not int"):
        views[1] = View()
    with pytest.raises(TypeError):
        del views["a"]
