"""What happens, as values.

Code that does something emits an event and never logs; `sitq.emitter` says who hears of it. Arguments and results are
in no event, so they reach no log.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from sitq.model import TaskId


class TaskEnqueued(NamedTuple):
    """A task is stored."""

    task_id: TaskId
    task: str
    queue: str


class TaskStarted(NamedTuple):
    """An attempt begins."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str


class TaskSucceeded(NamedTuple):
    """An attempt returned; its result is on the way to the storage."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class TaskFailed(NamedTuple):
    """An attempt failed and the task is given up."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float
    error_type: str
    error: str


class TaskRetried(NamedTuple):
    """An attempt failed and the task is tried again later. In a task's stream worker and duration are None."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str | None
    duration: float | None
    error_type: str
    error: str


class TaskCrashed(NamedTuple):
    """The process of an attempt died, and nothing else with it. The task is tried again, up to its `max_crashes`."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float
    error_type: str
    error: str


class TaskParked(NamedTuple):
    """A task cannot be loaded by this worker and waits for one that can; the attempt is not counted."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float
    error_type: str
    error: str


class TaskProgressed(NamedTuple):
    """A running task said how far it has come. `percent` is 0 to 100."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    percent: float
    note: str


class TaskLogged(NamedTuple):
    """A running task added a line to its log."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    text: str


class TaskPublished(NamedTuple):
    """A running task handed out a partial result."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    value: Any


class TaskRequeued(NamedTuple):
    """A task that had ended got a new run."""

    task_id: TaskId
    task: str
    queue: str


class TaskCancelled(NamedTuple):
    """A running task was stopped on request. In a task's stream also one that never ran."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class TaskReleased(NamedTuple):
    """A task was given back: it put itself off, or its worker stops. The attempt is not counted."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class TaskLost(NamedTuple):
    """A task that runs, or was about to, has lost its lease; what this run makes of it does not count."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class TaskStuck(NamedTuple):
    """A task did not stop when it was to. It keeps its slot until it ends; its outcome no longer counts."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class BackgroundTasksLeft(NamedTuple):
    """A task ended and left asyncio tasks behind; they were cancelled."""

    task_id: TaskId
    task: str
    worker: str
    left: int


class ContextIgnored(NamedTuple):
    """A task carries data of a context provider that its worker does not have. Told once for each provider."""

    task_id: TaskId
    task: str
    worker: str
    provider: str


class ContextNotLeft(NamedTuple):
    """A context provider failed after a run. The outcome of the run stays as it is."""

    task_id: TaskId
    task: str
    worker: str
    provider: str
    error_type: str
    error: str


class OutcomeRefused(NamedTuple):
    """The storage refused an outcome because the lease had been lost. It changed nothing."""

    task_id: TaskId
    fence: int
    worker: str


class ErrorAfterCompletion(NamedTuple):
    """A task went wrong after it had committed its own completion (`complete_in`). It has succeeded all the same."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    error_type: str
    error: str


class LoopBlocked(NamedTuple):
    """The event loop has not run for `seconds`: something blocks it. Leases are renewed all the same."""

    worker: str
    seconds: float
    task_id: TaskId | None
    stack: str


class StorageFailed(NamedTuple):
    """A worker could not reach the storage; it tries again in `retry_in` seconds."""

    worker: str
    action: str
    error: str
    retry_in: float


class TicksMissed(NamedTuple):
    """Nobody was there for some ticks of a schedule. By its `misfire` the newest `run` of them run now, no others."""

    worker: str
    schedule: str
    since: datetime
    misfire: str
    run: int


class TickDropped(NamedTuple):
    """A tick makes no task, because the task of an earlier one has not ended."""

    worker: str
    schedule: str
    tick: datetime
    holder: TaskId


class ScheduleFailed(NamedTuple):
    """A worker cannot use a schedule, and makes no tasks of it. Others may."""

    worker: str
    schedule: str
    error: str


class WorkerStarted(NamedTuple):
    """A worker begins to take tasks."""

    worker: str
    queues: str
    concurrency: int


class WorkerStopping(NamedTuple):
    """A worker takes no more tasks and waits for `running` of them."""

    worker: str
    running: int


class WorkerStopped(NamedTuple):
    """A worker has stopped; nothing it reserved is left open."""

    worker: str


type Event = (
    TaskEnqueued
    | TaskStarted
    | TaskProgressed
    | TaskLogged
    | TaskPublished
    | TaskRetried
    | TaskCrashed
    | TaskParked
    | TaskRequeued
    | TaskSucceeded
    | TaskFailed
    | TaskCancelled
    | TaskReleased
    | TaskLost
    | TaskStuck
    | BackgroundTasksLeft
    | ContextIgnored
    | ContextNotLeft
    | OutcomeRefused
    | ErrorAfterCompletion
    | LoopBlocked
    | StorageFailed
    | TicksMissed
    | TickDropped
    | ScheduleFailed
    | WorkerStarted
    | WorkerStopping
    | WorkerStopped
)
type Emit = Callable[[Event], None]
type EventHandler[E] = Callable[[E], Any]
"""Plain, or async: then what it returns is awaited."""
