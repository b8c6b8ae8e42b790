"""Who hears of an event: the log, and whoever asked for its kind."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Mapping
from contextvars import Context
from typing import Any, Final

from sitq.events import (
    BackgroundTasksLeft,
    ContextIgnored,
    ContextNotLeft,
    ErrorAfterCompletion,
    Event,
    EventHandler,
    LoopBlocked,
    OutcomeRefused,
    ScheduleFailed,
    StorageFailed,
    TaskCancelled,
    TaskCrashed,
    TaskEnqueued,
    TaskFailed,
    TaskLogged,
    TaskLost,
    TaskParked,
    TaskProgressed,
    TaskPublished,
    TaskReleased,
    TaskRequeued,
    TaskRetried,
    TaskStarted,
    TaskStuck,
    TaskSucceeded,
    TickDropped,
    TicksMissed,
    WorkerStarted,
    WorkerStopped,
    WorkerStopping,
)

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
    TaskCrashed: (
        logging.ERROR,
        "task.crashed",
        f"crashed {_TASK}, {{duration:.3f}} s: {{error}}",
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
    ContextIgnored: (
        logging.WARNING,
        "context.ignored",
        "{task}[{task_id}] carries data of context provider {provider!r}, which is ignored: this worker has none",
    ),
    ContextNotLeft: (
        logging.ERROR,
        "context.not_left",
        "context provider {provider!r} failed after {task}[{task_id}]: {error_type}: {error}",
    ),
    OutcomeRefused: (
        logging.WARNING,
        "task.refused",
        "outcome of {task_id} refused: its lease had been lost",
    ),
    ErrorAfterCompletion: (
        logging.WARNING,
        "task.error_after_completion",
        f"went wrong after its completion, and has succeeded: {_TASK}: {{error_type}}: {{error}}",
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


class Emitter:
    """Hands each event to the log and to those who asked for its kind.

    Handlers are called where the event happens, on whatever thread that is. What they raise is logged and goes no
    further. Coroutines run on the loop that `bind` was called on, in a context of their own.

    Args:
        parent: Its handlers hear of these events, too.
    """

    def __init__(self, parent: "Emitter | None" = None) -> None:
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
