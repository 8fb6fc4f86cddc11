"""Codecs: what is written comes back, and nothing but `UndecodableEvent` escapes."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold import DomainEvent, EventType, event
from refold.codecs import codec_named
from refold.errors import ConfigurationError, DefinitionError, UndecodableEvent
from refold.event import event_type_of

NAMES = ["json", "go", "cloudevents", "cloudevents-binary"]


@event("structured", upcast_from={1: lambda old: old | {"note": old.pop("text")}, 2: lambda old: old | {"amount": "0"}})
class Structured(msgspec.Struct):
    note: str
    amount: Decimal


@dataclasses.dataclass
class Data:
    note: str
    amount: Decimal


class Typed(TypedDict):
    note: str
    amount: Decimal


class Model(pydantic.BaseModel):
    note: str
    amount: Decimal


MAKERS: dict[str, Any] = {
    "struct": (EventType("t", msgspec.defstruct("S", [("note", str), ("amount", Decimal)])), None),
    "dataclass": (EventType("t", Data), None),
    "typeddict": (EventType("t", Typed), None),
    "pydantic": (EventType("t", Model), None),
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def block(headers: Any) -> bytes | None:
    if not headers:
        return None
    return ("NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n").encode()


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("kind", list(MAKERS))
@given(
    identity=st.tuples(TEXT, TEXT, TEXT),
    when=TIMES,
    version=st.integers(1, 2**40),
    note=TEXT,
    amount=st.decimals(allow_nan=False, allow_infinity=False),
)
def test_what_is_written_comes_back(
    codec: str, kind: str, identity: Any, when: Any, version: int, note: str, amount: Any
) -> None:
    event_type = MAKERS[kind][0]
    payload = event_type.payload(note=note, amount=amount)
    one = DomainEvent(
        id=identity[0],
        aggregate_id=identity[1],
        type="t",
        aggregate_type=identity[2],
        timestamp=when,
        version=version,
        payload=payload,
    )
    body, headers = codec_named(codec).encode(one)
    assert codec_named(codec).decoder(event_type)(body, block(headers)) == one


@pytest.mark.parametrize("codec", NAMES)
@given(
    body=st.one_of(
        st.binary(max_size=60),
        st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode()),
    )
)
def test_any_bytes_give_nothing_but_undecodable(codec: str, body: bytes) -> None:
    for decode in (codec_named(codec).decoder(event_type_of(Structured)), codec_named(codec).envelope):
        for headers in (None, b"NATS/1.0\r\nce-specversion: 1.0\r\nce-id: %ff\r\n\r\n"):
            with pytest.raises(UndecodableEvent):
                decode(body, headers)


def envelope(**changes: Any) -> bytes:
    whole = {
        "id": "i",
        "aggregate_id": "a",
        "event_type": "structured",
        "aggregate_type": "order",
        "timestamp": "2026-01-01T00:00:00.123456Z",
        "version": 1,
        "payload": {"note": "n", "amount": "1.10"},
        "payload_version": 3,
    } | changes
    return json.dumps({k: v for k, v in whole.items() if v is not ...}, separators=(",", ":")).encode()


def decoded(body: bytes) -> DomainEvent[Any]:
    return codec_named("json").decoder(event_type_of(Structured))(body, None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-01-01T00:00:00.123456999Z", datetime(2026, 1, 1, 0, 0, 0, 123456, UTC)),
        ("2025-12-31T23:59:59.9999999Z", datetime(2025, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2026-01-01T02:00:00.5+02:00", datetime(2026, 1, 1, 0, 0, 0, 500000, UTC)),
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_timestamps_are_utc_and_cut_not_rounded(written: str, meant: datetime) -> None:
    assert decoded(envelope(timestamp=written)).timestamp == meant
    assert decoded(envelope(timestamp=written)).timestamp.utcoffset() == timedelta(0)


def test_a_timestamp_in_the_payload_does_not_pass_for_the_envelopes() -> None:
    body = (
        b'{"payload":{"note":"n","amount":"1","timestamp":"2026-01-01T00:00:00.123456Z"},'
        + envelope(payload=..., timestamp="2025-12-31T23:59:59.9999999Z")[1:]
    )
    assert decoded(body).timestamp.year == 2025


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timestamp": "2026-01-01T00:00:00"}, "offset"),
        ({"version": 0}, "version"),
        ({"version": ...}, "version"),
        ({"version": "1"}, "version"),
        ({"payload": {"note": 5, "amount": "1"}}, r"payload of structured.*note"),
        ({"payload": ...}, "payload"),
        ({"payload_version": 4}, "no upcaster from payload version 4"),
        ({"payload_version": 1, "payload": {}}, "text"),
    ],
)
def test_what_is_wrong_is_said(changes: Any, said: str) -> None:
    with pytest.raises(UndecodableEvent, match=said):
        decoded(envelope(**changes))


def test_old_payloads_are_lifted_version_by_version() -> None:
    event = decoded(envelope(payload={"text": "old"}, payload_version=1))
    assert event.payload == Structured("old", Decimal(0))
    assert event.payload_version == 1


def test_deep_nesting() -> None:
    with pytest.raises(UndecodableEvent, match="nested too deep"):
        codec_named("json").envelope(envelope()[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}", None)


def test_an_envelope_as_go_writes_it() -> None:
    payload = base64.b64encode(b'{"note":"n","amount":"1.10"}').decode()
    body = envelope(payload=payload, timestamp="2026-01-01T00:00:00.123456789Z", more=1)
    event = codec_named("go").decoder(event_type_of(Structured))(body, None)
    assert (event.payload.amount, event.timestamp.microsecond) == (Decimal("1.10"), 123456)


def test_unknown_codecs_and_payload_classes() -> None:
    with pytest.raises(ConfigurationError, match="there are json, go"):
        codec_named("xml")
    with pytest.raises(DefinitionError, match="cannot be of"):
        codec_named("json").decoder(EventType("t", object))
