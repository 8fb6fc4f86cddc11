"""refold turns the events of NATS JetStream streams into read models, keeps them right, and rebuilds them fast."""

from __future__ import annotations

from refold.app import App, ViewsAt
from refold.beside import alongside
from refold.clock import AlarmClock, Clock, SystemClock
from refold.codecs import CloudEventsCodec, GoCodec, JsonCodec
from refold.config import Settings
from refold.engine.aggregates import IndexedAggregate, StoredIndexer
from refold.engine.full import FullProjection, FullProjectionResult, FullProjectionTask
from refold.engine.live.group import LiveLimits
from refold.engine.live.hooks import BatchApplied, Hook, LiveEvent, Quarantine, Retrying, StateChanged
from refold.engine.live.status import BuildingStatus, ProjectionStatus
from refold.engine.outcome import Progress, ProgressHook, RebuildLimits, RebuildResult
from refold.engine.policy import ErrorPolicy, Fault, Retry
from refold.engine.projector import AggregateProjector, Projector, on
from refold.engine.spec import DELETE
from refold.event import DomainEvent, EventType, NewEvent, event
from refold.filters import EventFilter
from refold.ports import (
    AggregateIndexer,
    Checkpoint,
    Codec,
    Condition,
    DeadLetter,
    EventReader,
    EventSource,
    GenerationWriter,
    LetterKind,
    Order,
    Page,
    PublishAck,
    Snapshot,
    Status,
    StreamPublisher,
    StreamReader,
    ViewRepository,
    ViewStore,
    Wanted,
)
from refold.running import run
from refold.subjects import SubjectScheme
from refold.tasks import (
    At,
    Backoff,
    ConcurrentScheduler,
    Cron,
    Every,
    HybridScheduler,
    Now,
    Run,
    Scheduler,
    SequentialScheduler,
    Task,
    TaskInfo,
    TaskStatus,
)
from refold.view import Index, View

__all__ = [
    "DELETE",
    "AggregateIndexer",
    "AggregateProjector",
    "AlarmClock",
    "App",
    "At",
    "Backoff",
    "BatchApplied",
    "BuildingStatus",
    "Checkpoint",
    "Clock",
    "CloudEventsCodec",
    "Codec",
    "ConcurrentScheduler",
    "Condition",
    "Cron",
    "DeadLetter",
    "DomainEvent",
    "ErrorPolicy",
    "EventFilter",
    "EventReader",
    "EventSource",
    "EventType",
    "Every",
    "Fault",
    "FullProjection",
    "FullProjectionResult",
    "FullProjectionTask",
    "GenerationWriter",
    "GoCodec",
    "Hook",
    "HybridScheduler",
    "Index",
    "IndexedAggregate",
    "JsonCodec",
    "LetterKind",
    "LiveEvent",
    "LiveLimits",
    "NewEvent",
    "Now",
    "Order",
    "Page",
    "Progress",
    "ProgressHook",
    "ProjectionStatus",
    "Projector",
    "PublishAck",
    "Quarantine",
    "RebuildLimits",
    "RebuildResult",
    "Retry",
    "Retrying",
    "Run",
    "Scheduler",
    "SequentialScheduler",
    "Settings",
    "Snapshot",
    "StateChanged",
    "Status",
    "StoredIndexer",
    "StreamPublisher",
    "StreamReader",
    "SubjectScheme",
    "SystemClock",
    "Task",
    "TaskInfo",
    "TaskStatus",
    "View",
    "ViewRepository",
    "ViewStore",
    "ViewsAt",
    "Wanted",
    "alongside",
    "event",
    "on",
    "run",
]
