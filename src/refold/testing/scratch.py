"""Databases for one history: nothing of them is left, and nothing of yours is touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from refold.ports import Database
from refold.stores import open_store

__all__ = ["scratch_database"]


@asynccontextmanager
async def scratch_database(url: str) -> AsyncIterator[Database]:
    """An empty database like that of a URL: in memory, in a temporary SQLite file, or in a schema of its own of a PostgreSQL.

    Raises:
        ConfigurationError: the URL is none that refold knows.
        StoreUnavailable: the database cannot be reached.
    """
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        with TemporaryDirectory(prefix="refold-testing-", ignore_cleanup_errors=True) as folder:
            async with open_store(f"sqlite:///{Path(folder) / 'views.db'}") as store:
                yield store
    elif scheme in ("postgresql", "postgres"):
        async with _schema(url) as own, open_store(own) as store:
            yield store
    else:
        async with open_store(url) as store:
            yield store


@asynccontextmanager
async def _schema(url: str) -> AsyncIterator[str]:
    """A URL that sees one new schema alone."""
    import psycopg
    from psycopg import sql

    from refold.errors import StoreUnavailable

    name = f"refold_testing_{uuid4().hex[:12]}"
    try:
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    except psycopg.Error as error:
        raise StoreUnavailable(f"no scratch schema for tests: {error}") from error
    async with connection:
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        try:
            yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"
        finally:
            await connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
