"""refold turns the events of NATS JetStream streams into read models, keeps them right, and rebuilds them fast."""

from __future__ import annotations

from refold.app import App
from refold.clock import AlarmClock, Clock, SystemClock
from refold.codecs import CloudEventsCodec, GoCodec, JsonCodec
from refold.config import Settings
from refold.engine.full import FullProjection, FullProjectionResult, FullProjectionTask
from refold.engine.outcome import Progress, ProgressHook, RebuildLimits, RebuildResult
from refold.engine.policy import ErrorPolicy, Fault
from refold.engine.projector import AggregateProjector, Projector, on
from refold.engine.spec import DELETE
from refold.event import DomainEvent, EventType, NewEvent, event
from refold.filters import EventFilter
from refold.ports import (
    AggregateIndexer,
    Codec,
    Condition,
    EventReader,
    EventSource,
    GenerationWriter,
    Order,
    Page,
    PublishAck,
    StreamPublisher,
    StreamReader,
    ViewRepository,
    ViewStore,
)
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
    "Clock",
    "CloudEventsCodec",
    "Codec",
    "ConcurrentScheduler",
    "Condition",
    "Cron",
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
    "HybridScheduler",
    "Index",
    "JsonCodec",
    "NewEvent",
    "Now",
    "Order",
    "Page",
    "Progress",
    "ProgressHook",
    "Projector",
    "PublishAck",
    "RebuildLimits",
    "RebuildResult",
    "Run",
    "Scheduler",
    "SequentialScheduler",
    "Settings",
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
    "event",
    "on",
]
