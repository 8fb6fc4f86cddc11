"""Names of files as text: reversible for any bytes, harmless on a terminal, and usable as keys of views."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from refold.subjects import SubjectScheme

__all__ = ["MAX_KEY", "directories", "key_of", "path_text", "printable"]

MAX_KEY: Final = 1800
"""Longest key that is the text itself, in bytes of its subject token; longer ones are a digest."""

ROOT: Final = "."
"""How the top directory is written."""

# What could move a terminal's cursor, end a line or reverse the direction of writing.
_UNSEEMLY: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LETTERS: Final = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
_QUOTED: Final = tuple(
    f"\\{_LETTERS[byte]}" if byte in _LETTERS else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
    for byte in range(256)
)
_SCHEME: Final = SubjectScheme()


def path_text(path: bytes) -> str:
    """A path as text: as it is where it is harmless UTF-8, else in double quotes with git's (C's) escapes.

    Paths that start with a double quote are quoted too, so different paths never have the same text.
    """
    try:
        text = path.decode()
    except UnicodeDecodeError:
        text = '"'
    if text.startswith('"') or _UNSEEMLY.search(text):
        return '"' + "".join(map(_QUOTED.__getitem__, path)) + '"'
    return text


def key_of(text: str) -> str:
    """The key of a path or name: the text itself, or, where that is too long for one, a digest.

    A digest starts with a double quote and does not end with one, as no path's text does.
    """
    if 4 * 3 * len(text) <= MAX_KEY or len(_SCHEME.encode(text)) <= MAX_KEY:
        return text
    return '"sha256:' + hashlib.sha256(text.encode()).hexdigest()


def directories(text: str) -> list[str]:
    """Every directory that a path lies in, as texts, from the top one (``.``) down."""
    if text.startswith('"'):
        # Escapes never hold a slash. What is harmless without the rest of the path is written without quotes.
        parts = text[1:-1].split("/")[:-1]
        return [ROOT, *(path_text(_bytes("/".join(parts[: i + 1]))) for i in range(len(parts)))]
    parts = text.split("/")[:-1]
    return [ROOT, *("/".join(parts[: i + 1]) for i in range(len(parts)))]


def printable(text: str) -> str:
    r"""A text as a terminal can show it: what is no letter, mark, sign or space is escaped (``\n``, ``\u202e``)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_ESCAPE: Final = re.compile(r"\\([0-7]{3}|.)")
_BYTES: Final = {letter: chr(byte) for byte, letter in _LETTERS.items()}


def _bytes(escaped: str) -> bytes:
    return _ESCAPE.sub(lambda m: _BYTES.get(m[1]) or chr(int(m[1], 8)), escaped).encode("latin-1")
