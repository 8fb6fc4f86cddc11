"""Wrong projectors are refused when the class is made, naming class, handler and mend."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fold_domain import Added, Closed, Total, Totals

from refold import DomainEvent, FullProjection, Projector, View, on
from refold.errors import DefinitionError


class Needs(View, kw_only=True):
    amount: int


class Odd(View):
    what: complex = 1j


def test_two_handlers_for_one_type() -> None:
    with pytest.raises(DefinitionError, match=r"Twice: handlers 'a' and 'b' both take event type 'added'"):

        class Twice(Projector[Total], name="twice"):
            @on(Added)
            def a(self, view: Total, event: DomainEvent[Added]) -> None: ...

            @on(Added)
            def b(self, view: Total, event: DomainEvent[Added]) -> None: ...


def test_wrong_event_annotation() -> None:
    with pytest.raises(DefinitionError, match=r"handler 'a' is annotated .*Closed.*Added"):

        class Wrong(Projector[Total], name="wrong"):
            @on(Added)
            def a(self, view: Total, event: DomainEvent[Closed]) -> None: ...


@pytest.mark.parametrize(("view", "said"), [(Needs, "has no default"), (Odd, "no column holds")])
def test_views_that_are_no_tables(view: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):

        class Bad(Projector[view], name="bad"):
            @on(Added)
            def a(self, view: Any, event: Any) -> None: ...


def test_async_handlers_and_classes_that_are_no_events() -> None:
    with pytest.raises(DefinitionError, match="async"):

        class Waits(Projector[Total], name="waits"):
            @on(Added)
            async def a(self, view: Total, event: DomainEvent[Added]) -> None: ...

    class Plain(msgspec.Struct):
        pass

    with pytest.raises(DefinitionError, match="@event"):
        on(Plain)


@pytest.mark.parametrize("name", ["", "Upper", "has space", "refold_x", "x" * 41, None])
def test_names(name: Any) -> None:
    with pytest.raises(DefinitionError):

        class Named(Projector[Total], name=name):
            @on(Added)
            def a(self, view: Total, event: DomainEvent[Added]) -> None: ...


def test_latest_only_is_refused_where_history_is_needed() -> None:
    nothing: Any = None
    with pytest.raises(DefinitionError, match="needs the whole history of added"):
        FullProjection(nothing, nothing, Totals(), nothing, aggregate_type="account", latest_only=True)
