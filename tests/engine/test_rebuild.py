"""The rebuild against a plain fold: any history, any batches, any size of memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fold_domain import (
    Added,
    Broke,
    ByTag,
    Closed,
    ListSource,
    Noted,
    Tags,
    Total,
    Totals,
    make,
    plain_tags,
    plain_totals,
    shown,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refold import DomainEvent, ErrorPolicy, JsonCodec, RebuildLimits, SubjectScheme
from refold.engine.outcome import RebuildResult
from refold.engine.policy import ErrorPolicies
from refold.engine.rebuild import Rebuild
from refold.errors import RebuildHalted
from refold.stores.memory import MemoryStore
from refold.view import ViewSchema

PAYLOADS = st.one_of(
    st.builds(Added, st.integers(-5, 5), st.lists(st.sampled_from(["x", "y", "z%.*"]), max_size=3)),
    st.builds(Noted, st.sampled_from(["n", "ü\n"])),
    st.just(Closed()),
    st.just(Broke()),
)
HISTORY = st.lists(st.tuples(st.sampled_from(["a", "b.1", "c *>", "ünï"]), st.integers(1, 6), PAYLOADS), max_size=40)
LIMITS = st.builds(
    RebuildLimits,
    hot_views=st.integers(1, 3),
    packed_bytes=st.sampled_from([0, 300, 10**9]),
    chunk_rows=st.integers(1, 3),
)


def events_of(history: list[tuple[str, int, Any]]) -> list[DomainEvent[Any]]:
    return [make(i, key, version, payload) for i, (key, version, payload) in enumerate(history, 1)]


async def rebuilt(
    source: ListSource, *, limits: RebuildLimits | None = None, policy: ErrorPolicy | None = None
) -> tuple[list[RebuildResult], dict[str, Total], dict[str, Tags]]:
    store = MemoryStore()
    policies = {"totals": ErrorPolicies(policy)} if policy else {}
    rebuild = Rebuild(source, store, JsonCodec(), SubjectScheme(), app="t", limits=limits, policies=policies)
    results = await rebuild.run([Totals(), ByTag()], accept_incomplete=True)
    totals = {v.id: v for v in await store.repository(ViewSchema.of(Total), "totals").find_all()}
    tags = {v.id: v for v in await store.repository(ViewSchema.of(Tags), "by_tag").find_all()}
    return results, totals, tags


@settings(max_examples=300, deadline=None)
@given(HISTORY, st.integers(1, 7), LIMITS, st.sampled_from([ErrorPolicy.QUARANTINE, ErrorPolicy.SKIP]))
def test_a_rebuild_equals_the_plain_fold(history: Any, batch: int, limits: RebuildLimits, policy: ErrorPolicy) -> None:
    """Whatever the duplicates, orders, failures, batch cuts and evictions."""
    events = events_of(history)
    _, totals, tags = asyncio.run(rebuilt(ListSource(events, batch), limits=limits, policy=policy))
    expected = plain_totals(events, quarantine=policy is ErrorPolicy.QUARANTINE)
    assert {key: shown(view) for key, view in totals.items()} == expected
    assert {key: view.accounts for key, view in tags.items()} == plain_tags(events)
    assert {key: view.version for key, view in tags.items()} == {k: len(a) for k, a in plain_tags(events).items()}


@settings(max_examples=100, deadline=None)
@given(HISTORY)
def test_project_equals_the_rebuild_for_every_aggregate(history: Any) -> None:
    events = [e for e in events_of(history) if e.type != "broke"]
    expected = plain_totals(events)
    for key in {e.aggregate_id for e in events}:
        view = Totals().project("account", key, events)
        assert (shown(view) if view else None) == expected.get(key)


async def test_what_cannot_be_decoded_is_recorded_and_the_rest_projected() -> None:
    events = [make(i, "a", i, Added(1)) for i in range(1, 6)]
    wrong = JsonCodec().encode(make(3, "other", 3, Added(1)))[0]
    source = ListSource(events, raw={2: b"{", 3: wrong})
    (result, _), totals, _ = await rebuilt(source)
    assert totals["a"].total == 3
    assert [(fault.position, fault.key) for fault in result.faults] == [(2, None), (3, None)]
    assert "subject says otherwise" in result.faults[1].reason
    assert (result.failed, result.complete) == (2, False)


async def test_an_incomplete_rebuild_is_not_shown_unless_accepted() -> None:
    store = MemoryStore()
    rebuild = Rebuild(ListSource([make(1, "a", 1, Broke())]), store, JsonCodec(), SubjectScheme(), app="t", policies={})
    (result,) = await rebuild.run([Totals()])
    assert (result.published, result.failed) == (False, 1)
    assert not await store.checkpoints("t")


async def test_halt_stops_with_projection_key_and_position() -> None:
    source = ListSource([make(1, "a", 1, Added(1)), make(2, "a", 2, Broke())])
    with pytest.raises(RebuildHalted, match=r"totals: position 2, key 'a'.*broken on purpose"):
        await rebuilt(source, policy=ErrorPolicy.HALT)


async def test_a_value_that_no_database_takes_fails_at_its_event() -> None:
    """The row is as it was before, and later events are parked."""
    events = [
        make(1, "a", 1, Added(1)),
        make(2, "a", 2, Added(2**70)),
        make(3, "a", 3, Added(1)),
        make(4, "b", 1, Added(7)),
    ]
    (result, _), totals, _ = await rebuilt(ListSource(events))
    assert (totals["a"].total, totals["b"].total) == (1, 7)
    assert [(f.position, f.key, f.parked) for f in result.faults] == [(2, "a", False), (3, "a", True)]
    assert "64 bit" in result.faults[0].reason


async def test_projections_rebuilt_together_share_one_read() -> None:
    source = ListSource([make(1, "a", 1, Added(1, ["x"]))])
    await rebuilt(source)
    assert source.reads == 1


class GrowingSource(ListSource):
    """A stream to which more is published each time that it was read to its end."""

    def __init__(self, events: list[DomainEvent[Any]], later: list[list[DomainEvent[Any]]], batch: int) -> None:
        super().__init__(events, batch)
        self.later = later

    async def batches(self, wanted: Any, *, until: int) -> Any:
        async for batch in super().batches(wanted, until=until):
            yield batch
        if self.later:
            self.append(*self.later.pop(0))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY, st.lists(st.integers(0, 40), max_size=3), st.integers(1, 9), LIMITS)
def test_what_is_published_meanwhile_is_in_the_views(
    monkeypatch: pytest.MonkeyPatch, history: Any, cuts: list[int], batch: int, limits: RebuildLimits
) -> None:
    monkeypatch.setattr("refold.engine.rebuild._NEAR", 0)
    events = events_of(history)
    ends = sorted(min(cut, len(events)) for cut in cuts)
    parts = [events[a:b] for a, b in zip([0, *ends], [*ends, len(events)], strict=True)]
    source = GrowingSource(parts[0], [part for part in parts[1:] if part], batch)
    results, totals, tags = asyncio.run(rebuilt(source, limits=limits, policy=ErrorPolicy.SKIP))
    folded = events[: results[0].position]
    # Where an event failed, the stream is read once more in the end, and what comes after that is left to the next.
    assert results[0].position == len(events) or not results[0].complete
    assert {key: shown(view) for key, view in totals.items()} == plain_totals(folded, quarantine=False)
    assert {key: view.accounts for key, view in tags.items()} == plain_tags(folded)
