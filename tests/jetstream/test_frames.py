"""Frames off the wire: the C part and the Python part give the same, however the bytes are cut."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold import speedups
from refold.errors import ContinuityError
from refold.jetstream.frames import CAPACITY, FrameParser, frame_parser
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
    """All of it, or none; continuous integration demands it."""
    built = {name for name in speedups.__all__ if getattr(speedups, name) is not None}
    assert built == set(speedups.__all__) or not (built or os.environ.get("REFOLD_TEST_COMPILED"))


def receive(protocol: BulkProtocol, data: bytes) -> None:
    """As a transport does."""
    while data:
        space = protocol.get_buffer(-1)
        part, data = data[: len(space)], data[len(space) :]
        space[: len(part)] = part
        protocol.buffer_updated(len(part))


def taken(parser: FrameParser) -> list[Any]:
    found: list[Any] = []
    while (frames := parser.take()) is not None:
        found += list(frames)
    return found


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
    parser, inner = frame_parser(7, SubjectScheme("refold", prefix), in_python=in_python), Inner()
    seen: list[bytes] = []
    errors: list[Exception] = []
    protocol = BulkProtocol(inner, parser, 7, on_frames=lambda: None, on_status=seen.append, on_error=errors.append)
    position, i, got = 0, 0, []
    while position < len(data):
        size = cuts[i % len(cuts)] if len(data) < 20_000 else 9_999
        receive(protocol, data[position : position + size])
        position, i = position + size, i + 1
        if i % 3 == 0:
            got += taken(parser)
    got += taken(parser)
    kept = []
    for number, (subject, headers, body) in enumerate(messages, 1):
        tokens = subject.split(".")
        if len(tokens) == (4 if prefix else 3) and (not prefix or tokens[0] == "p"):
            kept.append((*tokens[-3:], number * 2, headers, body))
    assert not errors
    assert got == kept
    assert parser.delivered == len(messages)
    assert (inner.got, len(seen)) == (other, statuses)
    assert parser.pending == (100 - len(messages) if messages else 0)


@pytest.mark.parametrize("in_python", [False, True])
def test_messages_larger_than_a_buffer(in_python: bool) -> None:
    parser = frame_parser(7, SubjectScheme(), in_python=in_python)
    protocol = BulkProtocol(Inner(), parser, 7, on_frames=lambda: None, on_status=lambda _: None, on_error=pytest.fail)
    bodies = [b"a" * (3 * CAPACITY), b"b", b"c" * (CAPACITY - 100)]
    receive(protocol, b"".join(frame(n, "a.b.c", None, body) for n, body in enumerate(bodies, 1)))
    assert [message[5] for message in taken(parser)] == bodies


@pytest.mark.parametrize("in_python", [False, True])
def test_frames_that_are_kept_stay_as_they_are(in_python: bool) -> None:
    """Memory is used again, but not that of frames which somebody holds, nor after the parser is gone."""
    parser = frame_parser(7, SubjectScheme(), in_python=in_python)
    kept = []
    for number in range(1, 40):
        data = frame(number, "a.b.c", None, b"%d" % number * 1000)
        space = parser.space()
        space[: len(data)] = data
        assert not parser.received(len(data))
        frames = parser.take()
        if number % 3 == 0:
            kept.append((number, frames))
    del parser, space, frames
    assert [[message[5] for message in frames] for _, frames in kept] == [[b"%d" % n * 1000] for n, _ in kept]


@pytest.mark.parametrize("in_python", [False, True])
def test_truncating(in_python: bool) -> None:
    parser = frame_parser(7, SubjectScheme(), in_python=in_python)
    protocol = BulkProtocol(Inner(), parser, 7, on_frames=lambda: None, on_status=lambda _: None, on_error=pytest.fail)
    receive(protocol, b"".join(frame(n, "a.b.c", None, b"") for n in range(1, 6)))
    frames = parser.take()
    assert frames is not None
    assert frames.last == 10
    frames.truncate(7)
    assert [message[3] for message in frames] == [2, 4, 6]
    assert frames.last == 7


@pytest.mark.parametrize("in_python", [False, True])
@pytest.mark.parametrize("numbers", [[1, 2, 4], [2], [1, 2, 2], [1, 3, 2]])
def test_a_hole_or_a_repetition_is_told(in_python: bool, numbers: list[int]) -> None:
    errors: list[Exception] = []
    parser = frame_parser(7, SubjectScheme(), in_python=in_python)
    protocol = BulkProtocol(
        Inner(), parser, 7, on_frames=lambda: None, on_status=lambda _: None, on_error=errors.append
    )
    receive(protocol, b"".join(frame(number, "a.b.c", None, b"") for number in numbers))
    (error,) = errors
    assert isinstance(error, ContinuityError)
    assert "after position" in str(error)


@pytest.mark.parametrize("in_python", [False, True])
def test_positions_that_do_not_rise_are_told(in_python: bool) -> None:
    errors: list[Exception] = []
    parser = frame_parser(7, SubjectScheme(), in_python=in_python)
    protocol = BulkProtocol(
        Inner(), parser, 7, on_frames=lambda: None, on_status=lambda _: None, on_error=errors.append
    )
    data = frame(1, "a.b.c", None, b"") + frame(2, "a.b.c", None, b"").replace(b".1.4.2.", b".1.2.2.")
    receive(protocol, data)
    assert isinstance(errors[0], ContinuityError)


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
    parser = frame_parser(7, SubjectScheme(), in_python=in_python)
    protocol = BulkProtocol(
        Inner(), parser, 7, on_frames=lambda: None, on_status=lambda _: None, on_error=errors.append
    )
    receive(protocol, line + b"\r\n0123\r\n")
    receive(protocol, line + b"\r\n0123\r\n")
    assert len(errors) == 1


@pytest.mark.parametrize("in_python", [False, True])
def test_reply_subjects_with_further_tokens(in_python: bool) -> None:
    """Servers may add a token at the end of the longer form."""
    parser = frame_parser(7, SubjectScheme(), in_python=in_python)
    protocol = BulkProtocol(Inner(), parser, 7, on_frames=lambda: None, on_status=lambda _: None, on_error=pytest.fail)
    receive(protocol, b"MSG a.b.c 7 $JS.ACK.dom.hash.S.C.1.9.1.1795492923191063897.5.random 0\r\n\r\n")
    assert taken(parser) == [("a", "b", "c", 9, None, b"")]
    assert parser.pending == 5
