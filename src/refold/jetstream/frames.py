"""Message frames of one JetStream delivery subscription, taken off the wire thousands at a time.

Frames are parsed column by column with operations that run at the speed of C (split, slices, counts), under the assumption
that all frames of a chunk look alike: the same number of header lines, subjects of the expected depth, no line breaks in
bodies. The assumption is then verified in full, lengths included; where it does not hold, the chunk is walked frame by frame
by the lengths that the protocol gives. Protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

import dataclasses
from operator import sub
from typing import Final

import msgspec

from refold.subjects import SubjectScheme

__all__ = ["FrameParser", "Frames"]

_ints: Final = msgspec.json.Decoder(list[int]).decode
_DOTS: Final = str.maketrans(".", " ")


@dataclasses.dataclass(slots=True)
class Frames:
    """Messages as parallel lists, in the order of arrival; those whose subjects the scheme does not know are counted, not
    kept.

    Attributes:
        aggregate_types, aggregate_ids, event_types: tokens of the subjects, as encoded.
        headers: raw header blocks (the version line may be left out); None where a message has none.
        bodies: the bodies.
        positions: stream sequences.
        deliveries: consumer sequences of all messages, kept or not.
        pending: how many messages the consumer had left after the last one.
        size: bytes on the wire.
    """

    aggregate_types: list[str] = dataclasses.field(default_factory=list)
    aggregate_ids: list[str] = dataclasses.field(default_factory=list)
    event_types: list[str] = dataclasses.field(default_factory=list)
    headers: list[bytes | None] = dataclasses.field(default_factory=list)
    bodies: list[bytes] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    deliveries: list[int] = dataclasses.field(default_factory=list)
    pending: int = 0
    size: int = 0

    def extend(self, other: Frames) -> None:
        """Appends later messages."""
        self.aggregate_types += other.aggregate_types
        self.aggregate_ids += other.aggregate_ids
        self.event_types += other.event_types
        self.headers += other.headers
        self.bodies += other.bodies
        self.positions += other.positions
        self.deliveries += other.deliveries
        self.pending = other.pending
        self.size += other.size


class FrameParser:
    """Parses frames of one subscription.

    Args:
        sid: the subscription's id on the wire.
        scheme: how subjects are written.
    """

    def __init__(self, sid: int, scheme: SubjectScheme) -> None:
        self._sid = str(sid)
        self._prefix = scheme.prefix.split(".") if scheme.prefix else []

    def parse(self, data: bytes) -> tuple[Frames | None, int]:
        """The message frames that data begins with, and how many bytes they take.

        Args:
            data: bytes as received, from the beginning of a frame.

        Returns:
            The frames (None where there are none) and where something else begins: another kind of frame, or one that
            is not all there.

        Raises:
            ValueError: the bytes are not NATS protocol.
        """
        end = data.rfind(b"\r\nHMSG " if data[:5] == b"HMSG " else b"\r\nMSG ") + 2
        if end > 2:
            frames = self._columns(data[: end - 2])
            if frames is not None:
                frames.size = end
                return frames, end
        return self._walk(data)

    # -- All alike ---------------------------------------------------------------------------------------------------

    def _columns(self, data: bytes) -> Frames | None:
        """The frames of a chunk that ends with one (its line end cut off), if they are all alike."""
        with_headers = data[:1] == b"H"
        lines = data.split(b"\r\n")
        stride = lines.index(b"", 1) + 2 if with_headers and b"" in lines else 2
        count, rest = divmod(len(lines), stride)
        if rest:
            return None
        controls = b" ".join(lines[0::stride]).decode("utf-8", "surrogateescape").translate(_DOTS).split(" ")
        width, rest = divmod(len(controls), count)
        depth = len(self._prefix)
        reply = depth + 5  # where the reply subject begins: operation, prefix, three tokens, sid
        tail = width - (6 if with_headers else 5)  # where it ends in four numbers and the sizes
        if rest or tail < reply + 2:
            return None
        constant = ["HMSG" if with_headers else "MSG", *self._prefix, None, None, None, self._sid, *controls[reply:tail]]
        for i, word in enumerate(constant):
            if word is not None and controls[i::width].count(word) != count:
                return None
        bodies, headers = lines[stride - 1 :: stride], None
        total = _numbers(controls[width - 1 :: width])
        if with_headers:
            head = _numbers(controls[width - 2 :: width])
            headers = self._headers(lines, stride, count, head)
            if headers is None:
                return None
            total = list(map(sub, total, head))
        if list(map(len, bodies)) != total:
            return None
        return Frames(
            controls[depth + 1 :: width],
            controls[depth + 2 :: width],
            controls[depth + 3 :: width],
            headers or [None] * count,  # type: ignore[arg-type]  # bytes are bytes or None
            bodies,
            _numbers(controls[tail::width]),
            _numbers(controls[tail + 1 :: width]),
            int(controls[(count - 1) * width + tail + 3]),
        )

    def _headers(self, lines: list[bytes], stride: int, count: int, sizes: list[int]) -> list[bytes] | None:
        """The header lines of each frame after the first, if their sizes are right."""
        if lines[1::stride].count(b"NATS/1.0") != count or lines[stride - 2 :: stride].count(b"") != count:
            return None
        if stride == 5:
            blocks = lines[2::stride]
        else:
            blocks = list(map(b"\r\n".join, zip(*(lines[i::stride] for i in range(2, stride - 2)), strict=True)))
        overhead = len(b"NATS/1.0\r\n\r\n\r\n")
        return blocks if [len(block) + overhead for block in blocks] == sizes else None

    # -- Frame by frame ------------------------------------------------------------------------------------------------

    def _walk(self, data: bytes) -> tuple[Frames | None, int]:
        frames, position = Frames(), 0
        depth = len(self._prefix)
        while True:
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                break
            words = data[position:line_end].decode("utf-8", "surrogateescape").split(" ")
            if not (len(words) == 6 and words[0] == "HMSG" or len(words) == 5 and words[0] == "MSG"):
                break
            if words[2] != self._sid:
                break
            body = line_end + 2 + (int(words[4]) if len(words) == 6 else 0)
            end = line_end + 2 + int(words[-1])
            if end + 2 > len(data):
                break
            numbers = words[3].split(".")[-4:]
            if len(numbers) != 4:
                raise ValueError(f"reply subject {words[3]!r} is none of JetStream's")
            frames.deliveries.append(int(numbers[1]))
            frames.pending = int(numbers[3])
            tokens = words[1].split(".")
            if len(tokens) == depth + 3 and tokens[:depth] == self._prefix:
                frames.aggregate_types.append(tokens[depth])
                frames.aggregate_ids.append(tokens[depth + 1])
                frames.event_types.append(tokens[depth + 2])
                frames.headers.append(data[line_end + 2 : body] if len(words) == 6 else None)
                frames.bodies.append(data[body:end])
                frames.positions.append(int(numbers[0]))
            position = end + 2
        frames.size = position
        return (frames if position else None), position


def _numbers(words: list[str]) -> list[int]:
    return _ints("[" + ",".join(words) + "]")
