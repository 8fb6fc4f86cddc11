"""Reading one's own writes: waiting for positions, and views of several projections at one of them."""

from __future__ import annotations

import asyncio

import pytest
from fold_domain import Added, Total, Totals, plain_totals, shown
from live_support import Lab

from refold.engine.live.waiting import read_at, wait_for
from refold.errors import WaitTimeout
from refold.ports import Status, Wanted
from refold.view import ViewSchema

BOTH = ["totals", "others"]
SCHEMA = ViewSchema.of(Total)


class Others(Totals, name="others", aggregate="account", version=1):
    pass


async def test_several_projections_are_waited_for() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals, Others)
        await wait_for(lab.store, "t", BOTH, lab.head, timeout=5.0)
        await lab.stands(Status.LIVE)
        waiting = asyncio.create_task(wait_for(lab.store, "t", BOTH, lab.head + 1, timeout=5.0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        lab.publish(("a", Added(1)))
        await waiting
        assert min(lab.position("totals"), lab.position("others")) == lab.head


async def test_what_does_not_come_in_time_is_told() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals)
        await lab.reach()
        with pytest.raises(
            WaitTimeout, match=r"totals is at 1, others is without views, waiting for position 5"
        ) as told:
            await wait_for(lab.store, "t", BOTH, 5, timeout=0.01)
        assert told.value.positions == {"totals": 1}


async def test_several_views_are_read_at_one_position_while_they_change() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals, Others)
        for _ in range(20):
            wanted = lab.publish(("a", Added(1)), ("b", Added(2)))
            async with read_at(lab.store, "t", BOTH, wanted, timeout=5.0) as at:
                lab.publish(("a", Added(3)))
                assert at.positions["totals"] == at.positions["others"] >= wanted
                await asyncio.sleep(0.002)
                expected = plain_totals(lab.source.events[: at.positions["totals"]])
                for name in BOTH:
                    assert {view.id: shown(view) for view in await at.repository(SCHEMA, name).find_all()} == expected


async def test_views_that_never_stand_at_one_position() -> None:
    async with Lab(("a", Added(1))) as lab:
        lab.start(Totals, Others)
        await lab.reach(*BOTH)
        await lab.store.order("t", "others", Wanted.PAUSE)
        await lab.stands(Status.PAUSED, "others")
        lab.publish(("a", Added(1)))
        await lab.reach("totals")
        with pytest.raises(WaitTimeout, match="others is at 1"):
            async with read_at(lab.store, "t", BOTH, 0, timeout=0.05):
                raise AssertionError("they stand at different positions")
