"""Full projections aggregate by aggregate, on a real stream and real databases: they come to what a rebuild comes to."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from chaos_domain import Account, Accounts, Added, Closed, Noted, Script, good_beginning, plain_fold, publish

from refold import (
    AggregateProjector,
    App,
    DomainEvent,
    FullProjection,
    FullProjectionResult,
    FullProjectionTask,
    Projector,
    View,
    ViewRepository,
    on,
)
from refold.errors import DefinitionError, ProjectionError
from refold.view import ViewSchema

FULL = [FullProjection, FullProjectionTask]


class Seen(View):
    positions: list[int] = []


class ByHand(AggregateProjector[Seen]):
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.given: dict[str, list[int]] = {}

    def project(self, aggregate_type: str, aggregate_id: str, events: Iterable[DomainEvent[Any]]) -> Seen | None:
        self.given[aggregate_id] = [event.position for event in events]
        return Seen(aggregate_id, positions=self.given[aggregate_id])


async def full(kind: type[Any], app: App, projector: Any, repository: Any, **more: Any) -> Any:
    """A full projection of either kind."""
    if kind is FullProjection:
        return kind(app.event_reader, app.indexer, projector, repository, aggregate_type="account", **more)
    return kind(app.indexer, app.stream_reader, projector, repository, aggregate_type="account", **more)


async def table(app: App, view: type[View], name: str = "full") -> ViewRepository[Any]:
    await app.store.create_table(ViewSchema.of(view), name)
    return app.store.repository(ViewSchema.of(view), name)


async def rows(repository: ViewRepository[Any]) -> dict[str, dict[str, Any]]:
    return {view.id: msgspec.structs.asdict(view) for view in await repository.find_all()}


@pytest.mark.parametrize("kind", FULL)
async def test_it_comes_to_what_a_rebuild_comes_to(app: App, kind: type[Any]) -> None:
    """Once more, too, when there are more events; a view that was deleted in between does not stay."""
    app.register(Accounts)
    repository = await table(app, Account)
    script = good_beginning()
    published = 0
    for _ in range(3):
        await publish(app, script.messages[published:])
        published = len(script.messages)
        expected = plain_fold(script.messages, quarantine=True)["accounts"].views
        result = await (await full(kind, app, Accounts(), repository)).run()
        assert await rows(repository) == expected
        await app.rebuild()
        assert await rows(app.views(Accounts)) == expected
        ids = {message.subject[1] for message in script.messages}
        assert result == FullProjectionResult(len(ids), len(expected), len(ids) - len(expected))
        script.say("closed", "ann", 20)
        script.say("added", "dan", 2, amount=5, tags=["z"])
        script.say("noted", "gus", 1, text="no row")


@pytest.mark.parametrize("kind", FULL)
async def test_events_come_in_position_order_and_empty_aggregates_not_at_all(app: App, kind: type[Any]) -> None:
    app.register(Accounts)
    script = good_beginning()
    expected: dict[str, list[int]] = {}
    for position, message in enumerate(script.messages, 1):
        expected.setdefault(message.subject[1], []).append(position)
    only = {}
    if kind is FullProjection:  # a task reads everything for a projector that does not say what it wants
        only = {"event_types": ["added", "noted", "closed"]}
        script.garbage("", "empty", b"{}", kind="nobody wants this")
    await publish(app, script.messages)
    projector, repository = ByHand(), await table(app, Seen)
    result = await (await full(kind, app, projector, repository, **only)).run()
    assert projector.given == expected
    assert {view.id: view.positions for view in await repository.find_all()} == expected
    assert (result.views, result.empty) == (len(expected), len(only))


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("start", ["position", "time", "predicate"])
async def test_the_projectors_own_filter_holds(app: App, kind: type[Any], start: str) -> None:
    """Bodies of types that it has no handler for are not even decoded."""
    script = good_beginning()
    app.register(Accounts)
    await publish(app, script.messages)
    half, published = datetime.now(UTC), len(script.messages)
    script.say("added", "ann", 10, amount=7)
    script.garbage("", "ann", b"\xff", kind="unheard-of")
    script.say("added", "hal", 1, amount=1)
    await publish(app, script.messages[published:])
    filters: dict[str, dict[str, Any]] = {
        "position": {"start_position": published + 1},
        "time": {"start_time": half},
        "predicate": {"predicate": lambda event: event.aggregate_id in ("ann", "dan")},
    }

    class Filtered(Projector[Account], name="filtered", aggregate="account", version=1, **filters[start]):
        @on(Added)
        def added(self, view: Account, event: DomainEvent[Added]) -> None:
            view.total += event.payload.amount

    app.register(Filtered)
    repository = await table(app, Account)
    await (await full(kind, app, Filtered(), repository)).run()
    await app.rebuild(Filtered)
    found = await rows(repository)
    assert found == await rows(app.views(Filtered))
    assert set(found) == ({"ann", "dan"} if start == "predicate" else {"ann", "hal"})


async def test_a_task_skips_aggregates_without_wanted_events(app: App) -> None:
    class Closings(Projector[Account], name="closings", aggregate="account", version=1):
        @on(Closed)
        def closed(self, view: Account, event: DomainEvent[Closed]) -> None:
            view.total += 1

    app.register(Accounts, Closings)
    await publish(app, good_beginning().messages)
    repository = await table(app, Account)
    result = await (await full(FullProjectionTask, app, Closings(), repository)).run()
    assert result == FullProjectionResult(aggregates=5, views=1, empty=4)
    assert set(await rows(repository)) == {"cid"}


async def test_a_task_logs_how_far_it_is(app: App, caplog: pytest.LogCaptureFixture) -> None:
    app.register(Accounts)
    await publish(app, good_beginning().messages)
    caplog.set_level(logging.INFO, "refold")
    await (await full(FullProjectionTask, app, Accounts(), await table(app, Account), log_every=2)).run()
    told = [
        (r.message, getattr(r, "aggregate_type"), getattr(r, "aggregates"), getattr(r, "views"))  # noqa: B009
        for r in caplog.records
        if r.name == "refold.engine.full"
    ]
    assert [(message, kind, count) for message, kind, count, _ in told] == [
        ("full projection goes on", "account", 2),
        ("full projection goes on", "account", 4),
        ("full projection ended", "account", 5),
    ]
    assert told[-1][3] == 3


class Fragile(Projector[Account], name="fragile", aggregate="account", version=1):
    @on(Added)
    def added(self, view: Account, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount
        if event.payload.amount == 13:
            raise ValueError("unlucky")
        if event.payload.amount == 14:
            view.text = "a\0b"


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize(("amount", "reason"), [(13, "ValueError: unlucky"), (14, "NUL")])
async def test_an_error_names_the_aggregate_and_leaves_no_partial_update(
    app: App, kind: type[Any], amount: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.register(Fragile)
    repository = await table(app, Account)
    script = Script()
    for account in ("ann", "bob", "cid"):
        script.say("added", account, 1, amount=1)
    await publish(app, script.messages)
    task = await full(kind, app, Fragile(), repository)
    await task.run()
    before = await rows(repository)
    script.say("added", "bob", 2, amount=2)
    script.say("added", "bob", 3, amount=amount)
    script.say("added", "bob", 4, amount=2)
    await publish(app, script.messages[3:])
    with pytest.raises(ProjectionError, match=rf"account 'bob'.*{reason}") as caught:
        await task.run()
    assert caught.value.key == "bob"
    assert await rows(repository) == before
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert (getattr(record, "aggregate_type"), getattr(record, "aggregate_id")) == ("account", "bob")  # noqa: B009


async def test_a_body_that_cannot_be_read_names_the_aggregate(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """A task stops there; a full projection says so in the log, and goes on."""
    app.register(Accounts)
    script = Script()
    script.say("added", "ann", 1, amount=1)
    script.garbage("envelope", "ann", b"{nonsense")
    await publish(app, script.messages)
    repository = await table(app, Account)
    with pytest.raises(ProjectionError, match=r"account 'ann'.*position 2") as caught:
        await (await full(FullProjectionTask, app, Accounts(), repository)).run()
    assert (caught.value.key, await repository.count()) == ("ann", 0)
    caplog.clear()
    result = await (await full(FullProjection, app, Accounts(), repository)).run()
    assert (result.views, await repository.count()) == (1, 1)
    assert [getattr(r, "position") for r in caplog.records if r.levelno >= logging.ERROR] == [2]  # noqa: B009


async def test_a_stream_that_does_not_exist_is_empty(make_app: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with make_app("memory://") as app:
        app.register(Accounts)
        repository = await table(app, Account)
        for kind in FULL:
            caplog.clear()
            assert await (await full(kind, app, Accounts(), repository)).run() == FullProjectionResult(0, 0, 0)
            assert any("does not exist" in record.message for record in caplog.records)


# -- The newest events only ----------------------------------------------------------------------------------------------


class Latest(Projector[Account], name="latest", aggregate="account", version=1):
    """Each event says all that there is to say of its part."""

    @on(Added, replaces=True)
    def added(self, view: Account, event: DomainEvent[Added]) -> None:
        view.total = event.payload.amount

    @on(Noted, replaces=True)
    def noted(self, view: Account, event: DomainEvent[Noted]) -> None:
        view.text = event.payload.text


async def test_latest_only_comes_to_what_the_whole_history_comes_to(app: App) -> None:
    """But for created_at, which is that of the oldest event seen."""
    app.register(Latest)
    script = Script()
    for account in ("ann", "bob"):
        for version in range(1, 6):
            script.say("added", account, version * 2 - 1, amount=version)
            script.say("noted", account, version * 2, text=f"note {version}")
        script.say("added", account, 1, amount=1)  # again
        script.say("noted", account, 10, text="note 5")  # again
    await publish(app, script.messages)
    repository = await table(app, Account)
    await (await full(FullProjection, app, Latest(), repository, latest_only=True)).run()
    await app.rebuild()
    expected = await rows(app.views(Latest))
    found = await rows(repository)
    for row in (*expected.values(), *found.values()):
        row.pop("created_at")
    assert found == expected


async def test_latest_only_is_refused_where_it_would_be_wrong(app: App) -> None:
    class Half(Projector[Account], name="half", aggregate="account", version=1):
        @on(Added, replaces=True)
        def added(self, view: Account, event: DomainEvent[Added]) -> None: ...

        @on(Noted)
        def noted(self, view: Account, event: DomainEvent[Noted]) -> None: ...

    repository = await table(app, Account)
    with pytest.raises(DefinitionError, match=r"Half needs the whole history of noted; .*replaces=True"):
        await full(FullProjection, app, Half(), repository, latest_only=True)
    with pytest.raises(DefinitionError, match=r"ByHand does not declare .*replaces=True"):
        await full(FullProjection, app, ByHand(), repository, latest_only=True)
