"""A view class that no longer fits its table: which column, and what to do."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from chaos_domain import Added, Script, publish

from refold import App, DomainEvent, Index, Projector, View, on
from refold.errors import SchemaMismatch


class Before(View):
    total: int = 0
    note: str = ""


class Renamed(View):
    total: int = 0
    remark: str = ""


class Retyped(View):
    total: float = 0.0
    note: str = ""


class Optional(View):
    total: int = 0
    note: str | None = None


class Shorter(View):
    total: int = 0


class Longer(View):
    total: int = 0
    note: str = ""
    tags: list[str] = []


class Text(View):
    """JSON and text are one type on SQLite."""

    total: int = 0
    note: list[str] = []


class Indexed(View):
    """An index is no column."""

    total: int = 0
    note: Annotated[str, Index()] = ""


def projector_of(view: type[View], version: int = 1) -> type[Projector[Any]]:
    class Totals(Projector[view], name="totals", aggregate="account", version=version):  # type: ignore[valid-type]
        @on(Added)
        def added(self, view: Any, event: DomainEvent[Added]) -> None:
            view.total += event.payload.amount

    return Totals


CHANGED = [
    (Renamed, "remark"),
    (Retyped, "total"),
    (Optional, "note"),
    (Shorter, "note"),
    (Longer, "tags"),
    (Text, "note"),
]


async def open_with(make_app: Any, url: str, projector: type[Projector[Any]]) -> App:
    app: App = make_app(url)
    app.register(projector)
    return app


@pytest.mark.parametrize(("changed", "column"), CHANGED)
async def test_the_error_names_the_column_and_the_mend(
    make_app: Any, lasting_url: str, changed: type[View], column: str
) -> None:
    old, wrong, new = projector_of(Before), projector_of(changed), projector_of(changed, version=2)
    script = Script()
    script.say("added", "ann", 1, amount=3)
    async with await open_with(make_app, lasting_url, old) as app:
        await app.create_stream()
        await publish(app, script.messages)
        await app.rebuild()

    async with await open_with(make_app, lasting_url, wrong) as app:
        for attempt in (app.rebuild(), app.views(wrong).find_all(), app.views(wrong).save(changed("x"))):
            with pytest.raises(SchemaMismatch, match=f"column '{column}'.*version=") as caught:
                await attempt
            assert caught.value.column == column
            assert "totals" in caught.value.table
    async with await open_with(make_app, lasting_url, old) as app:
        assert [view.total for view in await app.views(old).find_all()] == [3]

    async with await open_with(make_app, lasting_url, new) as app:
        await app.rebuild()
        assert [view.total for view in await app.views(new).find_all()] == [3]


async def test_an_index_more_is_no_other_column(make_app: Any, lasting_url: str) -> None:
    script = Script()
    script.say("added", "ann", 1, amount=3)
    for projector in (projector_of(Before), projector_of(Indexed)):
        async with await open_with(make_app, lasting_url, projector) as app:
            await app.create_stream()
            await publish(app, script.messages)
            await app.rebuild()
            assert [view.total for view in await app.views(projector).find_all()] == [3]
