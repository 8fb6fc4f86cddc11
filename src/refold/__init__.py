"""refold turns the events of NATS JetStream streams into read models, keeps them right, and rebuilds them fast."""

from __future__ import annotations

from refold.app import App
from refold.clock import Clock, SystemClock
from refold.codecs import CloudEventsCodec, GoCodec, JsonCodec
from refold.config import Settings
from refold.engine.aggregates import IndexedAggregate, StoredIndexer
from refold.engine.full import FullProjection, FullProjectionResult, FullProjectionTask
from refold.engine.live.group import LiveLimits
from refold.engine.live.status import ProjectionStatus
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
from refold.view import Index, View

__all__ = [
    "DELETE",
    "AggregateIndexer",
    "AggregateProjector",
    "App",
    "Checkpoint",
    "Clock",
    "CloudEventsCodec",
    "Codec",
    "Condition",
    "DeadLetter",
    "DomainEvent",
    "ErrorPolicy",
    "EventFilter",
    "EventReader",
    "EventSource",
    "EventType",
    "Fault",
    "FullProjection",
    "FullProjectionResult",
    "FullProjectionTask",
    "GenerationWriter",
    "GoCodec",
    "Index",
    "IndexedAggregate",
    "JsonCodec",
    "LetterKind",
    "LiveLimits",
    "NewEvent",
    "Order",
    "Page",
    "Progress",
    "ProgressHook",
    "ProjectionStatus",
    "Projector",
    "PublishAck",
    "RebuildLimits",
    "RebuildResult",
    "Retry",
    "Settings",
    "Snapshot",
    "Status",
    "StoredIndexer",
    "StreamPublisher",
    "StreamReader",
    "SubjectScheme",
    "SystemClock",
    "View",
    "ViewRepository",
    "ViewStore",
    "Wanted",
    "event",
    "on",
    "run",
]
