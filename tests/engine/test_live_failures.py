"""Events and rows that fail while projections run: every policy, retries, dead letters taken up again."""

from __future__ import annotations

from typing import Any

import pytest
from fold_domain import Added, Broke, ByTag, Tags, Total, Totals
from live_support import Lab, told

from refold import DomainEvent, JsonCodec, Projector, SubjectScheme, on
from refold.engine.live.hooks import Retrying
from refold.engine.live.retry import discard, retry
from refold.engine.policy import Retry
from refold.errors import HandlerError, RowRefused
from refold.ports import Status
from refold.view import ViewSchema

SOON = {"wait_initial": 0.001, "wait_max": 0.002}


class Flaky(
    Projector[Total], name="totals", aggregate="account", version=1, on_error={OSError: Retry(attempts=3, **SOON)}
):
    failures = 0

    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount

    @on(Broke)
    def broke(self, view: Total, event: DomainEvent[Broke]) -> None:
        view.total += 100
        if Flaky.failures:
            Flaky.failures -= 1
            raise ConnectionError("for a moment")


def totals_with(policy: Any) -> Any:
    class Refusing(Totals, name="totals", aggregate="account", version=1, on_error=policy):
        pass

    return Refusing


class Mended(Projector[Total], name="totals", aggregate="account", version=1):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount

    @on(Broke)
    def broke(self, view: Total, event: DomainEvent[Broke]) -> None:
        view.total += 7


async def retried(lab: Lab, projector: Any, key: str) -> int:
    return await retry(lab.store, "t", projector, JsonCodec(), SubjectScheme(), key)


@pytest.mark.parametrize(("failures", "kind"), [(3, None), (4, "failed")])
async def test_a_handler_that_fails_for_a_moment_is_tried_again(failures: int, kind: str | None) -> None:
    Flaky.failures = 0
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Flaky)
        await lab.stands(Status.LIVE)
        Flaky.failures = failures * 3  # each attempt folds it quickly, then with care, then to count
        lab.publish(("a", Broke()), ("a", Added(1)))
        await lab.reach()
        assert await lab.totals() == {"a": 102 if kind is None else 1}
        assert [k for _, _, k in await lab.letters()] == ([] if kind is None else ["failed", "parked"])
        attempts = [one for one in told(Retrying, process.told) if one.what == "event"]
        assert len(attempts) == 3
        assert all("for a moment" in one.reason and one.wait > 0 for one in attempts)


@pytest.mark.parametrize("policy", ["quarantine", "skip", "halt"])
async def test_rows_that_the_database_refuses(policy: str) -> None:
    async with Lab(("a", Added(1)), ("b", Added(1))) as lab:
        process = lab.start(totals_with(policy))
        await lab.stands(Status.LIVE)
        lab.store.refuses = lambda projection, row: Totals.spec.schema.thaw(row).total == 666
        lab.publish(("a", Added(5)), ("b", Added(665)), ("a", Added(6)))
        if policy == "halt":
            await lab.stands(Status.FAULTED)
            assert lab.position() == 3
            await lab.store.skip("t", "totals", 4)
        await lab.reach()
        lab.publish(("b", Added(1)), ("a", Added(1)))
        await lab.reach()
        parked = policy == "quarantine"
        assert await lab.totals() == {"a": 13, "b": 1 if parked else 2}
        kinds = {"quarantine": [(4, "b", "failed"), (6, "b", "parked")]}.get(policy, [(4, "b", "skipped")])
        assert await lab.letters() == kinds
        await process.stop()
        lab.start(totals_with(policy))
        lab.publish(("b", Added(1)))
        await lab.reach()
        assert (await lab.totals())["b"] == (1 if parked else 3)


async def test_rows_of_keyed_views_that_the_database_refuses() -> None:
    async with Lab(("a", Added(1, ["x"]))) as lab:
        lab.start(ByTag)
        await lab.stands(Status.LIVE, "by_tag")
        lab.store.refuses = lambda projection, row: row[0] == "bad"
        lab.publish(("b", Added(1, ["x", "bad", "y"])), ("c", Added(1, ["bad", "y"])))
        await lab.reach("by_tag")
        views = await lab.store.repository(ViewSchema.of(Tags), "by_tag").find_all()
        assert {view.id: view.accounts for view in views} == {"x": ["a", "b"], "y": ["b", "c"]}
        assert {key for _, key, _ in await lab.letters("by_tag")} == {"bad"}
        lab.store.refuses = lambda projection, row: False
        assert await retry(lab.store, "t", ByTag(), JsonCodec(), SubjectScheme(), "bad") == 2
        lab.publish(("d", Added(1, ["bad"])))
        await lab.reach("by_tag")
        views = await lab.store.repository(ViewSchema.of(Tags), "by_tag").find_all()
        assert {view.id: view.accounts for view in views}["bad"] == ["b", "c", "d"]


async def test_a_row_refused_without_a_key_is_tried_again_after_a_while() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        refusing = True

        async def refuse(changes: Any, *_: object) -> None:
            if refusing and changes:
                raise RowRefused("some row", projection="totals")

        lab.store.before = refuse
        lab.publish(("a", Added(1)))
        await lab.until(lambda: process.status() is Status.DEGRADED)
        refusing = False
        await lab.reach()
        await lab.check_totals()


@pytest.mark.parametrize("running", [True, False])
async def test_dead_letters_are_applied_in_order(running: bool) -> None:
    async with Lab(("a", Added(1)), ("b", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Broke()), ("a", Added(2)), ("a", Added(3)))
        await lab.reach()
        with pytest.raises(HandlerError, match="fails again"):
            await retried(lab, Totals(), "a")
        assert len(await lab.letters()) == 3
        if not running:
            await process.stop()
        assert await retried(lab, Mended(), "a") == 3
        assert await lab.totals() == {"a": 13, "b": 1}
        assert await lab.letters() == []
        if not running:
            lab.start(Totals)
        lab.publish(("a", Added(10)))
        await lab.reach()
        assert await lab.totals() == {"a": 23, "b": 1}
        await lab.stands(Status.LIVE)


async def test_letters_that_come_in_between_are_applied_too() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Broke()))
        await lab.reach()
        resolve, times = lab.store.resolve, 0

        async def after_more(*args: Any, **options: Any) -> None:
            nonlocal times
            times += 1
            if times == 1:
                lab.publish(("a", Added(2)))
                await lab.reach()
            await resolve(*args, **options)

        lab.store.resolve = after_more  # type: ignore[method-assign]
        assert await retried(lab, Mended(), "a") == 2
        assert times == 2
        assert await lab.totals() == {"a": 10}
        lab.publish(("a", Added(5)))
        await lab.reach()
        assert await lab.totals() == {"a": 15}


async def test_discarded_letters_are_gone_for_good() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Broke()), ("a", Added(2)))
        await lab.reach()
        assert await discard(lab.store, "t", "totals", key="a", position=2) == 1
        assert await lab.letters() == [(3, "a", "parked")]
        lab.publish(("a", Added(4)))
        await lab.reach()
        assert await lab.totals() == {"a": 1}
        assert await retried(lab, Totals(), "a") == 2
        lab.publish(("a", Added(8)))
        await lab.reach()
        assert await lab.totals() == {"a": 15}
        await lab.stands(Status.LIVE)
