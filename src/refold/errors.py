"""Every error refold raises on purpose, in one tree.

    RefoldError
    ├── ConfigurationError          a setting, an argument or an ``--app`` path is wrong
    ├── DefinitionError             a projector, view or event class is wrong
    ├── EventError                  one event cannot be used
    │   ├── UndecodableEvent
    │   ├── IdentityMismatch
    │   └── SubjectError
    ├── ProjectionError             one event or row of one projection failed
    │   ├── HandlerError
    │   └── RowRefused
    ├── StreamError                 NATS or JetStream
    │   ├── NatsUnavailable
    │   ├── JetStreamUnavailable
    │   ├── NotPermitted
    │   ├── StreamNotFound
    │   ├── ContinuityError
    │   ├── StreamReplaced
    │   ├── EventsExpired
    │   └── PublishError
    │       ├── VersionConflict
    │       └── AtomicPublishUnsupported
    ├── StoreError                  the database
    │   ├── StoreUnavailable
    │   ├── StoreBusy
    │   ├── SchemaMismatch
    │   ├── ProjectionStoreError
    │   ├── ClaimHeld
    │   └── ClaimLost
    ├── RebuildError
    │   ├── RebuildHalted
    │   └── RebuildIncomplete
    ├── WaitTimeout                 views did not reach a position in time
    └── TaskError
        ├── SchedulerClosed
        ├── SchedulerFull
        ├── TaskExists
        ├── TaskFailed
        ├── TaskNotFound
        └── TaskTimedOut

Messages say what happened, where (projection, key, position) and what to do next. Drivers' exceptions are translated where
the driver is called, ``from`` their cause.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "AtomicPublishUnsupported",
    "ClaimHeld",
    "ClaimLost",
    "ConfigurationError",
    "ContinuityError",
    "DefinitionError",
    "EventError",
    "EventsExpired",
    "HandlerError",
    "IdentityMismatch",
    "JetStreamUnavailable",
    "NatsUnavailable",
    "NotPermitted",
    "ProjectionError",
    "ProjectionStoreError",
    "PublishError",
    "RebuildError",
    "RebuildHalted",
    "RebuildIncomplete",
    "RefoldError",
    "RowRefused",
    "SchedulerClosed",
    "SchedulerFull",
    "SchemaMismatch",
    "StoreBusy",
    "StoreError",
    "StoreUnavailable",
    "StreamError",
    "StreamNotFound",
    "StreamReplaced",
    "SubjectError",
    "TaskError",
    "TaskExists",
    "TaskFailed",
    "TaskNotFound",
    "TaskTimedOut",
    "UndecodableEvent",
    "VersionConflict",
    "WaitTimeout",
    "printable",
    "told",
]


class RefoldError(Exception):
    """Base of every error that refold raises on purpose."""


class ConfigurationError(RefoldError):
    """A setting, an argument or an application path is wrong."""


class DefinitionError(RefoldError, TypeError):
    """A projector, view or event class is wrong; raised when the class is made."""


class EventError(RefoldError):
    """One event cannot be used."""


class UndecodableEvent(EventError):
    """The body is no envelope, or its payload is not what the event type says."""


class IdentityMismatch(EventError):
    """Subject and envelope name different aggregates or event types."""


class SubjectError(EventError, ValueError):
    """An identity cannot be written as, or read from, a subject."""


class ProjectionError(RefoldError):
    """One event or row of one projection failed.

    Args:
        message: what happened and what to do.
        projection: the projection's name.
        key: the view's key, when it is known.
        position: the stream sequence of the event, when it is known.
    """

    def __init__(
        self, message: str, *, projection: str = "", key: str | None = None, position: int | None = None
    ) -> None:
        super().__init__(message)
        self.projection = projection
        self.key = key
        self.position = position


class HandlerError(ProjectionError):
    """A projector's handler, ``key=`` or ``keys=`` raised."""


class RowRefused(ProjectionError):
    """A view holds a value that its column cannot."""


class StreamError(RefoldError):
    """NATS or JetStream could not do what was asked."""


class NatsUnavailable(StreamError):
    """No connection to NATS: check the URL, the server and the credentials."""


class JetStreamUnavailable(StreamError):
    """NATS answers, JetStream does not: start the server with JetStream on, or check the account."""


class NotPermitted(StreamError):
    """The NATS user may not do this: check its publish and subscribe permissions."""


class StreamNotFound(StreamError):
    """The stream does not exist.

    Args:
        stream: its name.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"stream {stream!r} does not exist; create it, publish to it, or check its name (stream= or REFOLD_STREAM; "
            "--stream of refold import)"
        )
        self.stream = stream


class ContinuityError(StreamError):
    """A message is missing, repeated or out of order between the server and this reader."""


class StreamReplaced(StreamError):
    """Another stream is in the place of the one that a projection has read, or it lost its end: views must be rebuilt."""


class EventsExpired(StreamError):
    """Events that a projection has not read are gone from its stream."""


class PublishError(StreamError):
    """An event was not stored."""


class VersionConflict(PublishError):
    """The aggregate is not at the expected version: someone else published first.

    Args:
        aggregate_type: the aggregate's type.
        aggregate_id: its id.
        expected: the version that the caller expected.
        actual: the version in the stream, or None where it is not known.
    """

    def __init__(self, aggregate_type: str, aggregate_id: str, expected: int, actual: int | None) -> None:
        found = "another version" if actual is None else f"version {actual}"
        super().__init__(
            f"{aggregate_type} {aggregate_id!r} is at {found}, expected {expected}: read it again and decide anew"
        )
        self.aggregate_type = aggregate_type
        self.aggregate_id = aggregate_id
        self.expected = expected
        self.actual = actual


class AtomicPublishUnsupported(PublishError):
    """Several events were to be stored all or none, and the server or stream cannot."""


class StoreError(RefoldError):
    """The database could not do what was asked."""


class StoreUnavailable(StoreError):
    """No connection to the database: check the URL, the server and the credentials."""


class StoreBusy(StoreError):
    """The database put the transaction off (a deadlock, a lock held for too long, a conflict): try again."""


class ProjectionStoreError(StoreError):
    """The database could not do what was asked for one projection; others are well.

    Args:
        message: what happened and what to do.
        projection: the projection's name.
    """

    def __init__(self, message: str, *, projection: str) -> None:
        super().__init__(message)
        self.projection = projection


class ClaimHeld(StoreError):
    """Another process runs this projection.

    Args:
        message: who, since when, and what to do.
        projection: the projection's name.
        owner: who holds it.
    """

    def __init__(self, message: str, *, projection: str, owner: str) -> None:
        super().__init__(message)
        self.projection = projection
        self.owner = owner


class ClaimLost(StoreError):
    """A projection is no longer this process's to write, or not in the way that it thought; nothing was written."""


class SchemaMismatch(StoreError):
    """A view class and its table differ.

    Args:
        message: which column, and what to do.
        table: the table's name.
        column: the first column that differs.
    """

    def __init__(self, message: str, *, table: str, column: str) -> None:
        super().__init__(message)
        self.table = table
        self.column = column


class RebuildError(RefoldError):
    """A rebuild did not end with new views; readers still see the old ones.

    Args:
        message: what happened and what to do.
        projection: whom it concerns, where it concerns one alone.
    """

    def __init__(self, message: str, *, projection: str = "") -> None:
        super().__init__(message)
        self.projection = projection


class RebuildHalted(RebuildError):
    """The error policy says halt, and an event failed."""


class RebuildIncomplete(RebuildError):
    """Events were skipped or parked, so the new views were not put in place."""


class WaitTimeout(RefoldError, TimeoutError):
    """Views did not reach a position in time.

    Args:
        message: which, and how far they are.
        positions: how far each projection is; one that has no views is left out.
    """

    def __init__(self, message: str, positions: Mapping[str, int]) -> None:
        super().__init__(message)
        self.positions = positions


class TaskError(RefoldError):
    """A task or its scheduler could not do what was asked."""


class SchedulerClosed(TaskError):
    """The scheduler takes no more tasks."""


class SchedulerFull(TaskError):
    """The scheduler has as many tasks as it may.

    Args:
        capacity: how many that is.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(
            f"{capacity:,} tasks wait or run, and no more are taken: schedule it again when some are over, cancel some, or "
            "give the scheduler a larger capacity="
        )
        self.capacity = capacity


class TaskExists(TaskError):
    """A task with this id waits or runs already.

    Args:
        task_id: the id.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id!r} waits or runs already: cancel it first, or give the new one another id")
        self.task_id = task_id


class TaskFailed(TaskError):
    """Raised by a task's work: it failed for good, and is not to be tried again."""


class TaskNotFound(TaskError):
    """No task with this id is known, or its time to live is over.

    Args:
        task_id: the id.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id!r} is not known: it was never scheduled here, or its time to live is over")
        self.task_id = task_id


class TaskTimedOut(TaskError):
    """An attempt took longer than the task's timeout, and was cancelled."""


def told(error: BaseException) -> str:
    """An exception's type and text on one line of printable characters, whatever a user's code made of it."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (a user's exception may do anything)
        text = "(without a text)"
    return f"{type(error).__name__}: {printable(text)}"[:500]


def printable(text: str) -> str:
    """A text whose control characters, line breaks and lone surrogates are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
