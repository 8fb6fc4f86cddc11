"""given/when/then: what holds passes, what does not fails, and says so in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from kit_domain import Cancelled, Customer, Customers, Order, Orders, Paid, Placed, Shipped

from refold.errors import DefinitionError
from refold.testing import again, given, happened

PLACED = Placed("ann", Decimal("9.99"))


def failure(check: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check()
    return str(caught.value)


def test_fields_of_a_view() -> None:
    given(Orders, ("42", PLACED)).when(("order", "42", Paid(Decimal(1)))).then("42", status="paid", notes=["paid"])


def test_a_failure_tells_expected_found_and_the_events_of_that_view() -> None:
    scenario = given(Orders, ("42", PLACED), ("7", PLACED)).when(happened("42", Paid(Decimal(1))))
    assert failure(lambda: scenario.then("42", status="new", total=Decimal("9.99"))) == (
        "orders: view '42' is not as expected:\n"
        "  status: expected 'new', found 'paid'\n"
        "events of '42' that led there:\n"
        "    1  order '42' version 1: placed  Placed(customer='ann', total=Decimal('9.99'), address=None)\n"
        "    3  order '42' version 2: paid  Paid(amount=Decimal('1'), notes=[])"
    )


def test_conditions_and_views_for_assertions_of_ones_own() -> None:
    scenario = given(Orders, ("42", PLACED))
    scenario.then("42", lambda view: view.total > 9)
    assert "condition <lambda> (line " in failure(lambda: scenario.then("42", lambda view: view.total > 10))
    assert scenario.view("42").customer == "ann"
    assert "there is no view '43'; there are: '42'" in failure(lambda: scenario.view("43"))


def test_an_unknown_field_is_a_mistake_of_the_test() -> None:
    with pytest.raises(DefinitionError, match="no field 'state'; there are: id, .*status"):
        given(Orders, ("42", PLACED)).then("42", state="new")


def test_deleted_views() -> None:
    scenario = given(Orders, ("42", PLACED))
    scenario.when(("42", Cancelled())).then_deleted("42").then_deleted("never there").then_views()
    assert "view '42' should not be there" in failure(lambda: scenario.then_deleted("42"))


def test_all_views() -> None:
    scenario = given(Orders, ("1", PLACED), ("2", PLACED))
    one = Order(id="1", customer="ann", total=Decimal("9.99"), status="placed")
    other = Order(id="2", customer="ann", total=Decimal("9.99"), status="placed", version=1)
    scenario.then_views(other, one)
    assert "too many: Order(id='2'" in failure(lambda: scenario.then_views(one))
    text = failure(lambda: scenario.then_views(one, Order(id="2", customer="bob", version=2), Order(id="3")))
    assert "missing: Order(id='3'" in text
    assert "'2', customer: expected 'bob', found 'ann'" in text
    assert "'2', version: expected 2, found 1" in text
    assert "position" not in text.partition("events that led")[0].partition("missing")[0]


def test_defaults_follow_from_what_is_said() -> None:
    scenario = given(
        Orders,
        ("1", PLACED),
        ("2", PLACED),
        happened("1", Paid(Decimal(1)), version=5, position=9, timestamp=datetime(2030, 1, 1, tzinfo=UTC), id="x"),
        ("1", Shipped(carrier="ups", weight=1)),
    )
    told = [(e.id, e.position, e.version, e.timestamp) for e in scenario.events]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert told == [
        ("event-1", 1, 1, start + timedelta(seconds=1)),
        ("event-2", 2, 1, start + timedelta(seconds=2)),
        ("x", 9, 5, datetime(2030, 1, 1, tzinfo=UTC)),
        ("event-10", 10, 6, start + timedelta(seconds=10)),
    ]
    scenario.then("1", version=6, position=10, created_at=start + timedelta(seconds=1))


def test_events_that_come_again_change_nothing() -> None:
    scenario = given(Orders, ("42", PLACED), ("42", Paid(Decimal(1), ["n"]))).when(again(2), again(1))
    scenario.then("42", notes=["n", "paid"], version=2, position=2)
    with pytest.raises(DefinitionError, match=r"again\(3\)"):
        given(Orders, ("42", PLACED)).when(again(3))


def test_other_aggregate_types() -> None:
    back = happened("8", Placed("ann", Decimal(3)), aggregate="return")
    given(Customers, ("order", "8", PLACED), back).then("ann", orders=2).then_views(Customer(id="ann", orders=2))
    with pytest.raises(DefinitionError, match="customers reads order, return: say which"):
        given(Customers, ("8", PLACED))
    with pytest.raises(DefinitionError, match="is no event"):
        given(Orders, PLACED)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="positions rise"):
        given(Orders, ("1", PLACED), happened("1", PLACED, position=1))


def test_a_handler_that_raises() -> None:
    scenario = given(Customers, ("order", "8", Placed("ann", Decimal(-6000))))
    with pytest.raises(ValueError, match="half-way"):
        scenario.then("ann", orders=1)
    scenario.then_raises(ValueError, match="half").then_raises()
    assert "expected KeyError, found ValueError: half-way" in failure(lambda: scenario.then_raises(KeyError))
    assert "expected ValueError (other), found" in failure(lambda: scenario.then_raises(ValueError, "other"))
    assert "nothing was raised" in failure(lambda: given(Orders, ("42", PLACED)).then_raises())
    given(Customers, ("order", "8", Paid(Decimal(1), [""]))).then_raises(match="not a text of at least one character")


def test_a_view_that_no_database_takes() -> None:
    text = failure(lambda: given(Orders, ("42", Placed("a\0", Decimal(1)))).then("42", status="placed"))
    assert "view '42' cannot be stored" in text
    assert "NUL" in text


def test_events_that_nobody_handles_change_nothing() -> None:
    given(Orders, ("42", PLACED), happened("42", {"a": 1}, type="unknown")).then("42", version=1)


def test_payloads_are_those_that_come_from_a_stream() -> None:
    payload = Paid(Decimal(1), ["mine"])
    given(Orders, ("42", PLACED)).when(("42", payload)).then("42", notes=["mine", "paid"])
    assert payload.notes == ["mine"]


def test_scenarios_share_a_beginning() -> None:
    beginning = given(Orders, ("42", PLACED))
    beginning.when(("42", Cancelled())).then_deleted("42")
    beginning.then("42", status="placed")
    assert "order '42' version 1: placed" in repr(beginning)
