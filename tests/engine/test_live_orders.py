"""Orders and claims across processes: two runners on one store, takeovers, zombies, deployments."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fold_domain import Added, Broke, Total, Totals
from live_support import Lab, told

from refold import DomainEvent, JsonCodec, Projector, SubjectScheme, on
from refold.engine.live.hooks import StateChanged
from refold.engine.outcome import Progress
from refold.engine.rebuild import Rebuild
from refold.errors import ClaimHeld, ClaimLost, RebuildError
from refold.ports import Status, Wanted


class Doubled(Projector[Total], name="totals", aggregate="account", version=2):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += 2 * event.payload.amount

    @on(Broke)
    def broke(self, view: Total, event: DomainEvent[Broke]) -> None:
        raise ValueError("in version 2")


class Others(Totals, name="others", aggregate="account", version=1):
    pass


class TestClock:
    """A clock that tests move."""

    __test__ = False

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


async def rebuild(lab: Lab, projector: Any) -> None:
    await Rebuild(lab.source, lab.store, JsonCodec(), SubjectScheme(), app="t").run([projector])


# -- Orders --------------------------------------------------------------------------------------------------------------


async def test_pause_and_resume() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals, Others)
        await lab.stands(Status.LIVE)
        await lab.store.order("t", "totals", Wanted.PAUSE)
        await lab.stands(Status.PAUSED)
        assert "refold resume totals" in lab.checkpoint().reason
        lab.publish(("a", Added(2)))
        await lab.reach("others")
        assert lab.position() == 1
        await process.stop()
        assert lab.checkpoint().status is Status.PAUSED
        process = lab.start(Totals, Others)
        lab.publish(("a", Added(3)))
        await lab.reach("others")
        await lab.stands(Status.PAUSED)
        assert lab.position() == 1
        await lab.store.order("t", "totals", Wanted.RUN)
        await lab.reach()
        await lab.stands(Status.LIVE)
        await lab.check_totals()
        assert process.states() == ["paused", "catching_up", "live"]


async def test_orders_while_nobody_runs() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await process.stop()
        await lab.store.order("t", "totals", Wanted.PAUSE)
        process = lab.start(Totals)
        await lab.stands(Status.PAUSED)
        await process.stop()
        generation = lab.checkpoint().generation
        await lab.store.order("t", "totals", Wanted.REBUILD)
        lab.publish(("a", Added(2)))
        lab.start(Totals)
        await lab.until(lambda: lab.checkpoint().generation > generation)
        await lab.stands(Status.LIVE)
        assert lab.checkpoint().wanted is Wanted.RUN
        await lab.check_totals()


async def test_reset_builds_another_generation_beside_the_one_that_is_read() -> None:
    async with Lab(*[("a", Added(1))] * 30, batch=1) as lab:
        gate, seen = asyncio.Event(), []
        process = lab.start(Totals, progress=lambda p: seen.append(p))
        await lab.stands(Status.LIVE)
        first = lab.checkpoint()
        lab.source.gate = gate
        await lab.store.order("t", "totals", Wanted.REBUILD)
        await lab.stands(Status.REBUILDING)
        lab.publish(("a", Added(5)))
        await lab.reach()  # live goes on meanwhile, and readers see it
        assert lab.checkpoint().generation == first.generation
        await lab.check_totals()
        gate.set()
        await lab.until(lambda: lab.checkpoint().generation > first.generation)
        lab.publish(("a", Added(7)))
        await lab.reach()
        await lab.stands(Status.LIVE)
        await lab.check_totals()
        roles = [(g.generation, g.role) for g in await lab.store.generations("t", "totals")]
        assert roles == [(1, "retired"), (2, "active")]
        assert lab.checkpoint().wanted is Wanted.RUN
        assert process.states()[-3:] == ["rebuilding", "catching_up", "live"]
        assert all(isinstance(p, Progress) for p in seen)


async def test_a_pause_during_a_reset_outlives_it() -> None:
    async with Lab(*[("a", Added(1))] * 30, batch=1) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.source.gate = asyncio.Event()
        await lab.store.order("t", "totals", Wanted.REBUILD)
        await lab.stands(Status.REBUILDING)
        await lab.store.order("t", "totals", Wanted.PAUSE)
        lab.source.gate.set()
        await lab.until(lambda: lab.checkpoint().generation == 2)
        await lab.stands(Status.PAUSED)
        await asyncio.sleep(0.01)
        assert (lab.checkpoint().status, lab.checkpoint().wanted) == (Status.PAUSED, Wanted.PAUSE)


async def test_a_reset_that_comes_out_incomplete_is_told_and_changes_nothing() -> None:
    async with Lab(("a", Added(1)), ("a", Broke())) as lab:
        lab.start(Totals)
        await lab.stands(Status.DEGRADED)
        lab.publish(("b", Added(1)))
        await lab.reach()
        await lab.store.order("t", "totals", Wanted.REBUILD)
        await lab.until(lambda: lab.checkpoint().wanted is Wanted.RUN)
        lab.publish(("b", Added(2)))
        await lab.reach()
        assert lab.checkpoint().generation == 1
        await lab.until(lambda: "built incompletely" in lab.checkpoint().reason)
        assert lab.checkpoint().status is Status.DEGRADED
        await lab.check_totals()


async def test_a_reset_waits_for_a_stream_that_is_away() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.source.stateless = 3
        await lab.store.order("t", "totals", Wanted.REBUILD)
        await lab.until(lambda: lab.checkpoint().generation == 2)
        await lab.stands(Status.LIVE)
        assert lab.source.stateless == 0
        assert "degraded" in process.states()


# -- Claims --------------------------------------------------------------------------------------------------------------


async def test_a_second_runner_commits_nothing_and_says_why() -> None:
    async with Lab(("a", Added(1))) as lab:
        first = lab.start(Totals)
        await lab.stands(Status.LIVE)
        second = lab.start(Totals, lease=0.02, grace=0.01)
        lab.publish(*[("a", Added(1))] * 5)
        with pytest.raises(ClaimHeld, match="is run by"):
            await second.task
        lab.publish(("a", Added(1)))
        await lab.reach()
        assert not second.batches()
        assert not first.task.done()
        await lab.check_totals()


async def test_what_others_do_not_hold_is_run_meanwhile() -> None:
    async with Lab(("a", Added(1))) as lab:
        first = lab.start(Totals)
        await lab.stands(Status.LIVE)
        second = lab.start(Totals, Others)
        await lab.stands(Status.LIVE, "others")
        assert second.status() is Status.STOPPED
        await first.stop()
        await lab.stands(Status.LIVE)
        assert second.states()[-1] == "live"


async def test_what_another_process_holds_is_waited_for_as_long_as_there_is_other_work() -> None:
    """As in a deployment: whoever has the rest must not be left without anybody to follow it."""
    async with Lab(("a", Added(1))) as lab:
        first = lab.start(Totals)
        await lab.stands(Status.LIVE)
        second = lab.start(Totals, Others, lease=0.02, grace=0.01)
        clock = asyncio.get_running_loop().time
        patience = clock() + 0.1
        await lab.until(lambda: clock() > patience)
        assert [state for state in second.states() if state == "stopped"] == ["stopped"]
        waits = [one for one in told(StateChanged, second.told) if one.projection == "totals"]
        assert len({one.reason for one in waits}) == 1
        await first.stop()
        await lab.stands(Status.LIVE)
        lab.publish(("a", Added(2)))
        await lab.reach()
        assert second.status() is Status.LIVE


async def test_of_a_dead_process_everything_is_taken_over() -> None:
    async with Lab(("a", Added(1))) as lab:
        first = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await first.kill()
        lab.publish(("a", Added(2)))
        lab.start(Totals)
        await lab.reach()
        await lab.check_totals()


async def test_a_zombie_stops() -> None:
    clock = TestClock()
    async with Lab(("a", Added(1)), clock=clock) as lab:
        first = lab.start(Totals, tick=1_000.0)
        await lab.until(lambda: first.status() is Status.LIVE)
        asleep = asyncio.Event()

        async def sleep(*_: object) -> None:
            lab.store.before = None
            asleep.set()
            await woken.wait()

        woken = asyncio.Event()
        lab.store.before = sleep
        lab.publish(("a", Added(2)))
        await asleep.wait()
        clock.time += timedelta(seconds=61)
        second = lab.start(Totals)
        await lab.reach()
        lab.publish(("a", Added(3)))
        await lab.reach()
        woken.set()
        with pytest.raises(ClaimHeld, match=r"is run by"):
            await first.task
        lab.publish(("a", Added(4)))
        await lab.reach()
        assert not second.task.done()
        await lab.check_totals()


async def test_an_idle_zombie_stops_too() -> None:
    clock = TestClock()
    async with Lab(("a", Added(1)), clock=clock) as lab:
        first = lab.start(Totals, tick=0.05)
        await lab.stands(Status.LIVE)
        clock.time += timedelta(seconds=61)
        lab.start(Totals, tick=0.001)
        with pytest.raises(ClaimHeld):
            await first.task


async def test_older_code_does_not_run_and_newer_code_takes_over() -> None:
    async with Lab(("a", Added(1))) as lab:
        old = lab.start(Totals)
        await lab.stands(Status.LIVE)
        new = lab.start(Doubled)
        await lab.until(lambda: lab.checkpoint().version == 2)
        with pytest.raises(ClaimLost, match="version 2 of totals is active"):
            await old.task
        await lab.stands(Status.LIVE)
        assert await lab.totals() == {"a": 2}
        commits = len(lab.store.commits)
        with pytest.raises(ClaimLost, match="deploy the newer code"):
            await lab.start(Totals).task
        assert len(lab.store.commits) == commits
        assert lab.checkpoint().version == 2
        await rebuild(lab, Totals())  # somebody goes back, and means it
        with pytest.raises(ClaimLost, match="went back to version 1"):
            await new.task
        assert lab.checkpoint().version == 1


async def test_a_new_version_that_is_incomplete_is_not_put_in_place() -> None:
    async with Lab(("a", Added(1))) as lab:
        old = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await old.stop()
        lab.publish(("a", Broke()))
        new = lab.start(Doubled)
        with pytest.raises(RebuildError, match=r"refold rebuild totals --accept-incomplete"):
            await new.task
        assert lab.checkpoint().version == 1
        assert new.states() == ["rebuilding", "faulted"]


async def test_what_has_no_views_yet_is_put_in_place_though_a_new_version_beside_it_is_not() -> None:
    async with Lab(("a", Added(1)), ("b", Broke())) as lab:
        first = lab.start(Totals)
        await lab.stands(Status.DEGRADED)
        await first.stop()
        second = lab.start(Doubled, Others)
        await lab.stands(Status.DEGRADED, "others")
        await lab.until(lambda: "built incompletely" in second.reason())
        assert lab.checkpoint().version == 1
        assert await lab.totals("others") == {"a": 1}


async def test_another_process_rebuilds_the_same_version() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Added(2)))
        await lab.reach()
        await rebuild(lab, Totals())
        lab.publish(("a", Added(3)))
        await lab.reach()
        assert lab.checkpoint().generation == 2
        await lab.check_totals()
        assert not process.task.done()
        assert process.status() is not Status.FAULTED


async def test_a_database_restored_from_a_backup_is_taken_up_where_it_is() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        generation = lab.store.active("t", "totals")
        assert generation is not None
        backup = dict(generation.rows), generation.checkpoint
        lab.publish(*[("a", Added(2)), ("b", Added(1))] * 3)
        await lab.reach()
        generation.rows = backup[0]
        generation.checkpoint = backup[1]
        lab.publish(("a", Added(3)))
        await lab.reach()
        await lab.check_totals()


async def test_claims_are_released_whichever_way_it_ends() -> None:
    async with Lab(("a", Added(1))) as lab:
        for way in ("stop", "cancel"):
            process = lab.start(Totals)
            await lab.stands(Status.LIVE)
            if way == "stop":
                await process.stop()
            else:
                process.task.cancel()
                await asyncio.gather(process.task, return_exceptions=True)
            assert lab.checkpoint().status is Status.STOPPED
            assert not lab.store._lives
