"""Stores: the databases that views can lie in. Each backend is imported when it is first opened."""

from __future__ import annotations

from urllib.parse import urlsplit

from refold.errors import ConfigurationError
from refold.ports.live import Database

__all__ = ["open_store"]


def open_store(url: str) -> Database:
    """The store of a database URL; nothing is connected before it is entered.

    Args:
        url: ``postgresql://user:password@host:port/database``, ``sqlite:///relative/path.db``,
            ``sqlite:////absolute/path.db`` or ``memory://``, which forgets everything with the process.

    Raises:
        ConfigurationError: the URL is none of these.
    """
    scheme = url.partition("://")[0] if isinstance(url, str) and "://" in url else ""
    if scheme in ("postgresql", "postgres"):
        from refold.stores.postgresql import PostgresStore

        return PostgresStore(url)
    if scheme == "sqlite":
        from refold.stores.sqlite import SqliteStore

        return SqliteStore(_path(url))
    if url == "memory://":
        from refold.stores.memory import MemoryStore

        return MemoryStore()
    raise ConfigurationError(
        "the database URL has no scheme that refold knows; use postgresql://user@host/database, sqlite:///path.db or "
        "memory://"
    )


def _path(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path[1:]
    if parts.netloc or not path or path == ":memory:" or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{url!r} names no file: use sqlite:///relative.db or sqlite:////absolute.db; memory:// keeps views in memory"
        )
    return path
