"""The step that most events take: into the view of their aggregate, at the least cost. In C where that was built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import refold.speedups as speedups
from refold.event import DomainEvent
from refold.view import View

__all__ = ["Step", "own_step"]

V = TypeVar("V", bound=View)

Step = Callable[[DomainEvent[Any]], None]
"""Folds one event into the views of one projection."""


def own_step(
    view_class: type[V],
    hot: Any,
    handler: Callable[[V, DomainEvent[Any]], object],
    *,
    miss: Callable[[str, DomainEvent[Any]], V | None],
    failed: Callable[[str, DomainEvent[Any], Exception], None],
    finish: Callable[[str, V, DomainEvent[Any], object], V | None],
    duplicate: Callable[[], None],
) -> Step:
    """A step for one event type of views whose key is their aggregate's id.

    Args:
        view_class: of all views in `hot`.
        hot: the views used lately, by key; looked at anew for every event.
        handler: what is called with view and event; it changes the view.
        miss: gives the view that is not hot, or None where the event is not for folding now.
        failed: told what the handler raised.
        finish: makes the view, or None after a DELETE, of what the handler returned.
        duplicate: called for an event whose version is not above its view's.
    """
    if speedups.OwnStep is not None:
        in_c: Step = speedups.OwnStep(view_class, DomainEvent, hot, handler, miss, failed, finish, duplicate)
        return in_c
    find = hot.get

    def step(event: DomainEvent[Any]) -> None:
        key = event.aggregate_id
        view = find(key)
        if view is None:
            view = miss(key, event)
            if view is None:
                return
        version = event.version
        if version <= view.version:
            duplicate()
            return
        try:
            result = handler(view, event)
            if result is not None:
                view = finish(key, view, event, result)
                if view is None:
                    return
        except Exception as error:  # noqa: BLE001 (a user's handler may raise anything)
            failed(key, event, error)
            return
        view.version = version
        view.updated_at = event.timestamp
        view.position = event.position

    return step
