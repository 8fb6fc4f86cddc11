"""Any history, any batches, any size of memory, any policy: rebuild, project() and the plain fold are one, on every store."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from fold_domain import START, ListSource
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from plain_fold import PROJECTORS, RIGHT, WRONG, Changed, Outcome, OwnThings, Thing, Touched, outcome

from refold import DomainEvent, ErrorPolicy, JsonCodec, RebuildLimits, SubjectScheme
from refold.engine.outcome import RebuildResult
from refold.engine.policy import ErrorPolicies
from refold.engine.rebuild import Rebuild
from refold.errors import RebuildHalted
from refold.ports import ViewStore
from refold.stores import open_store
from refold.stores.memory import MemoryStore
from refold.view import ViewSchema

GOOD = ["add"] * 10 + ["delete"] * 4 + ["mend"] * 8 + ["replace", "return", "rename", "keep", "keep", "grow", "grow"]
ACTS = st.sampled_from(
    [(act, None) for act in GOOD]
    + [("right", field) for field in RIGHT]
    + [("wrong", how) for how in WRONG]
    + [("raise", None), ("nonsense", None)]
)
TAGS = st.lists(st.sampled_from(["x", "y", "z%.*", "", "n\0"]), max_size=3)
HISTORY = st.lists(
    st.tuples(
        st.sampled_from([Changed, Touched]),
        st.sampled_from(["a", "b.1", "ünï", "d", "e"]),
        st.integers(1, 9),
        ACTS,
        TAGS,
    ),
    max_size=40,
)
LIMITS = st.builds(
    RebuildLimits,
    hot_views=st.integers(1, 8),
    packed_bytes=st.sampled_from([0, 0, 500, 10**9]),
    chunk_rows=st.integers(1, 3),
)
POLICIES = st.sampled_from([ErrorPolicy.QUARANTINE, ErrorPolicy.SKIP])


def events_of(history: Sequence[Any]) -> list[DomainEvent[Any]]:
    return [
        DomainEvent(
            id=f"e{position}",
            aggregate_id=aggregate,
            type=kind.__name__.lower(),
            aggregate_type="thing",
            timestamp=START.replace(second=position),
            version=version,
            payload=kind(act, value, tags),
            position=position,
        )
        for position, (kind, aggregate, version, (act, value), tags) in enumerate(history, 1)
    ]


async def rebuilt(
    store: ViewStore, events: list[DomainEvent[Any]], batch: int, limits: RebuildLimits, policy: ErrorPolicy
) -> list[RebuildResult]:
    policies = {projector.spec.name: ErrorPolicies(policy) for projector in PROJECTORS}
    source = ListSource(events, batch)
    rebuild = Rebuild(source, store, JsonCodec(), SubjectScheme(), app="t", limits=limits, policies=policies)
    return await rebuild.run([projector() for projector in PROJECTORS], accept_incomplete=True)


async def check(
    store: ViewStore, events: list[DomainEvent[Any]], batch: int, limits: RebuildLimits, policy: ErrorPolicy
) -> None:
    results = await rebuilt(store, copy.deepcopy(events), batch, limits, policy)
    for projector, result in zip(PROJECTORS, results, strict=True):
        expected = outcome(projector, events, quarantine=policy is ErrorPolicy.QUARANTINE)
        views = {v.id: v for v in await store.repository(ViewSchema.of(Thing), projector.spec.name).find_all()}
        assert views == expected.views, projector
        check_told(result, expected)


def check_told(result: RebuildResult, expected: Outcome) -> None:
    faults = sorted((f.position, f.key, f.parked) for f in result.faults)
    assert sorted(faults, key=lambda fault: (fault[0], fault[1] or "")) == expected.faults
    parked = sum(fault[2] for fault in expected.faults)
    assert (result.failed, result.parked) == (len(expected.faults) - parked, parked)
    assert (result.duplicates, result.ignored) == (expected.counts["duplicates"], expected.counts["ignored"])
    assert (result.views, result.complete) == (len(expected.views), not expected.faults)
    event(f"faults: {min(len(expected.faults), 5)}")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY, st.integers(1, 9), LIMITS, POLICIES)
def test_a_rebuild_equals_the_plain_fold(
    speed: str, history: Any, batch: int, limits: RebuildLimits, policy: ErrorPolicy
) -> None:
    asyncio.run(check(MemoryStore(), events_of(history), batch, limits, policy))


@pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"])
def test_so_it_does_on_databases(request: pytest.FixtureRequest, url: str) -> None:
    """One generation after the other, with so little memory that views go to the database and come back."""
    store_url: str = request.getfixturevalue(url)

    @settings(max_examples=25, deadline=None)
    @given(HISTORY, st.integers(1, 9), LIMITS, POLICIES)
    def run(history: Any, batch: int, limits: RebuildLimits, policy: ErrorPolicy) -> None:
        async def on_database() -> None:
            async with open_store(store_url) as store:
                await check(store, events_of(history), batch, limits, policy)

        asyncio.run(on_database())

    run()


@settings(max_examples=100, deadline=None)
@given(HISTORY, st.integers(1, 9), LIMITS)
def test_halt_stops_where_something_is_wrong_and_only_there(history: Any, batch: int, limits: RebuildLimits) -> None:
    events = events_of(history)
    wrong = [outcome(projector, events, quarantine=False).faults for projector in PROJECTORS]
    store = MemoryStore()
    try:
        asyncio.run(rebuilt(store, events, batch, limits, ErrorPolicy.HALT))
    except RebuildHalted:
        assert any(wrong)
        assert not asyncio.run(store.checkpoints("t"))
    else:
        assert not any(wrong)


@settings(max_examples=200, deadline=None)
@given(HISTORY)
def test_project_equals_the_rebuild_of_every_aggregate_that_is_well(history: Any) -> None:
    events = events_of(history)
    expected = outcome(OwnThings, events, quarantine=True)
    stuck = {key for _, key, _ in expected.faults}
    for key in {e.aggregate_id for e in events} - stuck:
        own = [msgspec.structs.replace(e, payload=copy.deepcopy(e.payload)) for e in events]
        assert OwnThings().project("thing", key, own) == expected.views.get(key)
