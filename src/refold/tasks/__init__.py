"""Tasks and schedulers: work that is due now, at a time, or again and again, with retries, timeouts and limits."""

from refold.errors import (
    SchedulerClosed,
    SchedulerFull,
    TaskError,
    TaskExists,
    TaskFailed,
    TaskNotFound,
    TaskTimedOut,
)
from refold.tasks.concurrent import ConcurrentScheduler
from refold.tasks.health import BlockedLoop, Health, HealthStatus
from refold.tasks.hybrid import HybridScheduler
from refold.tasks.info import TaskInfo, TaskProgress, TaskStatus
from refold.tasks.lane_scheduler import LaneScheduler
from refold.tasks.scheduler import Scheduler
from refold.tasks.schedules import At, Cron, Every, Now, Schedule
from refold.tasks.sequential import SequentialScheduler
from refold.tasks.store import MemoryTaskStore, TaskStore
from refold.tasks.task import Backoff, Run, Task

__all__ = [
    "At",
    "Backoff",
    "BlockedLoop",
    "ConcurrentScheduler",
    "Cron",
    "Every",
    "Health",
    "HealthStatus",
    "HybridScheduler",
    "LaneScheduler",
    "MemoryTaskStore",
    "Now",
    "Run",
    "Schedule",
    "Scheduler",
    "SchedulerClosed",
    "SchedulerFull",
    "SequentialScheduler",
    "Task",
    "TaskError",
    "TaskExists",
    "TaskFailed",
    "TaskInfo",
    "TaskNotFound",
    "TaskProgress",
    "TaskStatus",
    "TaskStore",
    "TaskTimedOut",
]
