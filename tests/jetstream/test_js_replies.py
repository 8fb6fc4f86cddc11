"""Reply subjects of delivered messages, in both forms."""

from __future__ import annotations

import pytest

from refold.event import parse_headers
from refold.jetstream.replies import Delivery, header_block, parse_reply


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.ACK.ORDERS.C1.1.42.7.1700000000123456789.3",
        "$JS.ACK.hub.AbCdEf.ORDERS.C1.1.42.7.1700000000123456789.3",
        "$JS.ACK._.AbCdEf.ORDERS.C1.1.42.7.1700000000123456789.3.rand0m",
    ],
)
def test_both_forms_tell_the_same(subject: str) -> None:
    assert parse_reply(subject) == Delivery(position=42, delivery=7, stored_at=1700000000123456789, pending=3)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "_INBOX.abc",
        "$JS.ACK.S.C.1.2.3.4",
        "$JS.ACK.S.C.1.2.3.4.5.6",
        "$JS.ACK.S.C.1.two.3.4.5",
        "$JS.FC.S.C.1.2.3.4.5",
    ],
)
def test_other_subjects_are_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="not the reply subject"):
        parse_reply(subject)


def test_a_header_block_is_read_as_it_was_written() -> None:
    headers = {"Nats-Msg-Id": "ä-1", "X": "a: b"}
    block = header_block(headers)
    assert block is not None
    assert parse_headers(block) == headers
    assert header_block(None) is None
    assert header_block({}) is None
