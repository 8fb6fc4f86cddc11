"""The crash-schedule kit: sound projectors pass on every store; what is broken, in projector or engine, is found and told."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st
from kit_domain import SOUND, Address, AllKinds, Cancelled, Customers, Order, Orders, Paid, Placed, Shipped

from refold import DomainEvent, Projector, on
from refold.engine.live.cache import TouchedCache
from refold.engine.live.member import Member
from refold.errors import ConfigurationError, DefinitionError
from refold.ports import Changes
from refold.stores.memory import MemoryStore
from refold.testing import Schedule, again, check_projector, happened
from refold.testing.strategies import histories, payloads

PLACED = Placed("ann", Decimal("9.99"))


def failure(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check_projector(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("projector", SOUND, ids=lambda projector: projector.spec.name)
def test_sound_projectors_pass(projector: type[Projector[Any]]) -> None:
    check_projector(projector, max_examples=60)


# -- Broken projectors -------------------------------------------------------------------------------------------------


class Noting(Projector[Order], name="noting", aggregate="order", version=1):
    @on(Placed)
    def placed(self, view: Order, event: DomainEvent[Placed]) -> None:
        view.notes = [*view.notes, event.payload.customer]
        view.total += event.payload.total


def test_a_row_that_no_database_takes_is_told() -> None:
    text = failure(Noting, history=[("1", Placed("a\0", Decimal(1)))], schedule=Schedule())
    assert text.startswith("noting made a view '1' at position 1 that no database takes: column 'notes'")


class Clocked(Projector[Order], name="clocked", aggregate="order", version=1):
    @on(Placed)
    def placed(self, view: Order, event: DomainEvent[Placed]) -> None:
        import time

        view.status = str(time.time() > 0)


def test_a_handler_that_is_not_deterministic_is_told_with_the_shrunk_history() -> None:
    text = failure(Clocked, max_examples=20)
    assert "placed uses the clock: time.time\n" in text
    assert "view.status = str(time.time() > 0)" in text
    assert text.count("version 1: placed") == 1  # the shortest history that shows it
    check_projector(Clocked, deterministic=False, max_examples=5)  # the result is the same each time


# -- A broken engine: what the kit is there to find ----------------------------------------------------------------------


def test_rows_that_are_never_written_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore.commit

    async def empty(self: Any, claims: Any, changes: Any, *, old: int, new: int, anchor: Any) -> None:
        await whole(self, claims, {}, old=old, new=new, anchor=anchor)

    monkeypatch.setattr(MemoryStore, "commit", empty)
    text = failure(Orders)
    assert "orders has other views than a plain fold" in text
    assert "expected (" in text
    assert "found    no row" in text


def test_a_row_that_is_left_out_of_its_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Member.finish

    async def forgetful(self: Any, batch: Any, loader: Any) -> Changes:
        changes = await finish(self, batch, loader)
        return Changes(rows=changes.rows[1:], deleted=changes.deleted, seen=changes.seen, letters=changes.letters)

    monkeypatch.setattr(Member, "finish", forgetful)
    assert "has other views than a plain fold" in failure(Customers, max_examples=60)


def test_duplicates_that_are_applied_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TouchedCache, "settle", lambda self: (self.hot.clear(), self._young.clear()))
    check_projector(Orders, max_examples=20)  # a cache that keeps nothing loses nothing
    monkeypatch.setattr("refold.engine.live.cache.SeenLog.changes", property(lambda self: []))
    text = failure(Orders, max_examples=1000)
    assert "again(" in text.rpartition("history:")[2] or "version=" in text.rpartition("history:")[2]


def test_a_failure_can_be_run_again_from_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refold.engine.live.cache.SeenLog.changes", property(lambda self: []))
    text = failure(Orders, max_examples=1000)
    line = text.rpartition("to run it again: ")[2]
    names = {
        **{cls.__name__: cls for cls in (Orders, Placed, Paid, Shipped, Cancelled, Address, Decimal, Schedule)},
        "check_projector": check_projector,
        "happened": happened,
        "again": again,
    }
    with pytest.raises(AssertionError, match="has other views than a plain fold"):
        exec(line, names)
    monkeypatch.undo()
    exec(line, names)


# -- Choices -------------------------------------------------------------------------------------------------------------


def test_sqlite() -> None:
    check_projector(Orders, database_url="sqlite:///not_touched.db", max_examples=4)
    check_projector(Customers, database_url="sqlite:///not_touched.db", max_examples=4)


def test_postgresql(postgres_url: str) -> None:
    import psycopg

    check_projector(Orders, database_url=postgres_url, max_examples=4)
    with psycopg.connect(postgres_url) as connection:
        left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'refold_testing%'").fetchall()
        tables = connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'refold_%'").fetchall()
    assert (left, tables) == ([], [])


def test_histories_and_payloads_of_ones_own() -> None:
    check_projector(Orders, payloads={Placed: st.just(PLACED), "paid": st.just(Paid(Decimal(2)))}, max_examples=10)
    own = st.lists(st.builds(happened, st.sampled_from(["1", "2"]), st.just(PLACED)), max_size=3)
    check_projector(Orders, histories=own, max_examples=10)
    check_projector(Orders, history=[("1", PLACED), again(1), ("1", Cancelled())], max_examples=10)
    check_projector(Orders, history=[], schedule=Schedule(fates=("crash after",)))


class Untyped(Projector[Order], name="untyped", version=1):
    @on("noted")
    def noted(self, view: Order, event: DomainEvent[dict[str, Any]]) -> None:
        view.status = str(event.payload["note"])


def test_payloads_that_are_dicts_need_a_strategy() -> None:
    with pytest.raises(DefinitionError, match=r"payloads={'type': …}"):
        check_projector(Untyped)
    check_projector(Untyped, payloads={"noted": st.fixed_dictionaries({"note": st.integers(0, 3)})}, max_examples=10)


@pytest.mark.parametrize("payload", [Placed, Paid, Shipped, AllKinds])
def test_payloads_come_from_their_classes(payload: type[Any]) -> None:
    from hypothesis import given, settings

    seen: list[Any] = []

    @settings(max_examples=30, database=None)
    @given(payloads(payload))
    def collect(value: Any) -> None:
        assert isinstance(value, payload)
        seen.append(value)

    collect()
    assert len({repr(value) for value in seen}) > 3


def test_histories_have_duplicates_gaps_and_late_events() -> None:
    from hypothesis import Phase, find, settings

    from refold.testing.history import events_of

    def versions(past: Any) -> list[int]:
        return [e.version for e in events_of(past, Orders.spec) if e.aggregate_id == "a"]

    for wanted in (
        lambda past: any(repr(one) == "again(1)" for one in past),
        lambda past: any(b > a + 1 for a, b in zip(versions(past), versions(past)[1:], strict=False)),
        lambda past: any(b < a for a, b in zip(versions(past), versions(past)[1:], strict=False)),
    ):
        assert find(histories(Orders), wanted, settings=settings(phases=[Phase.generate], database=None))


async def test_it_is_not_for_a_running_loop() -> None:
    with pytest.raises(ConfigurationError, match="plain def"):
        check_projector(Orders)


def test_without_hypothesis_all_but_the_generating_works() -> None:
    program = """
import sys
sys.modules["hypothesis"] = None
from refold import DomainEvent, Projector, View, event, on
from refold.errors import ConfigurationError
from refold.testing import Schedule, check_projector, given
import msgspec

@event("placed")
class Placed(msgspec.Struct):
    total: int

class Order(View):
    total: int = 0

class Orders(Projector[Order], name="orders", aggregate="order"):
    @on(Placed)
    def placed(self, view: Order, event: DomainEvent[Placed]) -> None:
        view.total += event.payload.total

given(Orders, ("1", Placed(3))).then("1", total=3)
check_projector(Orders, history=[("1", Placed(3))], schedule=Schedule(fates=("crash before", "crash after")))
try:
    check_projector(Orders)
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'refold[testing]'" in done.stdout
