"""sitq: an embeddable, async-first task queue in one SQLite file."""

from sitq.backends.base import Backend
from sitq.carrying import ContextProvider
from sitq.context import CurrentTask, current_task
from sitq.details import AttemptError, TaskDetails
from sitq.enqueuer import Enqueuer
from sitq.errors import (
    BackendConnectionError,
    BackendError,
    BackendSchemaError,
    BackendTimeoutError,
    BackendUnsupportedError,
    ContextProviderError,
    ParentNotFoundError,
    PayloadRefusedError,
    PayloadTooLargeError,
    ProcessStartError,
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
from sitq.executors import ProcessOptions, Runner
from sitq.failure import ErrorInfo
from sitq.flows import chain, group
from sitq.handle import SyncTaskHandle, TaskHandle
from sitq.links import result_of
from sitq.model import QueueStats, Stats, Status, TaskRecord, WorkerInfo, WorkerRecord
from sitq.progress import Progress
from sitq.providers import ContextVars, StructlogContext, TraceContext
from sitq.queue import TaskQueue
from sitq.resources import resource
from sitq.result import Result
from sitq.retry import RetryPolicy
from sitq.schedules import ScheduleRecord
from sitq.serialization import (
    About,
    CallParts,
    CloudpickleSerializer,
    Compressed,
    Encrypted,
    JSONSerializer,
    MsgpackSerializer,
    OldPayload,
    Purpose,
    Serializer,
    Signed,
    TreeSerializer,
    Versioned,
)
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
    "chain",
    "group",
    "result_of",
    "current_task",
    "CurrentTask",
    "resource",
    "ContextProvider",
    "ContextVars",
    "StructlogContext",
    "TraceContext",
    "RetryPolicy",
    "Retry",
    "Snooze",
    "Cancel",
    "Worker",
    "ProcessOptions",
    "Runner",
    # -- Write as bytes
    "Serializer",
    "About",
    "Purpose",
    "CallParts",
    "CloudpickleSerializer",
    "JSONSerializer",
    "MsgpackSerializer",
    "TreeSerializer",
    "Compressed",
    "Signed",
    "Encrypted",
    "Versioned",
    "OldPayload",
    # -- Store
    "Backend",
    # -- Errors
    "SitqError",
    "ValidationError",
    "TaskError",
    "TaskNotFoundError",
    "ParentNotFoundError",
    "ResultExpiredError",
    "TaskTimeoutError",
    "TaskFailedError",
    "TaskRetryExhaustedError",
    "TaskCancelledError",
    "TaskStaleError",
    "TaskSerializationError",
    "PayloadRefusedError",
    "ContextProviderError",
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
    "ProcessStartError",
]
