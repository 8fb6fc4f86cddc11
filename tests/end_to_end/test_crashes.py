"""Rebuilds that are killed or interrupted at any moment, and readers who look on all the time."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_support import ACCOUNTS, Ledger, summed

from refold.embedded import EmbeddedNats


@pytest.fixture
def ledger(nats: EmbeddedNats, stream_name: str, lasting_url: str, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, nats.url, stream_name, lasting_url)


def moments(ledger: Ledger, seed: int) -> dict[str, Callable[[], bool]]:
    """Moments of a rebuild, as the database tells them, and some at random after its beginning."""
    active = ledger.generations("active")
    found: dict[str, Callable[[], bool]] = {
        "it begins": lambda: bool(ledger.generations("rebuilding")),
        "the first rows are there": lambda: ledger.written() > 0,
        "half of the rows are there": lambda: ledger.written() > ACCOUNTS // 2,
        "all rows are there": lambda: ledger.written() == ACCOUNTS,
        "it is published": lambda: ledger.generations("active") != active,
    }
    chance = random.Random(seed)
    for number in range(2):
        found[f"chance {number}"] = after_beginning(ledger, chance.uniform(0, 0.8))
    return found


def after_beginning(ledger: Ledger, seconds: float) -> Callable[[], bool]:
    began: list[float] = []

    def come() -> bool:
        if not began and ledger.generations("rebuilding"):
            began.append(time.monotonic())
        return bool(began) and time.monotonic() - began[0] > seconds

    return come


def test_kill_9_leaves_what_readers_see(ledger: Ledger) -> None:
    """Or all of the new rows, where it came too late. The next rebuild works, and drops what the dead one left."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    before = ledger.publish()
    ledger.rebuild()
    assert ledger.rows() == before
    after = ledger.publish()
    killed = left = 0
    for name, moment in moments(ledger, seed).items():
        code = ledger.interrupted(moment, signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), name
        killed += code != 0
        left += len(ledger.generations("rebuilding"))
        if ledger.rows() != before:
            assert ledger.rows() == after, name
            before, after = after, ledger.publish()
    assert killed >= 3
    assert left >= 2
    ledger.rebuild()
    assert ledger.rows() == after
    assert (len(ledger.generations("active")), ledger.generations("rebuilding")) == (1, [])
    assert len(ledger.generations("retired")) <= 1
    assert ledger.leftovers() == set()


@pytest.mark.parametrize("moment", ["it begins", "the first rows are there", "half of the rows are there"])
def test_control_c_leaves_what_readers_see_and_nothing_else(ledger: Ledger, moment: str) -> None:
    before = ledger.publish()
    ledger.rebuild()
    after = ledger.publish()
    for _ in range(5):
        code = ledger.interrupted(moments(ledger, 0)[moment], signal.SIGINT)
        if code == 130:
            break
        assert (code, ledger.rows()) == (0, after)  # it came too late
        before, after = after, ledger.publish()
    assert code == 130
    assert ledger.rows() == before
    assert ledger.generations("rebuilding") == []
    assert ledger.leftovers() == set()
    ledger.rebuild()
    assert ledger.rows() == after


def test_readers_see_the_old_rows_or_all_of_the_new_ones(ledger: Ledger) -> None:
    states = [ledger.publish()]
    ledger.rebuild()
    with ledger.watched() as answers:
        for _ in range(3):
            states.append(ledger.publish())
            ledger.rebuild()
    assert {summed(rows) for rows in states[:-1]} <= answers
    assert answers <= {summed(rows) for rows in states}
    assert ledger.rows() == states[-1]
