"""One batch: messages that will be committed together, kept until they are, since a failure may need them again."""

from __future__ import annotations

import time

from refold.ports import RawBatch, RawMessage, anchor_of

__all__ = ["Batch"]


class Batch:
    """The messages between two checkpoints.

    Args:
        old: the position before it.

    Attributes:
        old: as given.
        last: the position after it.
        parts: the messages.
        count: how many there are.
        size: about how many bytes they have, by the first and the last of each part.
        pending: how many the stream had after the last one.
        began: when the first came, by `time.monotonic`; None while there is none.
    """

    def __init__(self, old: int) -> None:
        self.old = old
        self.last = old
        self.parts: list[RawBatch] = []
        self.count = self.size = 0
        self.pending = 0
        self.began: float | None = None

    def add(self, part: RawBatch) -> None:
        """Takes in what was read."""
        self.last = max(self.last, part.last)
        self.pending = part.pending
        if self.began is None:
            self.began = time.monotonic()
        if len(part):
            self.parts.append(part)
            self.count += len(part)
            self.size += len(part) * (len(part.messages[0][5]) + len(part.messages[-1][5])) // 2

    @property
    def moved(self) -> bool:
        """Whether it has got anywhere."""
        return self.last > self.old

    @property
    def age(self) -> float:
        """Seconds since the first part came; 0 while there is none."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    @property
    def anchor(self) -> str | None:
        """The anchor of its last message; None without messages."""
        return anchor_of(self.parts[-1].messages[-1]) if self.parts else None

    def message(self, position: int) -> RawMessage | None:
        """The message at a position."""
        for part in self.parts:
            if position <= part.last:
                found = part.message(position)
                if found is not None:
                    return found
        return None
