"""Projections with every kind of handler, and what they should come to, said in the plainest way.

What is promised of one view: where no handler raises and its row is one that stores take in the end, every event is in it.
Else its events are taken one by one: one that raises, or makes a row that no store takes, is as if it had not been.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec

from refold import DELETE, DomainEvent, Index, Projector, View, event, on
from refold.filters import Predicate


@event("changed")
class Changed(msgspec.Struct, gc=False):
    """What is done, to the aggregate's own view and to those of some tags."""

    act: str
    value: Any = None
    tags: list[str] = []


@event("touched")
class Touched(msgspec.Struct, gc=False):
    """The same, where there is a view."""

    act: str
    value: Any = None
    tags: list[str] = []


WRONG: Final[dict[str, tuple[str, Any]]] = {
    "nul": ("text", "a\0"),
    "surrogate": ("text", "\udc00"),
    "no text": ("text", 5),
    "long": ("text", "é" * 1_001),
    "none": ("text", None),
    "huge": ("whole", 2**70),
    "just too huge": ("whole", 2**63),
    "bool": ("whole", True),
    "digits": ("whole", "7"),
    "float": ("money", 1.5),
    "nan": ("money", Decimal("NaN")),
    "infinite": ("real", float("inf")),
    "whole real": ("real", 1),
    "naive": ("when", datetime(2026, 1, 1)),
    "numbers": ("names", [1]),
    "nested nul": ("names", ["\0"]),
    "loop": ("names", "loop"),
}
"""Values that no column takes, by field. Some would pass for good ones on a careless way through a codec."""

RIGHT: Final[dict[str, Any]] = {
    "text": "tëxt",
    "whole": -(2**63),
    "money": Decimal("1.10"),
    "real": -0.5,
    "when": None,
    "names": ["x", "ÿ"],
}


class Thing(View):
    text: Annotated[str, Index()] = ""
    whole: int = 0
    money: Decimal = Decimal(0)
    real: float = 0.0
    when: datetime | None = None
    names: list[str] = []
    log: list[str] = []
    shared: list[str] | None = None


def act(view: Thing, event: DomainEvent[Any]) -> object:
    """What the handlers do; the plain fold does it to a copy of the view."""
    what, value = event.payload.act, event.payload.value
    view.log = [*view.log, what]
    if what == "wrong":
        field, wrong = WRONG[value]
        if wrong == "loop":
            wrong = []
            wrong.append(wrong)
        setattr(view, field, wrong)
    elif what == "right":
        setattr(view, value, copy.copy(RIGHT[value]))
    elif what == "mend":
        for field, right in RIGHT.items():
            setattr(view, field, copy.copy(right))
    elif what == "raise":
        view.names.append("half-way")
        raise ValueError("on purpose")
    elif what == "delete":
        return DELETE
    elif what == "replace":
        return Thing(id="its own", created_at=None, text=view.text, log=["replaced"], names=["new"])
    elif what == "return":
        return view
    elif what == "nonsense":
        return "nonsense"
    elif what == "rename":
        view.id = "renamed"
    elif what == "keep":
        view.shared = event.payload.tags
    elif what == "grow" and isinstance(view.shared, list):
        view.shared.append("grown")
    return None


class OwnThings(Projector[Thing], name="own_things", aggregate="thing", version=1):
    @on(Changed)
    def changed(self, view: Thing, event: DomainEvent[Changed]) -> object:
        return act(view, event)

    @on(Touched, create=False)
    def touched(self, view: Thing, event: DomainEvent[Touched]) -> object:
        return act(view, event)


def _tags(event: DomainEvent[Any]) -> list[str]:
    return list(event.payload.tags)


def _tag(event: DomainEvent[Any]) -> str:
    tag: str = event.payload.tags[0]
    return tag


class ThingsByTags(Projector[Thing], name="things_by_tags", aggregate="thing", version=1):
    @on(Changed, keys=_tags)
    def changed(self, view: Thing, event: DomainEvent[Changed]) -> object:
        return act(view, event)

    @on(Touched, keys=_tags, create=False)
    def touched(self, view: Thing, event: DomainEvent[Touched]) -> object:
        return act(view, event)


class ThingsByTag(Projector[Thing], name="things_by_tag", aggregate="thing", version=1, deduplicate=False):
    @on(Changed, key=_tag)
    def changed(self, view: Thing, event: DomainEvent[Changed]) -> object:
        return act(view, event)

    @on(Touched, key=_tag, create=False)
    def touched(self, view: Thing, event: DomainEvent[Touched]) -> object:
        return act(view, event)


def _is_picked(event: DomainEvent[Any]) -> bool:
    return len(event.payload.tags) / (event.version % 5) > 0.2  # raises at every fifth version


class PickedThings(Projector[Thing], name="picked_things", aggregate="thing", version=1, predicate=_is_picked):
    @on(Changed, Touched)
    def changed(self, view: Thing, event: DomainEvent[Any]) -> object:
        return act(view, event)


PROJECTORS: Final = (OwnThings, ThingsByTags, ThingsByTag, PickedThings)


# -- What they should come to --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """Views by key; (position, key, whether parked) of faults; how many events were duplicates, and ignored."""

    views: dict[str, Thing] = dataclasses.field(default_factory=dict)
    faults: list[tuple[int, str | None, bool]] = dataclasses.field(default_factory=list)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)


def outcome(projector: type[Projector[Any]], events: Sequence[DomainEvent[Any]], *, quarantine: bool) -> Outcome:
    """What a projection of some events should come to."""
    found = Outcome()
    by_key: dict[str, list[DomainEvent[Any]]] = {}
    handled: Counter[str] = Counter()
    for e in events:
        try:
            keys = _keys(projector, e, handled, found)
            if not all(keys):
                raise ValueError("an empty key")
        except (ArithmeticError, LookupError, ValueError):
            found.faults.append((e.position, None, False))
        else:
            for key in dict.fromkeys(keys):
                by_key.setdefault(key, []).append(e)
    for key, own in by_key.items():
        one = _OneView(key, keyed=projector.spec.keyed, creates=projector is PickedThings)
        if not one.take_all(own):
            one = _OneView(key, keyed=projector.spec.keyed, creates=projector is PickedThings)
            one.take_each(own, quarantine=quarantine)
        if one.view is not None:
            found.views[key] = one.view
        found.faults += one.faults
        found.counts += one.counts
    found.faults.sort(key=lambda fault: (fault[0], fault[1] or ""))
    return found


def _keys(projector: type[Projector[Any]], e: DomainEvent[Any], handled: Counter[str], found: Outcome) -> Sequence[str]:
    predicate: Predicate | None = projector.spec.wanted.predicate
    if predicate is not None and not predicate(e):
        return ()
    if projector is ThingsByTag:
        return (_tag(e),)
    if projector is not ThingsByTags:
        return (e.aggregate_id,)
    if e.version <= handled[e.aggregate_id]:
        found.counts["duplicates"] += 1
        return ()
    handled[e.aggregate_id] = e.version
    return _tags(e)


class _OneView:
    """One view's fold."""

    def __init__(self, key: str, *, keyed: bool, creates: bool) -> None:
        self.key = key
        self.keyed = keyed
        self.creates = creates
        self.view: Thing | None = None
        self.handled = 0
        self.faults: list[tuple[int, str | None, bool]] = []
        self.counts: Counter[str] = Counter()

    def take_all(self, events: Sequence[DomainEvent[Any]]) -> bool:
        """Whether all goes well."""
        try:
            for e in events:
                self.take(e)
        except (ValueError, TypeError):
            return False
        return self.view is None or is_good(self.view)

    def take_each(self, events: Sequence[DomainEvent[Any]], *, quarantine: bool) -> None:
        stuck = False
        for e in events:
            if stuck:
                self.faults.append((e.position, self.key, True))
                continue
            before, handled = copy.deepcopy(self.view), self.handled
            try:
                self.take(e)
                well = self.view is None or is_good(self.view)
            except (ValueError, TypeError):
                well = False
            if not well:
                self.view, self.handled = before, handled
                self.faults.append((e.position, self.key, False))
                stuck = quarantine

    def take(self, e: DomainEvent[Any]) -> None:
        if not self.keyed and e.version <= self.handled:
            self.counts["duplicates"] += 1
            return
        if self.view is None and e.type == "touched" and not self.creates:
            self.handled = e.version
            self.counts["ignored"] += 1
            return
        view = self.view or Thing(id=self.key, created_at=e.timestamp)
        created = view.created_at
        result = act(view, msgspec.structs.replace(e, payload=copy.deepcopy(e.payload)))
        self.handled = e.version
        if result is DELETE:
            self.view = None
            return
        if result is not None and type(result) is not Thing:
            raise TypeError("nonsense")
        self.view = view if result is None else result
        self.view.id, self.view.created_at = self.key, created
        self.view.version = self.view.version + 1 if self.keyed and self.view is view else e.version
        if self.keyed and self.view is not view:
            self.view.version = view.version + 1
        self.view.updated_at, self.view.position = e.timestamp, e.position


def is_good(view: Thing) -> bool:
    """Whether every field is one that stores take; looked at with no regard to speed."""
    checks: Sequence[Callable[[], bool]] = (
        lambda: "\0" not in view.id,
        lambda: all("\0" not in name for name in view.shared or ()),
        lambda: type(view.text) is str and len(view.text.encode()) <= 2_000 and "\0" not in view.text,
        lambda: type(view.whole) is int and -(2**63) <= view.whole < 2**63,
        lambda: type(view.money) is Decimal and view.money.is_finite(),
        lambda: type(view.real) is float and abs(view.real) < float("inf"),
        lambda: view.when is None,  # or aware, which it never is here
        lambda: type(view.names) is list and all(type(name) is str and "\0" not in name for name in view.names),
    )
    try:
        return all(check() for check in checks)
    except UnicodeEncodeError:
        return False
