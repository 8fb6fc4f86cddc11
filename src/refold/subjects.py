"""Subjects: ``[prefix.]{aggregate_type}.{aggregate_id}.{event_type}``.

The ``refold`` scheme percent-encodes every token as UTF-8, so that any text is a token and ``parse(format(x)) == x``. The
``raw`` scheme takes tokens literally, for streams of services that write their ids as they are.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple
from urllib.parse import quote, unquote

from refold.errors import ConfigurationError, SubjectError

__all__ = ["MAX_SUBJECT_BYTES", "Identity", "SchemeName", "SubjectScheme", "covers"]

MAX_SUBJECT_BYTES: Final = 2048
"""Longest subject that refold publishes to, in bytes; servers cut a control line off at 4,096."""

SchemeName = Literal["refold", "raw"]

# Left as they are, for subjects that people can read; '$' is not, because '$JS' and '$SYS' are the server's.
_SAFE: Final = "!&'()+,/:;=?@"
_UNSAFE_RAW: Final = re.compile(r"[\s.*>]")


def covers(pattern: str, subject: str) -> bool:
    """Whether a subject is one that a pattern (with ``*`` and ``>``) stands for."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        del tokens[len(wanted) :]
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


class Identity(NamedTuple):
    """Whose event it is: what a subject says."""

    aggregate_type: str
    aggregate_id: str
    event_type: str


class SubjectScheme:
    """How one stream writes identities as subjects.

    Args:
        name: ``refold`` (percent-encoded tokens) or ``raw`` (tokens as they are).
        prefix: dot-separated tokens before the aggregate type; none by default.

    Raises:
        ConfigurationError: the prefix is no subject, or the scheme is unknown.
    """

    __slots__ = ("_skip", "name", "prefix")

    def __init__(self, name: SchemeName = "refold", prefix: str = "") -> None:
        if name not in ("refold", "raw"):
            raise ConfigurationError(f"subject scheme {name!r} is not known; use 'refold' or 'raw'")
        if prefix and any(not t or _UNSAFE_RAW.search(t) for t in prefix.split(".")):
            raise ConfigurationError(f"subject prefix {prefix!r} has an empty token, a blank or a wildcard")
        self.name = name
        self.prefix = prefix
        self._skip = len(prefix.split(".")) if prefix else 0

    def __repr__(self) -> str:
        return f"SubjectScheme({self.name!r}, prefix={self.prefix!r})"

    def encode(self, token: str) -> str:
        """One token as it stands in a subject.

        Raises:
            SubjectError: the token is empty, is no valid Unicode, or the ``raw`` scheme cannot hold it.
        """
        if not token:
            raise SubjectError("an aggregate type, aggregate id or event type is empty")
        if self.name == "raw":
            if _UNSAFE_RAW.search(token):
                raise SubjectError(f"{token!r} cannot be a token of a raw subject; use the 'refold' scheme")
            return token
        try:
            return quote(token, safe=_SAFE).replace(".", "%2E")
        except UnicodeEncodeError as error:
            raise SubjectError(f"{token!r} is no valid Unicode text") from error

    def decode(self, token: str) -> str:
        """The text that `encode` made a token of.

        Raises:
            SubjectError: the escapes are no UTF-8.
        """
        if self.name == "raw" or "%" not in token:
            return token
        try:
            return unquote(token, errors="strict")
        except UnicodeDecodeError as error:
            raise SubjectError(f"subject token {token!r} is not percent-encoded UTF-8") from error

    def format(self, aggregate_type: str, aggregate_id: str, event_type: str) -> str:
        """The subject of an event.

        Raises:
            SubjectError: a token cannot be encoded, or the subject is longer than `MAX_SUBJECT_BYTES`.
        """
        subject = self._join(self.encode(aggregate_type), self.encode(aggregate_id), self.encode(event_type))
        if len(subject.encode()) > MAX_SUBJECT_BYTES:
            raise SubjectError(
                f"the subject of {aggregate_type} {aggregate_id[:40]!r}… is {len(subject.encode())} bytes long, "
                f"more than {MAX_SUBJECT_BYTES}: use a shorter id"
            )
        return subject

    def parse(self, subject: str) -> Identity:
        """The identity that a subject names.

        Raises:
            SubjectError: it has another prefix or another number of tokens.
        """
        tokens = subject.split(".")[self._skip :]
        if len(tokens) != 3 or not all(tokens) or not subject.startswith(self.prefix):
            raise SubjectError(f"subject {subject!r} is not {self._join('{aggregate type}', '{id}', '{event type}')}")
        return Identity(self.decode(tokens[0]), self.decode(tokens[1]), self.decode(tokens[2]))

    def pattern(
        self, aggregate_type: str | None = None, aggregate_id: str | None = None, event_type: str | None = None
    ) -> str:
        """The filter subject of what is given; None stands for any.

        Raises:
            SubjectError: a token cannot be encoded.
        """
        parts = [aggregate_type, aggregate_id, event_type]
        return self._join(*("*" if part is None else self.encode(part) for part in parts))

    def _join(self, *tokens: str) -> str:
        return ".".join((self.prefix, *tokens) if self.prefix else tokens)
