"""Frames off the wire: the C part and the Python part give the same, however the bytes are cut."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold import speedups
from refold.jetstream.frames import FrameParser
from refold.jetstream.wire import BulkProtocol
from refold.subjects import SubjectScheme

BODIES = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\r\nMSG a.b.c 7 x 3\r\n", b"HMSG ", b"x" * 70_000]))
SUBJECTS = st.sampled_from(["order.1.placed", "p.order.1.placed", "p.order.%2E.x", "p.a.b", "p.ü.b.c", "q.p.a.b.c"])
HEADERS = st.sampled_from([None, b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\nNats-Msg-Id: 1\r\nA: b\r\n\r\n"])
FORMS = [
    ("$JS.ACK.S.C", ""),
    ("$JS.ACK._.hash.S.C", ""),
    ("$JS.ACK.dom.hash.S.C", ".r4nd0m"),
    ("$JS.ACK.dom.hash.S.C", ".1.2.3.4"),
]
"""Beginnings and ends of reply subjects: the later form has domain and account, and may grow at its end."""
MESSAGES = st.lists(st.tuples(SUBJECTS, HEADERS, BODIES), max_size=12)


def frame(
    number: int,
    subject: str,
    headers: bytes | None,
    body: bytes,
    sid: int = 7,
    prefix: str = "$JS.ACK.S.C",
    suffix: str = "",
) -> bytes:
    reply = f"{prefix}.1.{number * 2}.{number}.1795492923191063897.{100 - number}{suffix}"
    if headers is None:
        return f"MSG {subject} {sid} {reply} {len(body)}\r\n".encode() + body + b"\r\n"
    sizes = f"{len(headers)} {len(headers) + len(body)}"
    return f"HMSG {subject} {sid} {reply} {sizes}\r\n".encode() + headers + body + b"\r\n"


def test_the_c_part_was_built() -> None:
    """Where there is a C compiler, as wherever these tests run, the quick way is what is tested."""
    assert speedups.parse is not None


class Inner(asyncio.Protocol):
    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data


@pytest.mark.parametrize("in_python", [False, True])
@pytest.mark.parametrize("prefix", ["", "p"])
@given(messages=MESSAGES, cuts=st.lists(st.integers(1, 300), min_size=1, max_size=5), form=st.sampled_from(FORMS))
def test_every_message_comes_whole_and_in_order(
    in_python: bool, prefix: str, messages: Any, cuts: list[int], form: tuple[str, str]
) -> None:
    """PINGs, other subscriptions' messages and status messages between them included."""
    start, rest = form
    data, other, statuses = b"", b"", 0
    for number, (subject, headers, body) in enumerate(messages, 1):
        data += frame(number, subject, headers, body, prefix=start, suffix=rest)
        if number % 3 == 0:
            noise = b"PING\r\n" + frame(number, "other", headers, body, sid=8)
            data, other = data + noise, other + noise
        if number % 4 == 0:
            data, statuses = data + b"HMSG _INBOX.x 7 32 32\r\nNATS/1.0 100 Idle Heartbeat\r\n\r\n \r\n", statuses + 1
    parser, inner, seen, errors = FrameParser(7, SubjectScheme("refold", prefix), in_python=in_python), Inner(), [], []
    protocol = BulkProtocol(inner, parser, 7, on_frames=lambda: None, on_status=seen.append, on_error=errors.append)
    position, i = 0, 0
    while position < len(data):
        size = cuts[i % len(cuts)] if len(data) < 20_000 else 9_999
        protocol.data_received(data[position : position + size])
        position, i = position + size, i + 1
    frames = parser.take()
    kept = []
    for number, (subject, headers, body) in enumerate(messages, 1):
        tokens = subject.split(".")
        if len(tokens) == (4 if prefix else 3) and (not prefix or tokens[0] == "p"):
            kept.append((*tokens[-3:], headers, body, number * 2))
    assert not errors
    assert frames.deliveries == list(range(1, len(messages) + 1))
    got = zip(
        frames.aggregate_types,
        frames.aggregate_ids,
        frames.event_types,
        frames.headers,
        frames.bodies,
        frames.positions,
        strict=True,
    )
    assert list(got) == kept
    assert (inner.got, len(seen)) == (other, statuses)
    assert frames.pending == (100 - len(messages) if messages else 0)


@pytest.mark.parametrize("in_python", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        b"HMSG a.b.c 7 $JS.ACK.S.C.1.1.1.1.1 9 4",
        b"MSG a.b.c 7 $JS.ACK.S.C.1.1.1.1 4",
        b"MSG a.b.c 7 $JS.ACK.d.S.C.1.1.1.1.1 4",
        b"MSG a.b.c 7 $JS.ACK.S.C.1.1.one.1.1 4",
        b"MSG a.b.c 7 _INBOX.a 4",
    ],
)
def test_a_malformed_frame_is_told_once_and_never_raised(in_python: bool, line: bytes) -> None:
    errors: list[Exception] = []
    parser = FrameParser(7, SubjectScheme(), in_python=in_python)
    protocol = BulkProtocol(
        Inner(), parser, 7, on_frames=lambda: None, on_status=lambda _: None, on_error=errors.append
    )
    protocol.data_received(line + b"\r\n0123\r\n")
    protocol.data_received(line + b"\r\n0123\r\n")
    assert len(errors) == 1
