"""Signs of life beside an SQLite file: lock files, locked by SQLite itself, so that the lock ends with the process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

__all__ = ["is_living", "take_life"]


def take_life(path: Path) -> sqlite3.Connection | None:
    """A lock, held until the connection is closed, or None where another holds it; the file is made where it is not there."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        connection.close()
        return None
    return connection


def is_living(path: Path) -> bool:
    """Whether anybody holds a lock; no file is made."""
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            return False
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname == "SQLITE_BUSY"
