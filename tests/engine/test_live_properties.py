"""Any history, any batches, any failures and deaths around commits: live views equal the plain fold, and nothing twice."""

from __future__ import annotations

import asyncio
import itertools
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
from live_support import FATES, FailingStore, run_until

from refold import DomainEvent, JsonCodec, Projector, SubjectScheme
from refold.engine.rebuild import Rebuild
from refold.ports import Database, LetterKind, ViewStore
from refold.stores import open_store
from refold.stores.memory import MemoryStore
from refold.view import ViewSchema

PAYLOADS = st.one_of(
    st.builds(Added, st.integers(-5, 5), st.lists(st.sampled_from(["x", "y", "z%.*"]), max_size=3)),
    st.builds(Added, st.integers(-5, 5), st.lists(st.sampled_from(["x", "y", "z%.*"]), max_size=3)),
    st.builds(Noted, st.sampled_from(["n", "ü\n"])),
    st.just(Closed()),
    st.just(Broke()),
)
HISTORY = st.lists(st.tuples(st.sampled_from(["a", "b.1", "c *>", "ünï"]), st.integers(1, 6), PAYLOADS), max_size=40)
SIZES = st.integers(1, 9)


def events_of(history: list[tuple[str, int, Any]]) -> list[DomainEvent[Any]]:
    return [make(i, key, version, payload) for i, (key, version, payload) in enumerate(history, 1)]


async def views(store: ViewStore) -> tuple[dict[str, Any], dict[str, list[str]]]:
    totals = await store.repository(ViewSchema.of(Total), "totals").find_all()
    tags = await store.repository(ViewSchema.of(Tags), "by_tag").find_all()
    assert all(view.events == len(view.accounts) for view in tags)
    return {view.id: shown(view) for view in totals}, {view.id: view.accounts for view in tags}


def check_spans(store: FailingStore) -> None:
    """Every stretch of the stream was committed once, in order."""
    for name in ("totals", "by_tag"):
        spans = [(old, new) for projection, old, new in store.spans if projection == name]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans)), spans


class Skipping(Totals, name="totals", aggregate="account", on_error="skip"):
    """The same, but for what is done about events that fail."""


async def lived(
    store: Database,
    events: list[DomainEvent[Any]],
    built: int,
    sizes: tuple[int, int],
    totals: type[Projector[Total]] = Totals,
) -> None:
    """Makes views of a stream of which a part was there at first, and the rest came while it was followed."""
    built = min(built, len(events))
    source = ListSource(events[:built], sizes[0])

    async def publish() -> None:
        for event in events[built:]:
            await asyncio.sleep(0)
            source.append(event)

    publishing = asyncio.create_task(publish())
    await run_until(store, source, [totals, ByTag], len(events), batch=sizes[1])
    await publishing


@pytest.fixture(autouse=True)
def _patient() -> Any:
    """Tries again at once."""
    import stamina

    stamina.set_testing(True, attempts=100)
    yield
    stamina.set_testing(False)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY, st.integers(0, 20), st.tuples(SIZES, SIZES), st.lists(st.sampled_from(FATES), max_size=10))
def test_live_views_equal_the_plain_fold(
    speed: str, history: Any, built: int, sizes: tuple[int, int], fates: list[str]
) -> None:
    async def check() -> None:
        events = events_of(history)
        store = FailingStore(fates)
        await lived(store, events, built, sizes)
        totals, tags = await views(store)
        assert totals == plain_totals(events)
        assert tags == plain_tags(events)
        check_spans(store)
        await check_letters(store, events)

    asyncio.run(check())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY, st.integers(0, 20), st.tuples(SIZES, SIZES), st.lists(st.sampled_from(FATES), max_size=6))
def test_live_views_equal_a_rebuild_that_skips_what_fails(
    history: Any, built: int, sizes: tuple[int, int], fates: list[str]
) -> None:
    async def check() -> None:
        events = events_of(history)
        store, other = FailingStore(fates), MemoryStore()
        await lived(store, events, built, sizes, Skipping)
        rebuild = Rebuild(ListSource(events, sizes[1]), other, JsonCodec(), SubjectScheme(), app="t")
        await rebuild.run([Skipping(), ByTag()], accept_incomplete=True)
        assert await views(store) == await views(other)
        assert (await views(store))[0] == plain_totals(events, quarantine=False)
        letters = [(one.position, one.kind) for one in await store.letters("t", "totals")]
        assert letters == [(one.position, one.kind) for one in await other.letters("t", "totals")]

    asyncio.run(check())


@pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"])
def test_so_they_do_on_databases(request: pytest.FixtureRequest, url: str) -> None:
    """One history after the other: each under a name of its own would need more tables than it is worth."""
    store_url: str = request.getfixturevalue(url)

    @settings(max_examples=12, deadline=None)
    @given(HISTORY, st.tuples(SIZES, SIZES))
    def run(history: Any, sizes: tuple[int, int]) -> None:
        async def check() -> None:
            events = events_of(history)
            async with open_store(store_url) as store:
                begun = Rebuild(ListSource([]), store, JsonCodec(), SubjectScheme(), app="t")
                await begun.run([Totals(), ByTag()])
                await lived(store, events, 0, sizes)
                totals, tags = await views(store)
                assert totals == plain_totals(events)
                assert tags == plain_tags(events)

        asyncio.run(check())

    run()


async def check_letters(store: FailingStore, events: list[DomainEvent[Any]]) -> None:
    """What is not in the views is recorded, whole."""
    stuck: dict[str, int] = {}
    handled: dict[str, int] = {}
    expected = []
    for e in events:
        if e.aggregate_id in stuck:
            expected.append((e.position, e.aggregate_id, LetterKind.PARKED))
        elif e.version <= handled.get(e.aggregate_id, 0):
            continue
        elif e.type == "broke":
            stuck[e.aggregate_id] = e.position
            expected.append((e.position, e.aggregate_id, LetterKind.FAILED))
        else:
            handled[e.aggregate_id] = e.version
    letters = await store.letters("t", "totals")
    assert [(letter.position, letter.key, letter.kind) for letter in letters] == expected
    assert all(letter.body for letter in letters)
    counts = await store.letter_counts("t")
    assert counts.get("totals", (0, 0)) == (len(expected), len(stuck))
