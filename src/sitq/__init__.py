"""sitq: an embeddable, async-first task queue in one SQLite file."""

from sitq.backends.base import Backend
from sitq.context import CurrentTask, current_task
from sitq.errors import (
    BackendConnectionError,
    BackendError,
    BackendSchemaError,
    BackendTimeoutError,
    PayloadTooLargeError,
    QueueClosedError,
    QueueEmptyError,
    QueueError,
    ScheduleNotFoundError,
    SitqError,
    StorageFullError,
    TaskCancelledError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    TaskSerializationError,
    TaskTimeoutError,
    ValidationError,
    WorkerBusyError,
    WorkerError,
    WorkerStoppedError,
)
from sitq.handle import Result, SyncTaskHandle, TaskHandle
from sitq.model import QueueStats, Stats, Status, TaskRecord
from sitq.queue import Enqueuer, TaskQueue
from sitq.schedules import ScheduleRecord
from sitq.sync import SyncEnqueuer, SyncTaskQueue
from sitq.task import Call, Task, call, task
from sitq.worker import Worker

__all__ = [
    # -- Enqueue and look
    "TaskQueue",
    "Enqueuer",
    "TaskHandle",
    "SyncTaskQueue",
    "SyncEnqueuer",
    "SyncTaskHandle",
    "Result",
    "Status",
    "TaskRecord",
    "QueueStats",
    "Stats",
    "ScheduleRecord",
    # -- Define and run
    "task",
    "Task",
    "call",
    "Call",
    "current_task",
    "CurrentTask",
    "Worker",
    # -- Store
    "Backend",
    # -- Errors
    "SitqError",
    "ValidationError",
    "TaskError",
    "TaskNotFoundError",
    "TaskTimeoutError",
    "TaskFailedError",
    "TaskCancelledError",
    "TaskSerializationError",
    "PayloadTooLargeError",
    "QueueError",
    "QueueClosedError",
    "QueueEmptyError",
    "ScheduleNotFoundError",
    "BackendError",
    "BackendConnectionError",
    "BackendSchemaError",
    "BackendTimeoutError",
    "StorageFullError",
    "WorkerError",
    "WorkerStoppedError",
    "WorkerBusyError",
]
