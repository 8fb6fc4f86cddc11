"""Who leaves out the messages that a filter does not want: the server, or the reader, by their subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from refold.filters import EventFilter
from refold.ports import RawMessage
from refold.subjects import SubjectScheme

__all__ = ["Selection"]

_FEW_SUBJECTS: Final = 10_000
_WINDOW: Final = 20_000
"""After so many messages it is seen how many of them were wanted."""
_EVERY: Final = 64
"""One message of so many is looked at."""


class Selection:
    """Whether a consumer is to have filter subjects: it pays where the server would leave out most messages.

    How many it would leave out it counts over all subjects of the stream, at about a microsecond each, and nobody gets
    anything from the stream meanwhile. So it is asked at once where subjects are few; where they are many, once it shows
    that most of what comes is unwanted.

    Args:
        wanted: the filter.
        scheme: how subjects are written.

    Attributes:
        subjects: the filter subjects; empty where all messages are wanted.
        asks: whether the server is to be asked.
        turned: whether that has shown while a consumer was read, so that another is to take its place.
    """

    def __init__(self, wanted: EventFilter, scheme: SubjectScheme) -> None:
        self.subjects = wanted.subjects(scheme)
        self.asks = self.turned = False
        self._types = _tokens(wanted.aggregate_types, scheme)
        self._names = _tokens(wanted.event_types, scheme)
        self._judged = 0
        self._good = 0.0

    def begin(self, subjects: int) -> None:
        """Takes note of a new consumer, and of how many subjects the stream has."""
        self.asks = self.asks or subjects <= _FEW_SUBJECTS
        self.turned = False
        self._judged, self._good = 0, 0.0

    def look(self, messages: Sequence[RawMessage]) -> None:
        """Takes note of messages that came; those whose subjects the scheme does not know are not among them."""
        if self.asks or not self.subjects:
            return
        some = [messages[i] for i in range(0, len(messages), _EVERY)]
        if some:
            self._good += len(messages) * sum(map(self._is_wanted, some)) / len(some)

    def judge(self, delivered: int) -> bool:
        """Says whether another consumer is to take the place of this one.

        Args:
            delivered: how many messages it has delivered: those that were looked at, and the others.
        """
        came = delivered - self._judged
        if not self.asks and self.subjects and came >= _WINDOW:
            self.asks = self.turned = 2 * self._good < came
            self._judged, self._good = delivered, 0.0
        return self.turned

    def _is_wanted(self, message: RawMessage) -> bool:
        return (self._types is None or message[0] in self._types) and (self._names is None or message[2] in self._names)


def _tokens(names: frozenset[str] | None, scheme: SubjectScheme) -> set[str] | None:
    return None if names is None else {scheme.encode(name) for name in names}
