"""Rows that pass every check, and that the database refuses all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fold_domain import Added, ListSource, Noted, Total, Totals, make, plain_totals, shown

from refold import JsonCodec, RebuildLimits, SubjectScheme
from refold.engine.outcome import RebuildResult
from refold.engine.policy import ErrorPolicies, ErrorPolicy
from refold.engine.rebuild import Rebuild
from refold.errors import RebuildHalted, RowRefused, StoreError
from refold.ports import GenerationWriter
from refold.stores.memory import MemoryStore
from refold.view import Row, ViewSchema

SCHEMA = ViewSchema.of(Total)
TOTAL = SCHEMA.names.index("total")


class Choosy(MemoryStore):
    """A database that takes no total above a limit."""

    def __init__(self, limit: int, *, names: bool = True) -> None:
        super().__init__()
        self.limit = limit
        self.names = names

    async def begin_generation(self, *arguments: Any, **options: Any) -> GenerationWriter:
        writer: Any = await super().begin_generation(*arguments, **options)
        insert, upsert = writer.insert, writer.upsert

        async def choosy_insert(rows: Sequence[Row]) -> None:
            self.check(rows)
            await insert(rows)

        async def choosy_upsert(rows: Sequence[Row], deleted: Sequence[str] = ()) -> None:
            self.check(rows)
            await upsert(rows, deleted)

        writer.insert, writer.upsert = choosy_insert, choosy_upsert
        return writer  # type: ignore[no-any-return]

    def check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row[TOTAL] > self.limit:
                raise RowRefused(f"{row[TOTAL]} is too much", key=row[0] if self.names else None)


EVENTS = [
    make(1, "a", 1, Added(1)),
    make(2, "b", 1, Added(1)),
    make(3, "c", 1, Added(1)),
    make(4, "a", 2, Added(10)),
    make(5, "b", 2, Added(1)),
    make(6, "c", 2, Noted("x")),
    make(7, "a", 3, Noted("after it")),
    make(8, "b", 3, Added(1)),
    make(9, "c", 3, Added(1)),
    make(10, "a", 3, Noted("again")),
]
LIMITS = [RebuildLimits(), RebuildLimits(hot_views=1, packed_bytes=0, chunk_rows=2)]


async def rebuilt(store: MemoryStore, limits: RebuildLimits, policy: ErrorPolicy) -> RebuildResult:
    source = ListSource(EVENTS, batch=1)
    rebuild = Rebuild(
        source, store, JsonCodec(), SubjectScheme(), app="t", limits=limits, policies={"totals": ErrorPolicies(policy)}
    )
    (result,) = await rebuild.run([Totals()], accept_incomplete=True)
    return result


@pytest.mark.parametrize("limits", LIMITS, ids=["roomy", "tiny"])
@pytest.mark.parametrize("policy", [ErrorPolicy.QUARANTINE, ErrorPolicy.SKIP])
async def test_the_row_is_left_out_and_recorded(limits: RebuildLimits, policy: ErrorPolicy) -> None:
    """No older state of it stays, and later events do not begin it anew."""
    store = Choosy(5)
    result = await rebuilt(store, limits, policy)
    assert [(fault.key, fault.position, fault.parked) for fault in result.faults] == [("a", 7, False)]
    assert "11 is too much" in result.faults[0].reason
    assert (result.failed, result.duplicates, result.views, result.complete) == (1, 1, 2, False)
    expected = plain_totals(EVENTS)
    del expected["a"]
    views = await store.repository(SCHEMA, "totals").find_all()
    assert {view.id: shown(view) for view in views} == expected


@pytest.mark.parametrize("limits", LIMITS, ids=["roomy", "tiny"])
async def test_halt_stops_there_too(limits: RebuildLimits) -> None:
    store = Choosy(5)
    with pytest.raises(RebuildHalted, match=r"totals: position 7, key 'a': .*too much"):
        await rebuilt(store, limits, ErrorPolicy.HALT)
    with pytest.raises(StoreError, match="no views"):
        await store.repository(SCHEMA, "totals").count()


async def test_a_refusal_that_names_no_row_ends_the_rebuild() -> None:
    """Else it would be asked for ever."""
    with pytest.raises(RowRefused, match="too much"):
        await rebuilt(Choosy(5, names=False), LIMITS[0], ErrorPolicy.SKIP)
