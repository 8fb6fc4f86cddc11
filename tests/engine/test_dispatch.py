"""Dispatch in C and in Python: the same views, the same records of what could not be used, whatever the messages are."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from fold_domain import Added, ByTag, Closed, Noted, Totals, make
from hypothesis import given
from hypothesis import strategies as st

from refold import DomainEvent, JsonCodec, Projector, View, event, on, speedups
from refold.codecs.cloudevents import CloudEventsCodec
from refold.codecs.structs import struct_decoder
from refold.engine.dispatch import Dispatcher
from refold.engine.fold import Fold
from refold.jetstream.frames import Frames, frame_parser
from refold.ports import RawBatch, RawMessage
from refold.subjects import SubjectScheme

SCHEME = SubjectScheme()
BLOCK = b"NATS/1.0\r\n\r\n"


class Where(msgspec.Struct, gc=False):
    city: str
    number: int = 7


@event("rich")
class Rich(msgspec.Struct, gc=False):
    """Every kind of field that the C part decodes by itself."""

    text: str
    count: int
    share: float
    price: Decimal
    at: datetime
    where: Where
    sure: bool = False
    note: str | None = None


class Told(View):
    told: str = ""


class Riches(Projector[Told], name="riches", aggregate="account", version=1):
    @on(Rich)
    def rich(self, view: Told, event: DomainEvent[Rich]) -> None:
        view.told += repr(event)


RICH = st.builds(
    Rich,
    text=st.text(max_size=5),
    count=st.integers(-(2**63), 2**63 - 1),
    share=st.floats(allow_nan=False, allow_infinity=False),
    price=st.decimals(-1000, 1000, places=2),
    at=st.datetimes(timezones=st.just(UTC)),
    where=st.builds(Where, city=st.sampled_from(["Springfield", "Zürich"]), number=st.integers(0, 9)),
    sure=st.booleans(),
    note=st.none() | st.text(max_size=3),
)
PAYLOADS = st.one_of(
    st.builds(Added, amount=st.integers(-5, 5), tags=st.lists(st.sampled_from("ab"), max_size=2)),
    st.just(Closed()),
    st.builds(Noted, text=st.sampled_from(["plain", "ü", 'q"', "\\"])),
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["1", "2", "a b", "ü", "per%cent", "x" * 300]), st.integers(1, 6), PAYLOADS), max_size=20
)
BREAKS = [
    (b'"id"', b'"ID"'),
    (b'"version":', b'"version":0'),
    (b'"version":', b'"version":-'),
    (b'"version":', b'"version":99999999999999999999'),
    (b'"version":', b'"version":1.5,"v":'),
    (b'"timestamp":"2026', b'"timestamp":"2026-'),
    (b"-01T", b"-31T"),
    (b"Z", b"+02:00"),
    (b"00Z", b"00123Z"),
    (b'"payload":', b'"payload":null,"payload":'),
    (b'"payload":', b'"other":1,"payload":'),
    (b'"payload":', b'"payload": '),
    (b"}}", b'},"payload_version":1}'),
    (b"}}", b'},"payload_version":2}'),
    (b"}}", b"}}}"),
    (b"}}", b"}"),
    (b"}}", b"}} "),
    (b'"aggregate_type":"account"', b'"aggregate_type":"acc"'),
    (b'"aggregate_id":"', b'"aggregate_id":"0'),
    (b'"event_type":"added"', b'"event_type":"noted"'),
    (b"amount", b"amont"),
    (b'"id":"', b'"id":"\\u0041'),
    (b'"id":"', b'"id":"\xff'),
    (b'"id":"', b'"id":"\x01'),
    (b"{", b"["),
    (b'"count":', b'"count":0'),
    (b'"share":', b'"share":-0,"shar":'),
    (b'"price":"', b'"price":"x'),
    (b'"where":{', b'"where":{"number":1.0,'),
    (b'"text":"', b'"text":"\\n'),
    (b"null", b"nul"),
    (b"true", b'"true"'),
    (b"}}", b'},"payload_version":01}'),
]
CHANGES = st.lists(st.none() | st.sampled_from(BREAKS), min_size=20, max_size=20)
TYPES = st.lists(st.sampled_from(["account"] * 8 + ["other", "a%63count", "%ff"]), min_size=20, max_size=20)


def framed(messages: list[RawMessage]) -> Frames | list[RawMessage]:
    """The messages as the C part has them."""
    parser = frame_parser(1, SCHEME)
    for number, (kind, key, name, position, headers, body) in enumerate(messages, 1):
        head = headers or BLOCK
        sizes = f"{len(head)} {len(head) + len(body)}"
        line = f"HMSG {kind}.{key}.{name} 1 $JS.ACK.S.C.1.{position}.{number}.1.0 {sizes}\r\n".encode()
        data = line + head + body + b"\r\n"
        space = parser.space()
        space[: len(data)] = data
        assert not parser.received(len(data))
    frames = parser.take()
    return [] if frames is None else frames


def told(fold: Fold[Any]) -> Any:
    keys = {key for key, _ in fold.cache.hot.items()}
    views = {key: repr(fold.view(key)) for key in sorted(keys)}
    return views, fold.counts, fold.faults, sorted(fold.troubled), fold.seen


def test_the_rich_event_is_decoded_in_c() -> None:
    assert speedups.dispatch is None or struct_decoder(Rich) is not None


@given(payloads=st.lists(RICH, max_size=8), changes=CHANGES)
def test_c_and_python_decode_the_same(payloads: list[Rich], changes: Any) -> None:
    messages: list[RawMessage] = []
    for position, (payload, change) in enumerate(zip(payloads, changes, strict=False), 1):
        e = DomainEvent(
            id=f"e{position}",
            aggregate_id="1",
            type="rich",
            aggregate_type="account",
            timestamp=payload.at if position % 2 else datetime(2026, 1, 1, microsecond=position, tzinfo=UTC),
            version=position,
            payload=payload,
            position=position,
        )
        body = JsonCodec().encode(e)[0]
        messages.append(("account", "1", "rich", position, BLOCK, body if change is None else body.replace(*change, 1)))
    results = []
    for batch in (framed(messages), messages):
        fold = Fold(Riches())
        Dispatcher([fold], JsonCodec(), SCHEME).apply(RawBatch(batch, len(messages)))
        results.append(told(fold))
    assert results[0] == results[1]


@pytest.mark.parametrize("codec", [JsonCodec(), CloudEventsCodec()], ids=lambda codec: codec.name)
@given(events=EVENTS, changes=CHANGES, types=TYPES)
def test_c_and_python_do_the_same(codec: Any, events: Any, changes: Any, types: Any) -> None:
    messages: list[RawMessage] = []
    for position, ((key, version, payload), change, kind) in enumerate(zip(events, changes, types, strict=False), 1):
        event = make(position, key, version, payload)
        body = codec.encode(event)[0]
        if change is not None:
            body = body.replace(*change, 1)
        messages.append((kind, SCHEME.encode(key), event.type, position, b"NATS/1.0\r\nA: b\r\n\r\n", body))
    results = []
    for batch in (framed(messages), messages):
        folds = [Fold(Totals()), Fold(ByTag())]
        for chosen in (folds[:1], folds):  # one projection alone, and two together
            fresh = [Fold(type(fold._projector)()) for fold in chosen]
            Dispatcher(fresh, codec, SCHEME).apply(RawBatch(batch, len(messages)))
            results.append([told(fold) for fold in fresh])
    assert results[0] == results[2]
    assert results[1] == results[3]


def test_events_have_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event made in C equals the one that the codec makes."""
    seen: list[Any] = []
    monkeypatch.setattr(Totals, "added", lambda self, view, event: seen.append(event))
    event = make(1, "7", 3, Added(5, ["x"]))
    headers = b"NATS/1.0\r\nNats-Msg-Id: e1\r\n\r\n"
    message: RawMessage = ("account", "7", "added", 1, headers, JsonCodec().encode(event)[0])
    for batch in (framed([message]), [message]):
        Dispatcher([Fold(Totals())], JsonCodec(), SCHEME).apply(RawBatch(batch, 1))
    in_c, in_python = seen
    assert in_c == in_python
    assert in_c.headers == {"Nats-Msg-Id": "e1"}
    assert (in_c.id, in_c.aggregate_id, in_c.payload, in_c.position, in_c.payload_version) == (
        "e1",
        "7",
        Added(5, ["x"]),
        1,
        1,
    )


if speedups.dispatch is not None:

    def test_types_that_nobody_wants_cost_no_closer_look(monkeypatch: pytest.MonkeyPatch) -> None:
        dispatcher = Dispatcher([Fold(Totals())], JsonCodec(), SCHEME)
        monkeypatch.setattr(dispatcher, "_fold", lambda message: pytest.fail(f"looked at {message}"))
        messages: list[RawMessage] = [("account", "1", f"type{n}", n, None, b"garbage") for n in range(1, 200)]
        messages += [("elsewhere", "1", "added", 200 + n, None, b"garbage") for n in range(100)]
        dispatcher.apply(RawBatch(framed(messages), 300))


def test_a_handler_may_let_go_of_views_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views that are fetched ahead may be gone when their events' turn comes."""
    fold = Fold(Totals(), capacity=4)
    events = [make(n, str(n % 30), n, Added(1) if n % 4 else Closed()) for n in range(1, 2_000)]
    messages: list[RawMessage] = [
        ("account", e.aggregate_id, e.type, e.position, None, JsonCodec().encode(e)[0]) for e in events
    ]
    Dispatcher([fold], JsonCodec(), SCHEME).apply(RawBatch(framed(messages), 2_000))
    plain = Fold(Totals())
    Dispatcher([plain], JsonCodec(), SCHEME).apply(RawBatch(messages, 2_000))
    assert {key: fold.view(key) for key in map(str, range(30))} == {key: plain.view(key) for key in map(str, range(30))}
