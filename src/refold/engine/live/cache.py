"""What a live fold remembers between batches: views and versions, bounded, with what the open batch touched told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from refold.engine.cache import ViewCache
from refold.view import View, ViewSchema

__all__ = ["SeenLog", "TouchedCache"]

V = TypeVar("V", bound=View)

_Aggregate = tuple[str, str]


class TouchedCache(ViewCache[V]):
    """Views of a live projection: `hot` are those that the open batch touched, the others wait in two generations.

    A view that is used comes back to the front with the next `settle`; what was not used while a whole generation filled up
    is forgotten, since the database has it.

    Args:
        schema: of the views.
        capacity: views of one generation; about twice as many are kept at the most.
    """

    __slots__ = ("_old", "_young")

    def __init__(self, schema: ViewSchema[V], capacity: int) -> None:
        super().__init__(schema, capacity)
        self._young: dict[str, V] = {}
        self._old: dict[str, V] = {}

    def __len__(self) -> int:
        return len(self.hot) + len(self._young) + len(self._old)

    def recall(self, key: str) -> V | None:
        """A view that the batch has not touched yet."""
        view = self._young.pop(key, None)
        if view is None:
            view = self._old.pop(key, None)
        if view is not None:
            self.hot[key] = view
        return view

    def put(self, key: str, view: V) -> None:
        """Takes a view in, as touched."""
        self.hot[key] = view

    def drop(self, key: str) -> None:
        """Forgets a view."""
        for views in (self.hot, self._young, self._old):
            views.pop(key, None)

    def settle(self) -> None:
        """Ends the batch: nothing counts as touched any more."""
        self._young.update(self.hot.items())
        self.hot.clear()
        if len(self._young) >= self.capacity:
            self._old, self._young = self._young, {}


class SeenLog(dict[_Aggregate, int]):
    """Highest handled versions by aggregate, and which of them the open batch changed.

    Attributes:
        before: what the changed ones were before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[_Aggregate, int] = {}

    def __setitem__(self, aggregate: _Aggregate, version: int) -> None:
        self.before.setdefault(aggregate, self.get(aggregate, 0))
        super().__setitem__(aggregate, version)

    def __delitem__(self, aggregate: _Aggregate) -> None:
        """Takes a change back."""
        super().__setitem__(aggregate, self.before.pop(aggregate, 0))

    def learn(self, known: Mapping[_Aggregate, int], asked: Iterable[_Aggregate]) -> None:
        """Takes in what the database says, where 0 stands for nothing; what the batch changed stays."""
        for aggregate in asked:
            if aggregate not in self.before:
                super().__setitem__(aggregate, known.get(aggregate, 0))

    @property
    def changes(self) -> list[tuple[str, str, int]]:
        """What the open batch changed, as rows."""
        return [(*aggregate, self[aggregate]) for aggregate in self.before]

    def settle(self, most: int) -> None:
        """Ends the batch; forgets everything when there is more than `most`."""
        self.before = {}
        if len(self) > most:
            self.clear()
