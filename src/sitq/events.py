"""What happens, as values, and the one subscriber that turns them into log lines.

Code that does something emits an event and never logs. Arguments and results are in no event, so they reach no log.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

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


class TaskCancelled(NamedTuple):
    """A running task was stopped on request."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class TaskReleased(NamedTuple):
    """A worker that stops gave a task back; the attempt is not counted."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class TaskLost(NamedTuple):
    """The lease of a running task went to somebody else; what this run makes of it no longer counts."""

    task_id: TaskId
    task: str
    queue: str
    attempt: int
    worker: str
    duration: float


class TaskStuck(NamedTuple):
    """A task did not stop when it was cancelled. It keeps its slot until it ends; its outcome no longer counts."""

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


class OutcomeRefused(NamedTuple):
    """The storage refused an outcome because the lease had been lost. It changed nothing."""

    task_id: TaskId
    fence: int
    worker: str


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
    | TaskSucceeded
    | TaskFailed
    | TaskCancelled
    | TaskReleased
    | TaskLost
    | TaskStuck
    | BackgroundTasksLeft
    | OutcomeRefused
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

_logger = logging.getLogger("sitq")
# A library is silent until its application asks for logs.
_logger.addHandler(logging.NullHandler())

_TASK: Final = "{task}[{task_id}] on {queue}, attempt {attempt}"
_LINES: Final[Mapping[type[Any], tuple[int, str, str]]] = {
    TaskEnqueued: (logging.DEBUG, "task.enqueued", "enqueued {task}[{task_id}] on {queue}"),
    TaskStarted: (logging.DEBUG, "task.started", f"started {_TASK}"),
    TaskSucceeded: (logging.INFO, "task.succeeded", f"success {_TASK}, {{duration:.3f}} s"),
    TaskFailed: (
        logging.ERROR,
        "task.failed",
        f"failed {_TASK}, {{duration:.3f}} s: {{error_type}}: {{error}}",
    ),
    TaskCancelled: (logging.INFO, "task.cancelled", f"cancelled {_TASK}, {{duration:.3f}} s"),
    TaskReleased: (logging.INFO, "task.released", f"released {_TASK}, {{duration:.3f}} s"),
    TaskLost: (logging.WARNING, "task.lost", f"lost the lease of {_TASK}, {{duration:.3f}} s"),
    TaskStuck: (logging.ERROR, "task.stuck", f"does not stop: {_TASK}, {{duration:.3f}} s"),
    BackgroundTasksLeft: (
        logging.WARNING,
        "task.background_left",
        "{task}[{task_id}] left {left} asyncio task(s) running; they were cancelled",
    ),
    OutcomeRefused: (
        logging.WARNING,
        "task.refused",
        "outcome of {task_id} refused: its lease had been lost",
    ),
    LoopBlocked: (
        logging.WARNING,
        "worker.blocked",
        "the event loop is blocked for {seconds:.1f} s by task {task_id}:\n{stack}",
    ),
    StorageFailed: (
        logging.WARNING,
        "worker.storage",
        "cannot {action}, trying again in {retry_in:.1f} s: {error}",
    ),
    TicksMissed: (
        logging.WARNING,
        "schedule.missed",
        "schedule {schedule} missed ticks since {since:%Y-%m-%dT%H:%M:%SZ}: by misfire={misfire}, {run} run(s) now",
    ),
    TickDropped: (
        logging.INFO,
        "schedule.dropped",
        "schedule {schedule} drops its tick of {tick:%Y-%m-%dT%H:%M:%SZ}: task {holder} has not ended",
    ),
    ScheduleFailed: (logging.ERROR, "schedule.failed", "{error}"),
    WorkerStarted: (
        logging.INFO,
        "worker.started",
        "worker {worker} started: queues {queues}, concurrency {concurrency}",
    ),
    WorkerStopping: (logging.INFO, "worker.stopping", "worker {worker} stopping, {running} task(s) running"),
    WorkerStopped: (logging.INFO, "worker.stopped", "worker {worker} stopped"),
}


def log_event(event: Event) -> None:
    """Write one line for an event to the logger `sitq`, its fields as `extra` for structured formatters."""
    level, name, template = _LINES[type(event)]
    if not _logger.isEnabledFor(level):
        return
    data = event._asdict()
    _logger.log(level, "%s", template.format_map(data), extra={"event": name, **data})
