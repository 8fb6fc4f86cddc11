"""Message frames of one JetStream delivery subscription, taken off the wire thousands at a time.

The work is done in C (`refold.speedups`) where that was built, else in Python. Protocol:
https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import refold.speedups as speedups
from refold.errors import ContinuityError
from refold.jetstream.replies import parse_reply
from refold.ports import RawMessage
from refold.subjects import SubjectScheme

__all__ = ["FrameParser", "Frames", "frame_parser"]

CAPACITY: Final = 2**20
"""Bytes of a buffer: so much is received at once at the most, unless a single message is larger."""


class Frames(Sequence[RawMessage], ABC):
    """Messages in the order of arrival; those whose subjects the scheme does not know are left out.

    Attributes:
        last: position of the last message that came with these, left out or not.
    """

    last: int

    @abstractmethod
    def truncate(self, until: int) -> None:
        """Drops the messages after a position."""


class FrameParser(ABC):
    """Parses frames of one subscription, and makes sure that each message follows the one before.

    Attributes:
        delivered: how many messages came, left out or not.
        last: position of the last of them; 0 before the first.
        pending: how many messages the consumer had left after the last one.
    """

    delivered: int
    last: int
    pending: int

    @abstractmethod
    def space(self) -> memoryview:
        """Where received bytes go; good until the next call of any method."""

    @abstractmethod
    def received(self, count: int) -> bool:
        """Parses the frames that so many new bytes complete.

        Returns:
            Whether something else than a frame of the subscription begins at `rest`.

        Raises:
            ContinuityError: a message does not follow the one before.
            ValueError: a frame of the subscription is malformed.
        """

    @abstractmethod
    def rest(self) -> bytes:
        """The bytes that are not parsed."""

    @abstractmethod
    def skip(self, count: int) -> bool:
        """Passes over bytes that are something else, and parses on; as `received`."""

    @abstractmethod
    def take(self) -> Frames | None:
        """Messages that came, in order; None where there are none."""


def frame_parser(sid: int, scheme: SubjectScheme, *, in_python: bool = False) -> FrameParser:
    """A parser of one subscription's frames.

    Args:
        sid: the subscription's id on the wire.
        scheme: how subjects are written.
        in_python: do without the C part.
    """
    prefix = scheme.prefix + "." if scheme.prefix else ""
    if in_python or speedups.Parser is None:
        return _PythonParser(str(sid), prefix)
    parser: FrameParser = speedups.Parser(str(sid).encode(), prefix.encode(), CAPACITY, ContinuityError)
    return parser


class _MessageList(list[RawMessage]):
    """Frames as the Python part has them."""

    last = 0

    def truncate(self, until: int) -> None:
        while self and self[-1][3] > until:
            self.pop()
        self.last = min(self.last, until)


class _PythonParser(FrameParser):
    def __init__(self, sid: str, prefix: str) -> None:
        self._sid = sid
        self._prefix = prefix
        self._data = b""
        self._space = bytearray(CAPACITY)
        self._messages = _MessageList()
        self.last = 0
        self.delivered = 0
        self.pending = 0

    def space(self) -> memoryview:
        return memoryview(self._space)

    def received(self, count: int) -> bool:
        self._data += self._space[:count]
        return self.skip(0)

    def rest(self) -> bytes:
        return self._data

    def skip(self, count: int) -> bool:
        position = count
        try:
            while (end := self._frame(position)) > 0:
                position = end
        finally:
            self._data = self._data[position:]
        return end < 0

    def take(self) -> Any:
        frames, self._messages = self._messages, _MessageList()
        return frames or None

    def _frame(self, position: int) -> int:
        """Where the frame that begins at a position ends; 0 where it is not all there, -1 where it is something else."""
        line_end = self._data.find(b"\r\n", position)
        if line_end < 0:
            return 0
        words = self._data[position:line_end].decode("utf-8", "surrogateescape").split(" ")
        if not ((len(words) == 6 and words[0] == "HMSG") or (len(words) == 5 and words[0] == "MSG")):
            return -1
        if words[2] != self._sid:
            return -1
        start, size = line_end + 2, int(words[-1])
        body = start + (int(words[4]) if len(words) == 6 else 0)
        if not start <= body <= start + size:
            raise ValueError("a message frame has no valid sizes")
        if start + size + 2 > len(self._data):
            return 0
        if self._data[start + size : start + size + 2] != b"\r\n":
            raise ValueError("a message frame does not end where it should")
        headers = self._data[start:body] if len(words) == 6 else None
        self._keep(words[1], words[3], headers, self._data[body : start + size])
        return start + size + 2

    def _keep(self, subject: str, reply: str, headers: bytes | None, body: bytes) -> None:
        at = parse_reply(reply)
        if at.delivery != self.delivered + 1 or at.position <= self.last:
            raise ContinuityError(
                f"after position {self.last} (delivery {self.delivered}) came position {at.position} "
                f"(delivery {at.delivery})"
            )
        self.delivered, self.pending = at.delivery, at.pending
        self.last = self._messages.last = at.position
        tokens = subject[len(self._prefix) :].split(".")
        if len(tokens) == 3 and subject.startswith(self._prefix):
            self._messages.append((tokens[0], tokens[1], tokens[2], at.position, headers, body))
