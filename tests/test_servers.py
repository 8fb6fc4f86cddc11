"""The fixtures themselves: each test has a server and a database of its own."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import create_engine, text

from refold.embedded import EmbeddedNats
from servers import fresh_database


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_an_empty_database(postgres_url: str, turn: int) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE turns AS SELECT 1 AS turn")
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM turns")).scalar() == 1
    engine.dispose()


def test_a_database_is_dropped_in_spite_of_its_clients(postgres: str) -> None:
    with fresh_database(postgres) as url:
        client = psycopg.connect(url)
    with client, pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


@pytest.mark.parametrize("turn", [1, 2])
async def test_one_nats_server_serves_all_tests(nats: EmbeddedNats, stream_name: str, turn: int) -> None:
    assert nats.running
    assert nats.url.endswith(str(nats.port))
    assert stream_name
