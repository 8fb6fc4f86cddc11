"""What a projector class says of itself, checked and ready for the engine."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from refold.engine.policy import ErrorPolicies
from refold.event import DomainEvent, EventType
from refold.filters import EventFilter
from refold.view import View, ViewSchema

__all__ = ["DELETE", "Delete", "KeyFunction", "KeysFunction", "ProjectorSpec", "Route"]

V = TypeVar("V", bound=View)

KeyFunction = Callable[[DomainEvent[Any]], str]
KeysFunction = Callable[[DomainEvent[Any]], Iterable[str]]


class Delete(enum.Enum):
    """The type of `DELETE`."""

    DELETE = "delete"


DELETE: Final = Delete.DELETE
"""What a handler returns to remove the row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """What one event type does in one projector.

    Attributes:
        event_type: the type and its payload class.
        handler: name of the method that handles it.
        create: whether it makes the row where there is none; if not, it is ignored there, and counted.
        key: key of the view it goes to; None for the aggregate's id.
        keys: keys of the views it goes to.
        replaces: whether it makes all earlier events of its type and aggregate irrelevant.
    """

    event_type: EventType
    handler: str
    create: bool = True
    key: KeyFunction | None = None
    keys: KeysFunction | None = None
    replaces: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ProjectorSpec(Generic[V]):
    """What a projector class says of itself, checked.

    Attributes:
        name: the projection's name, and that of its table.
        version: raise it when the fold or the view's fields change; each version has tables of its own.
        schema: the view's columns.
        routes: by event type name.
        wanted: which events it wants.
        policies: what to do about events that fail.
        keyed: True where a view's key is not the id of the one aggregate that all its events belong to.
        deduplicate: whether a keyed projection remembers the version of every aggregate.
    """

    name: str
    version: int
    schema: ViewSchema[V]
    routes: Mapping[str, Route]
    wanted: EventFilter
    policies: ErrorPolicies
    keyed: bool
    deduplicate: bool

    @property
    def fingerprint(self) -> str:
        """Changes when columns, event types or keys change, so that a forgotten new version can be noticed."""
        told = [
            [(c.name, c.kind.value, c.nullable) for c in self.schema.columns],
            sorted((name, r.create, bool(r.key), bool(r.keys)) for name, r in self.routes.items()),
            sorted(self.wanted.aggregate_types or ()),
        ]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
