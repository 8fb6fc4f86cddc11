"""Many rows at once, in C: the same as one by one in Python, or left to Python."""

from __future__ import annotations

import datetime as dt
import struct
from decimal import Decimal, localcontext
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold import Index, View
from refold.cells import check
from refold.errors import RowRefused
from refold.stores.sqliterows import SqliteRows
from refold.stores.tables import SQLITE
from refold.view import ViewSchema


class Wide(View):
    text: Annotated[str, Index()] = ""
    number: int = 0
    real: float = 0.0
    flag: bool = False
    amount: Decimal = Decimal(0)
    day: dt.date | None = None
    ident: UUID | None = None
    blob: bytes = b""
    note: str | None = None


SCHEMA = ViewSchema.of(Wide)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "id": st.text("abcü", min_size=1, max_size=10),
    "created_at": st.none() | st.datetimes(timezones=st.just(dt.UTC)),
    "updated_at": st.datetimes(timezones=st.just(dt.UTC)),
    "version": st.integers(-(2**63), 2**63 - 1),
    "text": st.text("abc", max_size=20),
    "number": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "flag": st.booleans(),
    "amount": st.decimals(-(10**9), 10**9, places=3),
    "day": st.none() | st.dates(),
    "ident": st.none() | st.uuids(),
    "blob": st.binary(max_size=5),
    "note": st.none() | st.text("abc", max_size=5),
}
ZONES = st.sampled_from([dt.timezone(dt.timedelta(hours=-3)), None])
ODD: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(["", "\0", "\ud800", "x" * 2001, 5]),
    "created_at": st.datetimes(timezones=ZONES) | st.just("2026"),
    "updated_at": st.datetimes(timezones=ZONES),
    "version": st.sampled_from([2**63, -(2**63) - 1, True, 1.0, None]),
    "text": st.sampled_from(["x" * 1999, "x" * 2001, "\0", "\ud800", "ü", None, 5]),
    "number": st.sampled_from([2**63, True, "1"]),
    "real": st.sampled_from([float("nan"), float("inf"), -float("inf"), 1, None]),
    "flag": st.sampled_from([1, None]),
    "amount": st.decimals() | st.sampled_from([Decimal("1e400"), Decimal("1e-40"), Decimal("NaN"), 1, None]),
    "day": st.datetimes() | st.just("2026-01-01"),
    "ident": st.text(max_size=2),
    "blob": st.just(bytearray(b"x")) | st.none(),
    "note": st.sampled_from(["\0", 5, "ü"]),
}


@st.composite
def wides(draw: st.DrawFn) -> Wide:
    """A view of usual values, but for one field at most."""
    values = {name: draw(strategy) for name, strategy in GOOD.items()}
    spoiled = draw(st.none() | st.sampled_from(sorted(ODD)))
    if spoiled is not None:
        values[spoiled] = draw(ODD[spoiled])
    return Wide(**values)


WIDE = wides()


def is_taken(row: tuple[Any, ...]) -> bool:
    try:
        check(SCHEMA, row)
    except RowRefused:
        return False
    return True


@given(st.lists(WIDE, max_size=40))
def test_freezing_many(views: list[Wide]) -> None:
    items = [(f"key {n}", view) for n, view in enumerate(views)]
    assert list(map(repr, SCHEMA.freeze_all(items))) == [
        repr((f"key {n}", *SCHEMA.freeze(view)[1:])) for n, view in enumerate(views)
    ]


@given(st.lists(WIDE, max_size=5))
def test_rows_that_are_said_to_be_good_are(views: list[Wide]) -> None:
    rows = [SCHEMA.freeze(view) for view in views]
    assert not SCHEMA.codec.are_good(rows) or all(map(is_taken, rows))


def test_usual_rows_are_good() -> None:
    row = SCHEMA.freeze(Wide("1", dt.datetime.now(dt.UTC), None, 3, 4, "t", 5, 0.5, True, Decimal("-12.50"), note="n"))
    assert SCHEMA.codec.are_good([row] * 3)
    assert not SCHEMA.codec.are_good([row, ("", *row[1:])])  # a key is not empty


@given(st.lists(WIDE, max_size=5))
def test_cells_of_sqlite(views: list[Wide]) -> None:
    rows = [row for view in views if is_taken(row := SCHEMA.freeze(view))]
    made = SCHEMA.codec.sqlite(rows)
    by_column = SqliteRows(SQLITE, SCHEMA, "n")._cells_by_column
    expected = by_column(rows) if rows else []
    assert made is None or made == expected
    if all(time is None or time.tzinfo is dt.UTC for row in rows for time in row[1:3]):
        assert made is not None


def cells(body: bytes) -> list[bytes | None]:
    """Cells of one row in PostgreSQL's binary format."""
    (count,) = struct.unpack_from("!h", body)
    found, at = [], 2
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        found.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    assert at == len(body)
    return found


def numeric(cell: bytes) -> Decimal:
    """A numeric as PostgreSQL reads it: https://www.postgresql.org/docs/current/datatype-numeric.html"""
    count, weight, sign, scale = struct.unpack_from("!hhHH", cell)
    digits = struct.unpack_from(f"!{count}h", cell, 8)
    assert all(0 <= digit < 10_000 for digit in digits)
    assert len(cell) == 8 + 2 * count
    with localcontext(prec=200):
        value = sum((Decimal(digit).scaleb(4 * (weight - i)) for i, digit in enumerate(digits)), Decimal(0))
        return (-value if sign == 0x4000 else value).quantize(Decimal(1).scaleb(-scale))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None) | st.decimals(-(10**9), 10**9, places=3))
def test_decimals_for_copy(value: Decimal) -> None:
    row = SCHEMA.freeze(Wide("1", amount=value))
    body = SCHEMA.codec.copy([row])
    if body is None:  # an exponent, or very many digits
        assert "E" in str(value) or len(str(value)) > 64
        return
    cell = cells(body)[SCHEMA.names.index("amount")]
    assert cell is not None
    assert str(numeric(cell)) == (str(value) if value else str(abs(value)))  # PostgreSQL has no negative zero


@given(WIDE)
def test_other_cells_for_copy(view: Wide) -> None:
    row = SCHEMA.freeze(view)
    body = SCHEMA.codec.copy([row])
    if body is None or not is_taken(row):  # rows are checked before they are written
        return
    found = dict(zip(SCHEMA.names, cells(body), strict=True))
    values = dict(zip(SCHEMA.names, row, strict=True))
    assert found["text"] == values["text"].encode()
    assert found["number"] == struct.pack("!q", values["number"])
    assert found["real"] == struct.pack("!d", values["real"])
    assert found["blob"] == values["blob"]
    assert found["note"] == (None if values["note"] is None else values["note"].encode())
    assert found["ident"] == (None if values["ident"] is None else values["ident"].bytes)
    epoch = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    micros = (values["updated_at"] - epoch) // dt.timedelta(microseconds=1)
    assert found["updated_at"] == struct.pack("!q", micros)
    if values["day"] is not None:
        assert found["day"] == struct.pack("!i", (values["day"] - epoch.date()).days)


@pytest.mark.parametrize("call", ["are_good", "copy", "sqlite", "freeze"])
def test_nothing_but_lists_of_rows(call: str) -> None:
    with pytest.raises(TypeError):
        getattr(SCHEMA.codec, call)(5)
    with pytest.raises(TypeError):
        getattr(SCHEMA.codec, call)([("a", "b")])
