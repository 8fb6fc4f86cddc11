"""A stream in which everything is wrong that can be, end to end, against a fold in the plainest way."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from chaos_domain import (
    PROJECTORS,
    Accounts,
    Message,
    bad_end,
    check_faults,
    good_beginning,
    plain_fold,
    publish,
    shown,
    views_of,
)

from refold import App, RebuildLimits
from refold.errors import RebuildHalted

SEEN = sa.text("SELECT projection, generation, aggregate_id, version FROM refold_seen WHERE aggregate_type = 'account'")


async def begun(app: App) -> list[Message]:
    """A stream, of which a first good part was rebuilt, and which has a bad part now; all of its messages."""
    app.register(*PROJECTORS)
    script = good_beginning()
    await publish(app, script.messages)
    good = len(script.messages)
    before = plain_fold(script.messages, quarantine=True)
    for result in await app.rebuild():
        assert (result.complete, result.published, result.events) == (True, True, good)
        check_faults(result, before[result.projection])
        assert result.views == len(before[result.projection].views)
    assert await shown(app) == views_of(before)
    await publish(app, bad_end(script).messages[good:])
    return script.messages


async def check(app: App, policy: str) -> None:
    messages = await begun(app)
    before = await shown(app)
    expected = plain_fold(messages, quarantine=policy == "quarantine")
    for result in await app.rebuild(on_error=policy):
        assert (result.complete, result.published) == (False, False)
        check_faults(result, expected[result.projection])
    assert await shown(app) == before

    for result in await app.rebuild(on_error=policy, accept_incomplete=True):
        assert (result.complete, result.published) == (False, True)
        check_faults(result, expected[result.projection])
        assert result.views == len(expected[result.projection].views)
    assert await shown(app) == views_of(expected)


@pytest.mark.parametrize("policy", ["quarantine", "skip"])
async def test_what_is_wrong_is_recorded_and_the_rest_projected(app: App, speed: str, policy: str) -> None:
    await check(app, policy)


async def test_so_it_is_with_hardly_any_memory(make_app: Any, database_url: str) -> None:
    """Views go to the database and come back, while the faults happen."""
    limits = RebuildLimits(hot_views=6, packed_bytes=0, chunk_rows=2)
    async with make_app(database_url, limits=limits) as app:
        await app.create_stream()
        await check(app, "quarantine")


async def test_each_projector_has_a_policy_of_its_own(app: App) -> None:
    class Skipping(Accounts, name="skipping", aggregate="account", version=1, on_error="skip"):
        pass

    class Halting(Accounts, name="halting", aggregate="account", version=1, on_error="halt"):
        pass

    messages = await begun(app)
    app.register(Skipping, Halting)
    accounts, skipping = await app.rebuild(Accounts, Skipping, accept_incomplete=True)
    check_faults(accounts, plain_fold(messages, quarantine=True)["accounts"])
    check_faults(skipping, plain_fold(messages, quarantine=False)["accounts"])
    with pytest.raises(RebuildHalted, match="halting: position"):
        await app.rebuild(Accounts, Halting, accept_incomplete=True)


async def test_halt_stops_at_an_event_and_says_which(app: App, speed: str) -> None:
    messages = await begun(app)
    before = await shown(app)
    for name, expected in plain_fold(messages, quarantine=False).items():
        with pytest.raises(RebuildHalted, match=rf"{name}: position (\d+)") as caught:
            await app.rebuild(name, on_error="halt", accept_incomplete=True)
        first = min(position for position, *_ in expected.faults)
        assert f"{name}: position {first}:" in str(caught.value)
    assert await shown(app) == before
    assert {row["state"] for row in await app.store.checkpoints("chaos")} == {"active"}


@pytest.mark.parametrize("policy", ["quarantine", "skip"])
async def test_what_was_handled_is_known_of_every_aggregate(make_app: Any, lasting_url: str, policy: str) -> None:
    """By its row, or, where there is none or where rows are of several aggregates, by what was seen."""
    async with make_app(lasting_url) as app:
        await app.create_stream()
        messages = await begun(app)
        await app.rebuild(on_error=policy, accept_incomplete=True)
        active = {
            row["projection"]: row["generation"]
            for row in await app.store.checkpoints("chaos")
            if row["state"] == "active"
        }
        rows = await app.store.read(lambda connection: list(connection.execute(SEEN)))
        for name, expected in plain_fold(messages, quarantine=policy == "quarantine").items():
            found = {
                row.aggregate_id: row.version
                for row in rows
                if (row.projection, row.generation) == (name, active[name])
            }
            if name == "accounts":
                versions = {view.id: view.version for view in await app.views(Accounts).find_all()}
                found = {key: max(versions.get(key, 0), found.get(key, 0)) for key in versions | found}
            assert found == {key: version for key, version in expected.handled.items() if version}
        assert {(row.projection, row.generation) for row in rows} >= set(active.items())
