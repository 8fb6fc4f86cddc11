"""Message frames of one JetStream delivery subscription, taken off the wire thousands at a time.

The work is done in C (`refold.speedups`) where that was built, else in Python. Protocol:
https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

import dataclasses

import refold.speedups as speedups
from refold.subjects import SubjectScheme

__all__ = ["FrameParser", "Frames"]


@dataclasses.dataclass(slots=True)
class Frames:
    """Messages as parallel lists, in the order of arrival; those whose subjects the scheme does not know are counted, not
    kept.

    Attributes:
        aggregate_types, aggregate_ids, event_types: tokens of the subjects, as encoded.
        headers: raw header blocks; None where a message has none.
        bodies: the bodies.
        positions: stream sequences.
        deliveries: consumer sequences of all messages, kept or not.
        pending: how many messages the consumer had left after the last one.
    """

    aggregate_types: list[str] = dataclasses.field(default_factory=list)
    aggregate_ids: list[str] = dataclasses.field(default_factory=list)
    event_types: list[str] = dataclasses.field(default_factory=list)
    headers: list[bytes | None] = dataclasses.field(default_factory=list)
    bodies: list[bytes] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    deliveries: list[int] = dataclasses.field(default_factory=list)
    pending: int = 0


class FrameParser:
    """Parses frames of one subscription.

    Args:
        sid: the subscription's id on the wire.
        scheme: how subjects are written.
        in_python: do without the C part.

    Attributes:
        frames: what was parsed since the last `take`.
    """

    def __init__(self, sid: int, scheme: SubjectScheme, *, in_python: bool = False) -> None:
        self._sid = str(sid)
        self._prefix = scheme.prefix + "." if scheme.prefix else ""
        self.frames = Frames()
        self._parse = self._in_python if in_python or speedups.parse is None else self._in_c

    def take(self) -> Frames:
        """What was parsed since the last call."""
        frames, self.frames = self.frames, Frames()
        return frames

    def parse(self, data: bytes) -> int:
        """Appends the message frames that data begins with to `frames`.

        Args:
            data: bytes as received, from the beginning of a frame.

        Returns:
            Where something else begins: another kind of frame, or one that is not all there.

        Raises:
            ValueError: a frame of the subscription is malformed.
        """
        return self._parse(data, self.frames)

    def _in_c(self, data: bytes, frames: Frames) -> int:
        end: int
        end, pending = speedups.parse(
            data,
            self._sid.encode(),
            self._prefix.encode(),
            frames.aggregate_types,
            frames.aggregate_ids,
            frames.event_types,
            frames.headers,
            frames.bodies,
            frames.positions,
            frames.deliveries,
        )
        if end:
            frames.pending = pending
        return end

    def _in_python(self, data: bytes, frames: Frames) -> int:
        position, skipped = 0, len(self._prefix)
        while (line_end := data.find(b"\r\n", position)) >= 0:
            words = data[position:line_end].decode("utf-8", "surrogateescape").split(" ")
            if not ((len(words) == 6 and words[0] == "HMSG") or (len(words) == 5 and words[0] == "MSG")):
                break
            if words[2] != self._sid:
                break
            body = line_end + 2 + (int(words[4]) if len(words) == 6 else 0)
            end = line_end + 2 + int(words[-1])
            if end < body:
                raise ValueError("a message frame has no valid sizes")
            if end + 2 > len(data):
                break
            reply = words[3].split(".")
            if len(reply) < 9 or len(reply) == 10:
                raise ValueError("a reply subject is none of JetStream's")
            # The later form has domain and account before, and may grow at its end; see `replies`.
            numbers = reply[5:] if len(reply) == 9 else reply[7:]
            frames.deliveries.append(int(numbers[1]))
            frames.pending = int(numbers[3])
            tokens = words[1][skipped:].split(".")
            if len(tokens) == 3 and words[1].startswith(self._prefix):
                frames.aggregate_types.append(tokens[0])
                frames.aggregate_ids.append(tokens[1])
                frames.event_types.append(tokens[2])
                frames.headers.append(data[line_end + 2 : body] if len(words) == 6 else None)
                frames.bodies.append(data[body:end])
                frames.positions.append(int(numbers[0]))
            position = end + 2
        return position
