"""sitq: an embeddable, async-first task queue in one SQLite file."""

from sitq.backends.base import Backend
from sitq.context import CurrentTask, current_task
from sitq.details import AttemptError, TaskDetails
from sitq.enqueuer import Enqueuer
from sitq.errors import (
    BackendConnectionError,
    BackendError,
    BackendSchemaError,
    BackendTimeoutError,
    BackendUnsupportedError,
    PayloadTooLargeError,
    QueueClosedError,
    QueueEmptyError,
    QueueError,
    QueueFullError,
    ResultExpiredError,
    ScheduleNotFoundError,
    SitqError,
    StorageFullError,
    TaskCancelledError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    TaskRetryExhaustedError,
    TaskSerializationError,
    TaskStaleError,
    TaskTimeoutError,
    ValidationError,
    WorkerBusyError,
    WorkerError,
    WorkerStoppedError,
)
from sitq.failure import ErrorInfo
from sitq.handle import Result, SyncTaskHandle, TaskHandle
from sitq.model import QueueStats, Stats, Status, TaskRecord, WorkerInfo, WorkerRecord
from sitq.progress import Progress
from sitq.queue import TaskQueue
from sitq.retry import RetryPolicy
from sitq.schedules import ScheduleRecord
from sitq.stream import Streamed
from sitq.sync import SyncEnqueuer, SyncTaskQueue, SyncTransactionEnqueuer
from sitq.task import Call, Task, call, task
from sitq.verbs import Cancel, Retry, Snooze
from sitq.within import TransactionEnqueuer
from sitq.worker import Worker

__all__ = [
    # -- Enqueue and look
    "TaskQueue",
    "Enqueuer",
    "TransactionEnqueuer",
    "TaskHandle",
    "SyncTaskQueue",
    "SyncEnqueuer",
    "SyncTransactionEnqueuer",
    "SyncTaskHandle",
    "Result",
    "Status",
    "TaskRecord",
    "TaskDetails",
    "AttemptError",
    "ErrorInfo",
    "QueueStats",
    "Stats",
    "ScheduleRecord",
    "Progress",
    "Streamed",
    "WorkerRecord",
    "WorkerInfo",
    # -- Define and run
    "task",
    "Task",
    "call",
    "Call",
    "current_task",
    "CurrentTask",
    "RetryPolicy",
    "Retry",
    "Snooze",
    "Cancel",
    "Worker",
    # -- Store
    "Backend",
    # -- Errors
    "SitqError",
    "ValidationError",
    "TaskError",
    "TaskNotFoundError",
    "ResultExpiredError",
    "TaskTimeoutError",
    "TaskFailedError",
    "TaskRetryExhaustedError",
    "TaskCancelledError",
    "TaskStaleError",
    "TaskSerializationError",
    "PayloadTooLargeError",
    "QueueError",
    "QueueClosedError",
    "QueueFullError",
    "QueueEmptyError",
    "ScheduleNotFoundError",
    "BackendError",
    "BackendConnectionError",
    "BackendSchemaError",
    "BackendTimeoutError",
    "BackendUnsupportedError",
    "StorageFullError",
    "WorkerError",
    "WorkerStoppedError",
    "WorkerBusyError",
]
