"""How projections stand: every state and every way between them, written once each, with since when and why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fold_domain import Added, Broke, Closed, Noted, Total, Totals
from live_support import Lab, told

from refold import DomainEvent, ErrorPolicy, Projector, on
from refold.engine.live.hooks import Quarantine
from refold.errors import EventsExpired, StreamNotFound
from refold.ports import LetterKind, Status, Wanted


class Halting(Projector[Total], name="totals", aggregate="account", version=1, on_error=ErrorPolicy.HALT):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount

    @on(Broke)
    def broke(self, view: Total, event: DomainEvent[Broke]) -> None:
        view.total += 1_000_000
        raise ValueError("broken on purpose")


class Mended(Projector[Total], name="totals", aggregate="account", version=1, on_error=ErrorPolicy.HALT):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount

    @on(Broke)
    def broke(self, view: Total, event: DomainEvent[Broke]) -> None:
        view.total += 7


class OtherColumns(Projector[Total], name="totals", aggregate="account", version=1):
    @on(Added, Closed)
    def added(self, view: Total, event: DomainEvent[Any]) -> None:
        view.total += 1


async def test_from_new_to_live_to_stopped() -> None:
    async with Lab(("a", Added(1)), ("b", Added(2))) as lab:
        process = lab.start(Totals)
        assert process.status() is Status.NEW
        await lab.stands(Status.LIVE)
        since = lab.checkpoint().since
        lab.publish(("a", Added(3)))
        await lab.reach()
        await process.stop()
        assert process.states() == ["rebuilding", "catching_up", "live"]
        written = [status for _, status, _ in lab.store.calls]
        assert written in ([Status.LIVE, Status.STOPPED], [Status.CATCHING_UP, Status.LIVE, Status.STOPPED])
        assert since is not None
        assert lab.checkpoint().status is Status.STOPPED
        assert lab.checkpoint().since >= since  # type: ignore[operator]
        await lab.check_totals()


async def test_what_stays_is_written_once() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        since, calls = lab.checkpoint().since, len(lab.store.calls)
        for _ in range(20):
            lab.publish(("a", Added(1)))
            await lab.reach()
        await asyncio.sleep(0.01)  # several ticks
        assert lab.checkpoint().since == since
        assert len(lab.store.calls) == calls


async def test_behind_is_catching_up() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await process.stop()
        gate = asyncio.Event()

        async def hold(*_: object) -> None:
            await gate.wait()

        lab.publish(*[("a", Added(1))] * 50)
        lab.store.before = hold
        process = lab.start(Totals)
        await lab.stands(Status.CATCHING_UP)
        gate.set()
        await lab.stands(Status.LIVE)
        await lab.reach()
        await lab.check_totals()


async def test_quarantined_views_degrade_and_say_how_many() -> None:
    async with Lab(("a", Added(1)), ("b", Added(2))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Broke()), ("b", Broke()), ("a", Added(1)))
        await lab.stands(Status.DEGRADED)
        await lab.until(lambda: "2 views" in lab.checkpoint().reason)
        assert "dead-letters" in lab.checkpoint().reason
        letters = [letter for one in told(Quarantine, process.told) for letter in one.letters]
        assert [(one.position, one.kind) for one in letters] == [
            (3, LetterKind.FAILED),
            (4, LetterKind.FAILED),
            (5, LetterKind.PARKED),
        ]
        assert process.states()[-1] == "degraded"
        await process.stop()
        again = lab.start(Totals)
        await lab.stands(Status.DEGRADED)
        assert again.states() == ["catching_up", "degraded"]
        await lab.check_totals()


async def test_details_of_batches() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        process.told.clear()
        lab.publish_as("a", 1, Added(5))
        await lab.reach()
        lab.publish_as("nobody", 1, Noted("x"))
        await lab.reach()
        lab.publish_as("b", 1, Added(7))
        await lab.reach()
        lab.publish_as("b", 2, Broke())
        await lab.reach()
        await lab.until(lambda: len(process.batches()) >= 4)
        duplicate, ignored, one, bad = (b for b in process.batches() if b.events)
        assert (duplicate.duplicates, duplicate.rows, duplicate.events, duplicate.position) == (1, 0, 1, 2)
        assert (ignored.ignored, ignored.rows) == (1, 0)
        assert (one.rows, one.letters, one.projections, one.pending) == (1, 0, ("totals",), 0)
        assert (bad.letters, bad.rows, bad.duplicates) == (1, 0, 0)
        assert 0 <= one.seconds < 5


async def test_duplicates_of_a_quarantined_view_are_not_counted_backwards() -> None:
    async with Lab(("a", Added(1)), ("a", Broke())) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.DEGRADED)
        lab.publish_as("a", 1, Added(1))
        await lab.reach()
        await lab.until(lambda: any(b.events for b in process.batches()))
        assert all(batch.duplicates >= 0 and batch.ignored >= 0 for batch in process.batches())


async def test_a_halted_projection_stands_right_before_its_event() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Halting)
        await lab.stands(Status.LIVE)
        lab.publish(("b", Added(2)), ("a", Added(3)), ("b", Broke()), ("a", Added(4)))
        await lab.stands(Status.FAULTED)
        assert lab.position() == 3
        assert await lab.totals() == {"a": 4, "b": 2}
        reason = lab.checkpoint().reason
        assert "position 4" in reason
        assert "'b'" in reason
        assert "refold skip totals --position 4" in reason
        assert "refold resume totals" in reason
        assert process.states()[-1] == "faulted"
        await process.stop()
        assert (lab.checkpoint().status, lab.checkpoint().reason) == (Status.FAULTED, reason)


async def test_other_projections_go_on_when_one_halts() -> None:
    class Others(Totals, name="others", aggregate="account", version=1):
        pass

    async with Lab(("a", Added(1))) as lab:
        lab.start(Halting, Others)
        await lab.stands(Status.LIVE)
        lab.publish(("b", Broke()), ("a", Added(4)))
        await lab.stands(Status.FAULTED)
        await lab.reach("others")
        lab.publish(("a", Added(5)))
        await lab.reach("others")
        assert lab.position() == 1
        await lab.check_totals("others")


async def test_halted_events_are_skipped_one_after_another() -> None:
    """Though they come in one batch, as after a restart."""
    async with Lab(("a", Added(1))) as lab:
        lab.start(Halting)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Broke()), ("b", Added(1)), ("b", Broke()), ("c", Broke()), ("c", Added(1)))
        for position in (2, 4, 5):
            await lab.until(lambda at=position: f"--position {at}" in lab.checkpoint().reason)
            await lab.store.skip("t", "totals", position)
        await lab.reach()
        await lab.stands(Status.LIVE)
        assert await lab.totals() == {"a": 1, "b": 1, "c": 1}
        assert await lab.letters() == [(2, "a", "skipped"), (4, "b", "skipped"), (5, "c", "skipped")]
        assert lab.checkpoint().skip is None


async def test_events_without_a_key_halt_in_their_order() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Halting)
        await lab.stands(Status.LIVE)
        lab.source.raw[2] = b"no envelope"
        lab.source.raw[4] = b"no envelope either"
        lab.publish(("a", Added(1)), ("b", Broke()), ("c", Added(1)), ("d", Added(1)))
        for position in (2, 3, 4):
            await lab.until(lambda at=position: f"--position {at}" in lab.checkpoint().reason)
            await lab.store.skip("t", "totals", position)
        await lab.reach()
        assert await lab.totals() == {"a": 1, "d": 1}
        assert [(at, key) for at, key, _ in await lab.letters()] == [(2, ""), (3, "b"), (4, "")]


async def test_a_faulted_projection_is_tried_again_by_order_and_after_a_restart() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Halting)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Broke()))
        await lab.stands(Status.FAULTED)
        process.told.clear()
        await lab.store.order("t", "totals", Wanted.RUN)
        await lab.until(lambda: process.states() == ["catching_up", "faulted"])
        await process.stop()
        assert lab.checkpoint().status is Status.FAULTED
        lab.start(Mended)
        await lab.stands(Status.LIVE)
        assert await lab.totals() == {"a": 8}


async def test_hooks_that_raise_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    def hook(detail: object) -> None:
        raise RuntimeError("a hook of the user's")

    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals, hook=hook, progress=hook)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Added(2)), ("b", Broke()))
        await lab.reach()
        await lab.check_totals()
    assert any(record.getMessage() == "a hook raised" for record in caplog.records)


async def test_another_stream_in_its_place_faults() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await process.stop()
        lab.source.created = "2027-01-01T00:00:00Z"
        lab.start(Totals)
        await lab.stands(Status.FAULTED)
        assert "refold reset totals" in lab.checkpoint().reason
        assert lab.position() == 1
        await lab.store.order("t", "totals", Wanted.REBUILD)
        await lab.stands(Status.LIVE)
        lab.publish(("a", Added(2)))
        await lab.reach()
        await lab.check_totals()


async def test_expired_events_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.stands(Status.LIVE)
        lab.source.interrupt(EventsExpired("the stream begins at 7"))
        await lab.stands(Status.FAULTED)
        assert "begins at 7" in lab.checkpoint().reason


async def test_a_stream_that_is_not_there_is_waited_for() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.source.missing = StreamNotFound("list")
        process = lab.start(Totals)
        await lab.until(lambda: "stream 'list' does not exist" in process.reason())
        assert process.status() is Status.NEW
        lab.source.missing = None
        await lab.stands(Status.LIVE)
        lab.source.missing = StreamNotFound("list")
        lab.source.interrupt(lab.source.missing)
        await lab.stands(Status.DEGRADED)
        assert "stream 'list' does not exist" in lab.checkpoint().reason
        lab.source.missing = None
        await lab.stands(Status.LIVE)


async def test_changed_code_with_the_same_version_faults_until_it_is_reset() -> None:
    async with Lab(("a", Added(1))) as lab:
        process = lab.start(Totals)
        await lab.stands(Status.LIVE)
        await process.stop()
        lab.publish(("a", Added(5)))
        process = lab.start(OtherColumns)
        await lab.stands(Status.FAULTED)
        assert "version=" in lab.checkpoint().reason
        assert "refold reset totals" in lab.checkpoint().reason
        await asyncio.sleep(0.01)
        assert lab.position() == 1
        commits = len(lab.store.commits)
        await lab.store.order("t", "totals", Wanted.REBUILD)
        await lab.stands(Status.LIVE)
        assert await lab.totals() == {"a": 2}
        assert all(old >= 2 for _, old, _ in lab.store.commits[commits:]), "the old rows were written by the new code"
