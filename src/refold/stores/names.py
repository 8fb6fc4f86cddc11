"""Names of tables and indexes: checked, and short enough that no database cuts them."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from refold.errors import DefinitionError

__all__ = ["CHECKPOINTS", "LETTERS", "MAX_NAME", "QUARANTINED", "SEEN", "check_name", "generation_table", "index_name"]

CHECKPOINTS: Final = "refold_checkpoints"
SEEN: Final = "refold_seen"
LETTERS: Final = "refold_dead_letters"
QUARANTINED: Final = "refold_quarantined"

MAX_NAME: Final = 40
"""Longest name of a projection; the rest of the identifier is for version and generation."""

_MAX_IDENTIFIER: Final = 63
_NAME: Final = re.compile(rf"[a-z_][a-z0-9_]{{0,{MAX_NAME - 1}}}", re.ASCII)
_RESERVED: Final = re.compile(r"(refold_|sqlite_|pg_).*|.*__v\d+g\d+", re.ASCII)


def check_name(name: str) -> str:
    """The name, where it can be that of a projection or of a plain table.

    Raises:
        DefinitionError: it cannot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(f"{name!r} cannot name a table: use 1 to {MAX_NAME} of a-z, 0-9 and _, no digit first")
    if _RESERVED.fullmatch(name):
        raise DefinitionError(f"{name!r} is kept for tables of refold or of the database: choose another name")
    return name


def generation_table(name: str, version: int, generation: int) -> str:
    """Name of the physical table of a generation, ``{name}__v{version}g{generation}``.

    Raises:
        DefinitionError: the name or the version cannot be part of it.
    """
    check_name(name)
    if version < 1 or version >= 10**9:
        raise DefinitionError(f"projection {name!r} has version {version}: use 1, 2, …")
    return f"{name}__v{version}g{generation}"


def index_name(table: str, column: str) -> str:
    """Name of a column's index. A long one is cut here, with a digest of the whole, before a database cuts it blindly."""
    whole = f"{table}_{column}_idx"
    if len(whole) <= _MAX_IDENTIFIER:
        return whole
    digest = blake2b(whole.encode(), digest_size=6).hexdigest()
    return f"{whole[: _MAX_IDENTIFIER - len(digest) - 1]}_{digest}"
