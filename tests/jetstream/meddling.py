"""What a proxy does to the messages that a consumer sends."""

from __future__ import annotations

import re
from collections.abc import Callable

from jetstream_support import Filter

FRAME = re.compile(rb"H?MSG \S+ \d+ \$JS\.ACK\.(?:[^. ]+\.){3}(\d+)\.[^ ]+ (?:\d+ )?(\d+)\r\n")
"""The control line of a delivered message: its position, and the size of what follows."""


def split(data: bytes) -> tuple[dict[int, bytes], bytes]:
    """Delivered messages by position, and everything else."""
    frames: dict[int, bytes] = {}
    rest, at = b"", 0
    while found := FRAME.search(data, at):
        end = found.end() + int(found[2]) + 2
        rest += data[at : found.start()]
        frames[int(found[1])] = data[found.start() : end]
        at = end
    return frames, rest + data[at:]


def without(*positions: int) -> Filter:
    """Loses messages when they are delivered for the first time."""
    left = set(positions)

    def pass_on(data: bytes) -> bytes:
        frames, rest = split(data)
        lost = left & set(frames)
        left.difference_update(lost)
        return b"".join(frame for position, frame in frames.items() if position not in lost) + rest

    return pass_on


def mixing(change: Callable[[list[bytes]], list[bytes]]) -> Filter:
    """Changes the first lot of messages that comes at once."""
    done = False

    def pass_on(data: bytes) -> bytes:
        nonlocal done
        frames, rest = split(data)
        if done or len(frames) < 2:
            return data
        done = True
        return b"".join(change(list(frames.values()))) + rest

    return pass_on


def holding(chunks: int) -> Filter:
    """Keeps the first messages back until so much else has come."""
    held, left = b"", chunks

    def pass_on(data: bytes) -> bytes:
        nonlocal held, left
        frames, rest = split(data)
        if left <= 0 or not (frames or held):
            return data
        held += b"".join(frames.values())
        left -= not frames
        return rest if left > 0 else rest + held

    return pass_on


def truncating(position: int, then: Callable[[], None] = lambda: None) -> Filter:
    """Loses the end of a message when it is delivered for the first time, and then does something."""
    done = False

    def pass_on(data: bytes) -> bytes:
        nonlocal done
        frames, _ = split(data)
        if done or position not in frames:
            return data
        done = True
        then()
        end = data.index(frames[position]) + len(frames[position])
        return data[: end - 5] + data[end:]

    return pass_on
