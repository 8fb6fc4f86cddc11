"""``given(Projector, …).when(…).then(key, field=value)``: a test of a projector that reads like a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NoReturn, Self, TypeVar

from refold.cells import check
from refold.engine.fold import Fold
from refold.engine.projector import Projector
from refold.errors import DefinitionError, RowRefused
from refold.event import DomainEvent
from refold.testing.history import Past, decoded, events_of, told_events
from refold.view import View, ViewSchema

__all__ = ["Scenario", "given"]

V = TypeVar("V", bound=View)

_MANY: Final = 1_000_000


def given(projector: type[Projector[V]] | Projector[V], *past: Past) -> Scenario[V]:
    """Begins a test of a projector: what happened before.

    Args:
        projector: the class, or an instance.
        past: events, see `happened`; a tuple of (aggregate id, payload) or (aggregate type, aggregate id, payload) will do.

    Raises:
        DefinitionError: an event does not say enough.
    """
    return Scenario(projector() if isinstance(projector, type) else projector, past)


class Scenario(Generic[V]):
    """A history, and what a projector makes of it. Immutable: `when` gives another, so that tests may share a beginning.

    The events are written and read as in a stream, and folded by refold's own fold. Nothing is caught: a handler's exception
    is the test's, unless `then_raises` expects it.

    Args:
        projector: the user's fold.
        past: what happened.

    Attributes:
        events: the history.
    """

    def __init__(self, projector: Projector[V], past: Sequence[Past]) -> None:
        self._projector = projector
        self._past = tuple(past)
        self.events: Sequence[DomainEvent[Any]] = tuple(events_of(self._past, projector.spec))
        self._views: dict[str, V] | None = None

    def __repr__(self) -> str:
        return f"{self._name} after\n{told_events(self.events)}"

    def when(self, *past: Past) -> Scenario[V]:
        """The same history, and then these events."""
        return Scenario(self._projector, (*self._past, *past))

    # -- What became of it ---------------------------------------------------------------------------------------------

    @property
    def views(self) -> Mapping[str, V]:
        """All views, by key.

        Raises:
            AssertionError: a view is none that a database takes.
            Exception: what a handler raised.
        """
        if self._views is None:
            fold: Fold[V] = Fold(self._projector, capacity=_MANY, raising=True)
            for event in decoded(self._projector.spec, self.events):
                fold.feed(event)
            found = {key: view for some in fold.cache.drain_views(_MANY) for key, view in some}
            for key, view in found.items():
                view.id = key
                self._check_row(view)
            self._views = found
        return self._views

    def view(self, key: str) -> V:
        """The view of a key, for assertions of your own.

        Raises:
            AssertionError: there is none.
        """
        found = self.views.get(key)
        if found is None:
            self._fail(
                f"there is no view {key!r}; there are: {', '.join(map(repr, sorted(self.views))) or 'none'}", key
            )
        return found

    def then(self, key: str, *conditions: Callable[[V], object], **fields: Any) -> Self:
        """There is a view of that key, with these values in these fields; other fields may hold anything.

        Args:
            key: of the view.
            conditions: functions of the view that must give something true: ``lambda view: view.total > 9``.
            fields: expected values, by field.

        Raises:
            AssertionError: says what was expected, what was found, and the events that led there.
            DefinitionError: the view has no such field.
        """
        names = self._projector.spec.schema.names
        unknown = [name for name in fields if name not in names]
        if unknown:
            raise DefinitionError(f"{self._name}: views have no field {unknown[0]!r}; there are: {', '.join(names)}")
        view = self.view(key)
        wrong = [(name, value) for name, value in fields.items() if getattr(view, name) != value]
        lines = [f"  {name}: expected {value!r}, found {getattr(view, name)!r}" for name, value in wrong]
        lines += [f"  the condition {_named(one)} does not hold for {view!r}" for one in conditions if not one(view)]
        if lines:
            self._fail(f"view {key!r} is not as expected:\n" + "\n".join(lines), key)
        return self

    def then_deleted(self, key: str) -> Self:
        """There is no view of that key, any more or at all.

        Raises:
            AssertionError: there is one.
        """
        if key in self.views:
            self._fail(f"view {key!r} should not be there, and is: {self.views[key]!r}", key)
        return self

    def then_views(self, *views: V) -> Self:
        """There are exactly these views, in any order.

        Fields that come with every view (`version`, `position`, `created_at`, `updated_at`) are compared only where one
        that is expected has another value in them than a new view has.

        Raises:
            AssertionError: says which are missing, which are too many, and what is different in others.
        """
        expected = {view.id: view for view in views}
        lines = [f"  missing: {expected[key]!r}" for key in expected if key not in self.views]
        lines += [f"  too many: {view!r}" for key, view in self.views.items() if key not in expected]
        for key, found in self.views.items():
            if key in expected:
                lines += _differences(self._projector.spec.schema, expected[key], found)
        if lines:
            self._fail("the views are not as expected:\n" + "\n".join(lines))
        return self

    def then_raises(self, kind: type[Exception] = Exception, match: str = "") -> Self:
        """A handler, `key=` function or predicate raises, which in production its error policy takes care of.

        Args:
            kind: of exception.
            match: a regular expression that its text has.

        Raises:
            AssertionError: it does not, or another exception.
        """
        try:
            views = self.views
        except Exception as error:
            causes = [one for one in (error, error.__cause__) if isinstance(one, kind)]
            if any(re.search(match, str(one)) for one in causes):
                return self
            what = f"{type(error).__name__}: {error}"
            raise AssertionError(
                self._text(f"expected {kind.__name__}" + (f" ({match})" if match else "") + f", found {what}")
            ) from error
        return self._fail(f"expected {kind.__name__}, and nothing was raised; views: {list(views.values())!r:.500}")

    # -- Telling -------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self._projector.spec.name

    def _check_row(self, view: V) -> None:
        schema = self._projector.spec.schema
        try:
            check(schema, schema.freeze(view))
        except RowRefused as error:
            raise AssertionError(self._text(f"view {view.id!r} cannot be stored: {error}", view.id)) from error

    def _fail(self, what: str, key: str | None = None) -> NoReturn:
        __tracebackhide__ = True
        raise AssertionError(self._text(what, key))

    def _text(self, what: str, key: str | None = None) -> str:
        events, whose = self.events, ""
        if key is not None and not self._projector.spec.keyed:
            events, whose = [e for e in events if e.aggregate_id == key], f" of {key!r}"
        return f"{self._name}: {what}\nevents{whose} that led there:\n{told_events(events)}"


def _differences(schema: ViewSchema[Any], expected: View, found: View) -> list[str]:
    fresh = schema.view()
    lines = []
    for name in schema.names:
        wanted, has = getattr(expected, name), getattr(found, name)
        said = name not in schema.STANDARD or wanted != getattr(fresh, name)
        if said and wanted != has:
            lines.append(f"  {expected.id!r}, {name}: expected {wanted!r}, found {has!r}")
    return lines


def _named(condition: Callable[..., object]) -> str:
    code = getattr(condition, "__code__", None)
    name = getattr(condition, "__name__", repr(condition))
    return name if code is None else f"{name} (line {code.co_firstlineno})"
