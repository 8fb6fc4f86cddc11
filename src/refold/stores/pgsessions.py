"""Who holds what in PostgreSQL: session locks as signs of life, and the end of sessions that hold others up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import psycopg

__all__ = ["end_sessions", "is_held", "life_key", "lock_key", "writer_key"]

_log = logging.getLogger(__name__)

_HOLDERS: Final = (
    "FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid <> pg_backend_pid() "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND ((classid::int8 << 32) | objid::int8) = ANY(%s::int8[])"
)


def lock_key(key: Sequence[Any]) -> int:
    """The number of an advisory lock."""
    digest = blake2b(repr(("refold", *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def life_key(app: str, projection: str, owner: str) -> int:
    """The lock that the holder of a claim has as long as it lives. Owners have names of their own, so nobody waits for it."""
    return lock_key(("life", app, projection, owner))


def writer_key(app: str, projection: str, owner: str) -> int:
    """The lock that every writer's session of a claim shares, so that a successor finds the session."""
    return lock_key(("writer", app, projection, owner))


def is_held(connection: psycopg.Connection[Any], key: int) -> bool:
    """Whether another session holds a lock."""
    row = connection.execute(f"SELECT EXISTS (SELECT {_HOLDERS})", [[key]], prepare=False).fetchone()
    return row is not None and bool(row[0])


def end_sessions(connection: psycopg.Connection[Any], keys: Sequence[int]) -> None:
    """Ends other sessions that hold any of some locks, so that nobody waits for a transaction which they left open.

    Where that is not permitted, it is only told: their transactions end by themselves, after a while.
    """
    try:
        connection.execute(f"SELECT pg_terminate_backend(pid) {_HOLDERS}", [list(keys)], prepare=False)
    except psycopg.errors.InsufficientPrivilege as error:
        _log.warning("a former writer's session may not be ended", extra={"reason": str(error)})
