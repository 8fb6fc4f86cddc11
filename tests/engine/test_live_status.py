"""How projections stand, seen from outside: from checkpoints in any state, and from a stream that may be another one, or away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from refold import App, Checkpoint, DomainEvent, Projector, Status, View, Wanted, event, on
from refold.engine.live.status import ProjectionStatus, is_tended, look
from refold.errors import NatsUnavailable, NotPermitted, StreamError
from refold.ports import StreamState

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=15)


@event("placed")
class Placed(msgspec.Struct):
    pass


class Order(View):
    total: int = 0


class Orders(Projector[Order], name="orders", aggregate="order", version=2):
    @on(Placed)
    def placed(self, view: Order, event: DomainEvent[Placed]) -> None: ...


class FixedClock:
    def now(self) -> datetime:
        return NOW


class Catalog:
    """What a store says of checkpoints and letters."""

    def __init__(self, *rows: Checkpoint, letters: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.rows = rows
        self.letters = letters or {}

    async def generations(self, app: str, projection: str | None = None) -> Sequence[Checkpoint]:
        return self.rows

    async def letter_counts(self, app: str) -> Mapping[str, tuple[int, int]]:
        return self.letters


class Stream:
    """A stream that ends somewhere, its messages a minute old, or one that cannot be asked."""

    def __init__(self, last: int = 100, created: str = "then", *, away: StreamError | None = None) -> None:
        self.last = last
        self.created = created
        self.away = away
        self.ages_away: StreamError | None = None
        self.asked: list[int] = []

    async def state(self) -> StreamState:
        if self.away is not None:
            raise self.away
        return StreamState("shop", self.created, 1, self.last, self.last)

    async def stored(self, position: int) -> datetime | None:
        self.asked.append(position)
        if self.ages_away is not None:
            raise self.ages_away
        return NOW - timedelta(seconds=60)


def checkpoint(**changes: Any) -> Checkpoint:
    """The active generation of the current version, which runs."""
    usual: dict[str, Any] = {
        "app": "shop",
        "projection": "orders",
        "version": 2,
        "generation": 1,
        "table": "orders__v2g1",
        "role": "active",
        "stream": "shop",
        "created": "then",
        "position": 90,
        "owner": "host:1:abc",
        "status": Status.LIVE,
        "since": NOW - timedelta(hours=1),
        "renewed": NOW - timedelta(seconds=1),
    }
    return Checkpoint(**usual | changes)


async def stands(
    *rows: Checkpoint, stream: Stream | None = None, before: Sequence[ProjectionStatus] = (), **catalog: Any
) -> ProjectionStatus:
    catalog_of: Any = Catalog(*rows, **catalog)
    (found,) = await look(catalog_of, stream or Stream(), "shop", [Orders()], clock=FixedClock(), before=before)
    return found


async def test_one_that_runs() -> None:
    stream = Stream()
    found = await stands(checkpoint(), stream=stream, letters={"orders": (7, 2)})
    assert (found.status, found.position, found.head, found.lag_events, found.lag_seconds) == (
        Status.LIVE,
        90,
        100,
        10,
        60,
    )
    assert (found.dead_letters, found.quarantined, found.owner, found.unknown) == (7, 2, "host:1:abc", "")
    assert (found.since, found.reason, found.needs_help) == (NOW - timedelta(hours=1), "", False)
    assert stream.asked == [91]


async def test_at_the_head_nothing_lags() -> None:
    stream = Stream(last=90)
    found = await stands(checkpoint(), stream=stream)
    assert (found.lag_events, found.lag_seconds, stream.asked) == (0, 0.0, [])


async def test_what_was_never_built_has_no_position_and_no_lag() -> None:
    found = await stands()
    assert (found.status, found.version, found.head) == (Status.NEW, 2, 100)
    assert (found.position, found.lag_events, found.lag_seconds, found.rate) == (None, None, None, None)
    assert "never built" in found.reason
    assert not found.needs_help


async def test_a_first_generation_under_way() -> None:
    row = checkpoint(role="rebuilding", status=Status.REBUILDING, position=0, created=None, stream=None)
    found = await stands(row)
    assert (found.status, found.position, found.lag_events) == (Status.REBUILDING, None, None)
    assert found.building is not None
    assert (found.building.version, found.building.generation, found.building.owner) == (2, 1, "host:1:abc")


async def test_another_generation_under_way_beside_the_one_that_readers_see() -> None:
    found = await stands(
        checkpoint(), checkpoint(role="rebuilding", generation=2), checkpoint(role="retired", generation=0)
    )
    assert (found.status, found.generation, found.position) == (Status.LIVE, 1, 90)
    assert found.building is not None
    assert found.building.generation == 2


@pytest.mark.parametrize("status", [Status.LIVE, Status.CATCHING_UP, Status.DEGRADED, Status.REBUILDING])
async def test_one_whose_owner_gives_no_sign_of_life_is_stopped(status: Status) -> None:
    silent = checkpoint(status=status, renewed=NOW - timedelta(seconds=16), reason="before")
    found = await stands(silent)
    assert (found.status, found.since) == (Status.STOPPED, silent.renewed)
    assert found.reason.startswith("no sign of life from host:1:abc since 2026-01-01 11:59:44 UTC")
    assert not is_tended(silent, NOW, LEASE)
    assert (await stands(checkpoint(status=status, renewed=None))).status is Status.STOPPED
    assert (await stands(checkpoint(status=status, renewed=NOW - timedelta(seconds=15)))).status is status


@pytest.mark.parametrize("status", [Status.STOPPED, Status.PAUSED, Status.FAULTED])
async def test_one_that_was_ended_in_order_stays_as_it_was(status: Status) -> None:
    found = await stands(checkpoint(status=status, renewed=NOW - timedelta(days=1), reason="why"))
    assert (found.status, found.reason) == (status, "why")
    assert found.needs_help is (status is Status.FAULTED)


async def test_an_order_that_nobody_has_carried_out_yet_is_told() -> None:
    found = await stands(checkpoint(status=Status.STOPPED, wanted=Wanted.PAUSE))
    assert (found.wanted, found.reason) == (Wanted.PAUSE, "told to pause: whoever runs it will")


@pytest.mark.parametrize(
    ("version", "words"), [(1, "version 2 of the code is not built yet"), (3, "older than what readers see")]
)
async def test_another_version_than_that_of_the_code(version: int, words: str) -> None:
    found = await stands(checkpoint(version=version))
    assert found.version == version
    assert words in found.reason


async def test_a_stream_that_is_away() -> None:
    found = await stands(checkpoint(), stream=Stream(away=NatsUnavailable("no connection")))
    assert (found.position, found.head, found.lag_events, found.unknown) == (90, None, None, "no connection")
    assert not found.needs_help


async def test_a_stream_whose_messages_may_not_be_asked_for() -> None:
    stream = Stream()
    stream.ages_away = NotPermitted("may not")
    found = await stands(checkpoint(), stream=stream)
    assert (found.lag_events, found.lag_seconds, found.unknown, found.needs_help) == (10, None, "may not", False)


@pytest.mark.parametrize(
    ("row", "stream", "words"),
    [
        (checkpoint(), Stream(created="now"), "stream 'shop' was made anew"),
        (checkpoint(), Stream(last=89), "ends at 89, before its position"),
        (checkpoint(stream="other"), Stream(), "from stream 'other', and the app reads 'shop'"),
    ],
)
async def test_a_position_of_another_stream_is_no_lag(row: Checkpoint, stream: Stream, words: str) -> None:
    found = await stands(row, stream=stream)
    assert (found.position, found.lag_events, found.lag_seconds) == (90, None, None)
    assert words in found.unknown
    assert "refold reset orders" in found.unknown
    assert found.needs_help


async def test_the_rate_between_two_looks() -> None:
    before = ProjectionStatus(
        projection="orders", version=2, generation=1, position=70, looked=NOW - timedelta(seconds=4)
    )
    assert (await stands(checkpoint(), before=[before])).rate == 5.0
    assert (await stands(checkpoint(generation=2), before=[before])).rate is None
    assert (await stands(before=[before])).rate is None


async def test_the_app_tells_it_too(nats: Any, stream_name: str) -> None:
    settings = {"nats_url": nats.url, "stream": stream_name, "subject_prefix": stream_name}
    app = App("shop", environment=False, database_url="memory://", **settings)
    app.register(Orders)
    async with app.database_alone():
        (found,) = await app.status()
        assert (found.status, "does not exist" in found.unknown) == (Status.NEW, True)
        await app.create_stream()
        (found,) = await app.status(Orders)
        assert (found.head, found.unknown) == (0, "")
