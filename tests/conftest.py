"""Fixtures for all tests: real servers, each test with names and databases of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from refold import speedups
from refold.embedded import EmbeddedNats
from servers import ServerNotStarted, fresh_database, nats_server_binary, postgres_server, run


@pytest.fixture(scope="session")
def nats() -> Iterator[EmbeddedNats]:
    """A running NATS server that all tests share: `url`, `port`. Use `stream_name`; do not stop it."""
    server = EmbeddedNats()
    run(server.__aenter__())
    try:
        yield server
    finally:
        run(server.__aexit__(None, None, None))


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Callable[..., EmbeddedNats]]:
    """Makes NATS servers for one test, to kill and configure: ``async with own_nats(config=...) as server``.

    Takes the arguments of `EmbeddedNats`, and `version` ("2.12") for a server of that minor version.
    """
    made: list[EmbeddedNats] = []
    number = count(1)

    def make(store: Path | None = None, *, version: str | None = None, **options: Any) -> EmbeddedNats:
        if version is not None:
            options["binary"] = nats_server_binary(version)
        options.setdefault("log", tmp_path / f"nats-{next(number)}.log")
        made.append(EmbeddedNats(store, **options))
        return made[-1]

    yield make
    left = [server for server in made if server.running]
    for server in left:
        run(server.__aexit__(None, None, None))
    assert not left, f"the test left {len(left)} NATS server(s) running: use 'async with'"


@pytest.fixture(scope="session")
def nats_versions() -> Callable[[str], Path]:
    """Gives the nats-server program of a minor version ("2.11", "2.12", "2.14", "2.15"), downloaded once."""
    return nats_server_binary


@pytest.fixture
def stream_name() -> str:
    """A stream name that no other test has; also good as a subject prefix."""
    return f"T{uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server: of our own, or REFOLD_TEST_DATABASE_URL, whose user may create databases."""
    given = os.environ.get("REFOLD_TEST_DATABASE_URL")
    if not given:
        with postgres_server() as url:
            yield url
        return
    try:
        psycopg.connect(given, connect_timeout=10).close()
    except psycopg.Error as error:
        raise ServerNotStarted(f"REFOLD_TEST_DATABASE_URL is set, but no PostgreSQL answers there: {error}") from error
    yield given


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """URL of a fresh PostgreSQL database for one test, dropped after it."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite database for one test, in a file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'views.db'}"


COMPILED = speedups.dispatch is not None


def pytest_report_header() -> str:
    return f"the C part was {'' if COMPILED else 'not '}built" + ("" if COMPILED else ", so its tests are left out")


@pytest.fixture(params=["compiled", "python"] if COMPILED else ["python"])
def speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the C part, and once more as where there was no compiler."""
    if request.param == "python":
        for name in speedups.__all__:
            monkeypatch.setattr(speedups, name, None)
    return str(request.param)
