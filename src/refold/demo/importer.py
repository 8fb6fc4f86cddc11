"""From a repository's history to a stream: only what is new, or all of it anew where the past has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any, Final

import nats.js.errors

from refold.app import App
from refold.demo.events import Committed, ImportFinished, ImportStarted
from refold.demo.history import Repository
from refold.errors import PublishError
from refold.event import DomainEvent, event_type_of
from refold.filters import EventFilter
from refold.jetstream.api import translated
from refold.jetstream.bulk_publisher import BulkPublisher

__all__ = ["Imported", "Plan", "import_history", "plan_import"]

_TYPE: Final = "import"
_ID: Final = "history"
_STARTED: Final = event_type_of(ImportStarted).name
_FINISHED: Final = event_type_of(ImportFinished).name
_TIMEOUT: Final = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What there is to import.

    Attributes:
        after: the commit that the last import ended with, to go on from; None to import everything.
        fingerprint: what git says of the whole history now.
        commits: how many commits are to be imported.
        known: how many events the stream holds of the history already.
        reason: why a stream that is there is not gone on with; empty where it is, or there is none.
    """

    after: str | None
    fingerprint: str
    commits: int
    known: int = 0
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Imported:
    """What was imported.

    Attributes:
        commits: how many commits were new.
        added: how many events were published.
        events: how many the stream holds of the history now.
    """

    commits: int
    added: int
    events: int


async def plan_import(app: App, repository: Repository) -> Plan:
    """Finds out what of a repository's history the app's stream lacks.

    Raises:
        ConfigurationError: git cannot read the repository.
        StreamError: the stream cannot be read.
    """
    await app.create_stream(_TYPE)
    anew = Plan(None, repository.fingerprint(repository.head), repository.count())
    wanted = EventFilter(aggregate_types=frozenset([_TYPE]))
    marks = {event.type: event for event in (await app.event_reader.latest(wanted, by_subject=True)).values()}
    messages = (await app.api.stream_info(app.stream)).state.messages
    if not messages:
        return anew
    finished = marks.get(_FINISHED)
    # An import is a mark, its events, and a mark; so what a whole stream holds is known.
    if finished is None or messages != finished.payload["events"] + finished.version:
        return dataclasses.replace(anew, reason="the last import was interrupted")
    head = finished.payload["head"]
    if not repository.continues(head):
        reason = f"HEAD does not follow {head[:12]}, where the last import ended (history was rewritten, or switched)"
        return dataclasses.replace(anew, reason=reason)
    if finished.payload["fingerprint"] != repository.fingerprint(head):
        reason = (
            "git tells the past otherwise than last time (mailmap, attributes, settings, or a shallow clone's depth)"
        )
        return dataclasses.replace(anew, reason=reason)
    return Plan(head, anew.fingerprint, repository.count(head), finished.payload["events"])


async def import_history(
    app: App, repository: Repository, plan: Plan, progress: Callable[[int], None] = lambda _: None
) -> Imported:
    """Publishes what a plan says; what is published stands between two marks, so that a broken import is noticed.

    Args:
        app: open; its stream takes the events.
        repository: the same that the plan was made of.
        plan: what to import.
        progress: told the number of commits published so far.

    Raises:
        ConfigurationError: git cannot read the repository.
        StreamError: the events could not be stored.
    """
    if plan.after == repository.head:
        return Imported(0, 0, plan.known)
    if plan.reason:
        await _make_anew(app)
    await app.publish(_TYPE, _ID, [ImportStarted(repository.head)])
    publisher = BulkPublisher(app.client, app.stream, app.codec, app.scheme)
    with closing(repository.events(plan.after)) as events:
        result = await publisher.publish_many(_counted(events, progress))
    if result.failures:
        first = result.failures[0]
        raise PublishError(
            f"{len(result.failures)} events of the history were not stored; the first, {first.event_id}: {first.reason}"
        )
    added = result.stored + result.duplicates  # an event that had to be sent twice is in the stream once
    known = plan.known + added
    await app.publish(_TYPE, _ID, [ImportFinished(repository.head, plan.fingerprint, known)])
    return Imported(plan.commits, added, known)


async def _make_anew(app: App) -> None:
    with translated(app.stream, _TIMEOUT), suppress(nats.js.errors.NotFoundError):
        await app.client.jetstream(timeout=_TIMEOUT).delete_stream(app.stream)
    await app.create_stream(_TYPE)


def _counted(events: Iterable[DomainEvent[Any]], progress: Callable[[int], None]) -> Iterator[DomainEvent[Any]]:
    commits = 0
    for event in events:
        if isinstance(event.payload, Committed):
            commits += 1
            progress(commits)
        yield event
