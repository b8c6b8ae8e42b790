"""What happens, as values, and who hears of it: the log, and whoever asked for a kind of event.

Code that does something emits an event and never logs. Arguments and results are in no event, so they reach no log.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
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
    """The lease of a running task went to somebody else; what this run makes of it no longer counts."""

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
    | TaskProgressed
    | TaskLogged
    | TaskPublished
    | TaskRetried
    | TaskParked
    | TaskRequeued
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
type EventHandler[E] = Callable[[E], Any]
"""Plain, or async: then what it returns is awaited."""

_logger = logging.getLogger("sitq")
# A library is silent until its application asks for logs.
_logger.addHandler(logging.NullHandler())

_LAST_WORDS: Final = 1.0
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
    TaskProgressed: (
        logging.DEBUG,
        "task.progressed",
        "progress of {task}[{task_id}]: {percent:g} % {note}",
    ),
    TaskLogged: (logging.DEBUG, "task.logged", "{task}[{task_id}] says: {text}"),
    TaskPublished: (logging.DEBUG, "task.published", "{task}[{task_id}] published a partial result"),
    TaskRetried: (
        logging.WARNING,
        "task.retried",
        f"retry of {_TASK}, {{duration:.3f}} s: {{error_type}}: {{error}}",
    ),
    TaskParked: (
        logging.WARNING,
        "task.parked",
        f"parked {_TASK}: {{error_type}}: {{error}}",
    ),
    TaskRequeued: (logging.INFO, "task.requeued", "requeued {task}[{task_id}] on {queue}"),
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
    data.pop("value", None)  # a partial result is nothing for a log
    _logger.log(level, "%s", template.format_map(data), extra={"event": name, **data})


class Events:
    """Hands each event to the log and to those who asked for its kind.

    Handlers are called where the event happens, on whatever thread that is. What they raise is logged and goes no
    further. Coroutines run on the loop that `bind` was called on, in a context of their own.

    Args:
        parent: Its handlers hear of these events, too.
    """

    def __init__(self, parent: "Events | None" = None) -> None:
        self._parent = parent
        self._handlers: dict[type[Any], list[EventHandler[Any]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Future[Any]] = set()

    def bind(self) -> None:
        """Run coroutines of handlers on the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def on(self, kind: type[Any], handler: EventHandler[Any]) -> None:
        """Call `handler` with each event of this kind."""
        self._handlers.setdefault(kind, []).append(handler)

    def wants(self, kind: type[Any]) -> bool:
        """Return whether anybody would see such an event: what happens with every task is not made for nobody."""
        return (
            kind in self._handlers
            or _logger.isEnabledFor(_LINES[kind][0])
            or (self._parent is not None and kind in self._parent._handlers)
        )

    def __call__(self, event: Event) -> None:
        log_event(event)
        self._hand_out(event)
        if self._parent is not None:
            self._parent._hand_out(event)

    async def settle(self, timeout: float) -> None:
        """Wait for coroutines of handlers, for `timeout` seconds at most; then cancel them. One of them may call it."""
        await asyncio.sleep(0)  # those of events that have just happened begin
        deadline = asyncio.get_running_loop().time() + timeout
        while others := self._running - {asyncio.current_task()}:
            left = deadline - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.wait(others, timeout=left)
                continue
            for late in others:
                late.cancel()
            await asyncio.wait(others, timeout=_LAST_WORDS)
            return

    def _hand_out(self, event: Event) -> None:
        for handler in self._handlers.get(type(event), ()):
            try:
                made = handler(event)
            except BaseException:
                _logger.exception("a handler of %s raised", type(event).__name__)
                continue
            if inspect.isawaitable(made):  # what else a plain function returns is nobody's concern
                self._run(made, event)

    def _run(self, made: Awaitable[Any], event: Event) -> None:
        try:
            if self._loop is None:
                raise RuntimeError("the queue was never opened")
            self._loop.call_soon_threadsafe(self._start, made, event, context=Context())
        except RuntimeError as error:  # or its loop is closed
            if inspect.iscoroutine(made):
                made.close()
            _logger.error("an async handler of %s was not run: %s", type(event).__name__, error)

    def _start(self, made: Awaitable[Any], event: Event) -> None:
        assert self._loop is not None
        task = self._loop.create_task(_guarded(made, event), name="sitq-handler")
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def _guarded(work: Awaitable[Any], event: Event) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except BaseException:
        _logger.exception("a handler of %s raised", type(event).__name__)
