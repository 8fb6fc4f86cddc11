"""The quick struct decoder: what it gives is what msgspec gives, and what is usual it does not leave to msgspec."""

from __future__ import annotations

import datetime as dt
import enum
import json
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refold.codecs.structs import struct_decoder

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, gc=False):
    text: str
    number: int = 7


class Everything(msgspec.Struct, gc=False):
    text: str
    number: int
    real: float
    flag: bool
    amount: Decimal
    when: dt.datetime
    inner: Inner
    maybe: str | None = None
    perhaps: Inner | None = None
    color: Color = Color.RED
    ident: UUID | None = None
    items: list[int] | None = None
    both: int | str = 0
    short: Annotated[str, msgspec.Meta(max_length=3)] = ""
    day: dt.date | None = None


class Renamed(msgspec.Struct, gc=False, rename="camel", frozen=True, kw_only=True):
    first_name: str
    last_name: str = "?"


TEXTS = st.one_of(
    st.text(max_size=30), st.sampled_from(["", "a", "same", "same again", "x" * 40, "ü", 'q"uote', "\\", "\n"])
)
TIMES = st.datetimes(timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=2))]))
INNER = st.builds(Inner, text=TEXTS, number=st.integers(-(2**63), 2**63 - 1))
EVERYTHING = st.builds(
    Everything,
    text=TEXTS,
    number=st.integers(-(2**70), 2**70) | st.integers(-5, 5),
    real=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    when=TIMES,
    inner=INNER,
    maybe=st.none() | TEXTS,
    perhaps=st.none() | INNER,
    color=st.sampled_from(Color),
    ident=st.none() | st.uuids(),
    items=st.none() | st.lists(st.integers(0, 9), max_size=3),
    both=st.integers(0, 9) | st.just("x"),
    short=st.text("ab", max_size=3),
    day=st.none() | st.dates(),
)


def by_msgspec(cls: Any, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body, type=cls)
    except (msgspec.MsgspecError, ValueError):
        return None


DECODERS = {cls: struct_decoder(cls) for cls in (Everything, Inner, Renamed)}


@given(EVERYTHING)
def test_equals_msgspec(value: Everything) -> None:
    body = msgspec.json.encode(value)
    made = DECODERS[Everything].decode(body)
    assert made is None or made == by_msgspec(Everything, body) == value


@given(EVERYTHING, st.data())
def test_equals_msgspec_on_broken_bodies(value: Everything, data: st.DataObject) -> None:
    """Whatever stands in a body, and wherever it is cut: never another value than msgspec's, never one where it has none."""
    body = bytearray(msgspec.json.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [
                    b"",
                    b'"',
                    b"}",
                    b"{",
                    b",",
                    b"0",
                    b"-",
                    b"1",
                    b".",
                    b"e",
                    b"null",
                    b"true",
                    b" ",
                    b"\\",
                    b"\x00",
                    b"\xff",
                ]
            )
        )
        if not body:
            break
    made = DECODERS[Everything].decode(bytes(body))
    assert made is None or made == by_msgspec(Everything, bytes(body))


@given(st.permutations(["text", "number", "maybe"]), st.booleans())
def test_fields_in_any_order_and_with_blanks(order: list[str], blanks: bool) -> None:
    class Three(msgspec.Struct, gc=False):
        text: str = "d"
        number: int = 1
        maybe: str | None = None

    values = {"text": "t", "number": 5, "maybe": None}
    body = json.dumps({name: values[name] for name in order}, indent=2 if blanks else None).encode()
    assert struct_decoder(Three).decode(body) == Three("t", 5, None)
    assert struct_decoder(Three).decode(b"{}") == Three()


@pytest.mark.parametrize(
    ("cls", "body"),
    [
        (Inner, b'{"text":"a","number":1}'),
        (Inner, b'{"number":1,"text":"a"}'),
        (Inner, b' { "text" : "a" } '),
        (Inner, '{"text":"für"}'.encode()),
        (Renamed, b'{"firstName":"a","lastName":"b"}'),
        (Everything, msgspec.json.encode(Everything("t", 1, 0.5, True, Decimal("1.50"), dt.datetime.now(dt.UTC), Inner("i")))),
    ],
)  # fmt: skip
def test_what_is_usual_is_not_left_to_msgspec(cls: Any, body: bytes) -> None:
    assert DECODERS[cls].decode(body) == msgspec.json.decode(body, type=cls)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b'{"text":"a"}}',
        b'{"text":"a",}',
        b'{"text":"a" "number":1}',
        b'{"text":"a","text":"b"}',
        b'{"text":"a","other":1}',
        b'{"text":1}',
        b'{"text":null}',
        b'{"text":"a\\n"}',
        b'{"text":"\xff"}',
        b'{"text":"a","number":01}',
        b'{"text":"a","number":1.0}',
        b'{"text":"a","number":-}',
        b'{"text":"a","number":1234567890123456789012}',
        b'{"text":"a","number":"1"}',
        b'{"tex":"a"}',
        b'{"text:"a"}',
        b'{"text":"a"',
        b'{"text":"a',
    ],
)
def test_what_is_unusual_is_left_to_msgspec(body: bytes) -> None:
    """Some of these are well, and msgspec says so; the rest it refuses with its own words."""
    assert DECODERS[Inner].decode(body) is None


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456Z"])
def test_times(text: str) -> None:
    class Timed(msgspec.Struct, gc=False):
        at: dt.datetime

    body = msgspec.json.encode({"at": text})
    assert struct_decoder(Timed).decode(body) == msgspec.json.decode(body, type=Timed)
    for other in (
        "2026-02-30T12:00:00Z",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00+01:00",
        "2026-01-31T12:00:00.1234567Z",
    ):
        assert struct_decoder(Timed).decode(msgspec.json.encode({"at": other})) is None


@given(st.lists(st.sampled_from(["a", "b", "1.5", "2.50"]) | st.text("xyz", max_size=25), min_size=1, max_size=50))
@example([f"text {i % 3}" for i in range(10_000)])
@example([f"text {i}" for i in range(10_000)])
def test_texts_that_are_kept(texts: list[str]) -> None:
    """Many texts, few or many different ones: each comes out as it is."""

    class Text(msgspec.Struct, gc=False):
        text: str

    decode = struct_decoder(Text).decode
    assert [decode(msgspec.json.encode({"text": text})).text for text in texts] == texts


def test_decimals_that_are_kept() -> None:
    class Price(msgspec.Struct, gc=False):
        price: Decimal

    decode = struct_decoder(Price).decode
    prices = [Decimal(n % 700) / 100 for n in range(5_000)] + [Decimal(f"{n}.00") for n in range(9_000)]
    for price in prices:
        made = decode(b'{"price":"%s"}' % str(price).encode())
        assert (made.price, str(made.price)) == (price, str(price))
    assert decode(b'{"price":"1-2"}') is None
    assert decode(b'{"price":"NaN"}') is None
    assert decode(b'{"price":1.5}') is None


class Loose(msgspec.Struct):
    text: str


class Tagged(msgspec.Struct, tag=True, gc=False):
    text: str


class Strict(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    text: str


class Listed(msgspec.Struct, array_like=True, gc=False):
    text: str


class Recursive(msgspec.Struct, gc=False):
    text: str
    next: Recursive | None = None


class Checked(msgspec.Struct, gc=False):
    text: str

    def __post_init__(self) -> None:
        raise ValueError


class Fresh(msgspec.Struct, gc=False):
    text: str
    items: list[int] = []


class Generically(msgspec.Struct, Generic[T], gc=False):
    value: list[T]


class Filled(Generically[int], gc=False):
    pass


class Priced(msgspec.Struct, gc=False):
    price: Generically[int]


@pytest.mark.parametrize("cls", [Loose, Tagged, Strict, Listed, Checked, Fresh, Generically, Filled, dict, int])
def test_classes_that_are_left_to_msgspec(cls: Any) -> None:
    assert struct_decoder(cls) is None


def test_generic_fields_are_msgspec_s() -> None:
    decode = struct_decoder(Priced).decode
    assert decode(b'{"price":{"value":[1]}}') == Priced(Generically([1]))
    assert decode(b'{"price":{"value":["x"]}}') is None


def test_a_struct_in_itself() -> None:
    value = Recursive("a", Recursive("b", Recursive("c")))
    assert struct_decoder(Recursive).decode(msgspec.json.encode(value)) == value


def test_nesting_without_end_is_left_to_msgspec() -> None:
    body = b'{"text":"a","next":' * 50_000 + b"null" + b"}" * 50_000
    assert struct_decoder(Recursive).decode(body) is None
