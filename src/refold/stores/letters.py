"""Dead letters as rows of refold's tables."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from refold.ports.letters import DeadLetter, LetterKind
from refold.view import MAX_KEY_BYTES

__all__ = ["letter_rows", "printable", "quarantined_rows", "quarantining", "storable"]


def letter_rows(key: tuple[str, str, int, int], letters: Sequence[DeadLetter]) -> list[tuple[Any, ...]]:
    """Rows of ``refold_dead_letters`` but for when they were recorded.

    Args:
        key: app, projection, version and generation.
        letters: which.
    """
    return [
        (
            *(*key, letter.position, storable(letter.key), letter.kind.value),
            *(printable(letter.reason), printable(letter.subject), letter.headers, letter.body),
        )
        for letter in letters
    ]


def quarantined_rows(key: tuple[str, str, int, int], letters: Sequence[DeadLetter]) -> list[tuple[Any, ...]]:
    """Rows of ``refold_quarantined``: the first failed letter of every key.

    Args:
        key: app, projection, version and generation.
        letters: which.
    """
    first = quarantining(letters)
    return [(*key, storable(name), letter.position, printable(letter.reason)) for name, letter in first.items()]


def storable(identity: str) -> str:
    """An aggregate's id or a view's key, or a digest of one that no column can hold (with a NUL, or too long): it is in no row
    of a view, and its events may be well all the same.
    """
    if identity.isascii() and len(identity) <= MAX_KEY_BYTES and "\0" not in identity:
        return identity
    encoded = identity.encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_KEY_BYTES and "\0" not in identity and printable(identity) == identity:
        return identity
    return f"blake2b:{blake2b(encoded, digest_size=20).hexdigest()}"


def quarantining(letters: Sequence[DeadLetter]) -> dict[str, DeadLetter]:
    """The first failed letter of every key: what quarantines it."""
    first: dict[str, DeadLetter] = {}
    for letter in letters:
        if letter.kind is LetterKind.FAILED and letter.key:
            first.setdefault(letter.key, letter)
    return first


def printable(text: str) -> str:
    """Text that every database takes: without NUL and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
