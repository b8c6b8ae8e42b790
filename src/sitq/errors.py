"""Every exception that sitq raises on purpose.

One shallow tree by cause: the task, the queue, the storage, the worker. Messages name what was wrong and the way out.
"""


class SitqError(Exception):
    """Base of all errors raised by sitq."""


class ValidationError(SitqError, ValueError):
    """An argument given to sitq is not usable. The message names the argument and the fix; nothing was stored."""


# -- Task: what happened to one task ---------------------------------------------------------------


class TaskError(SitqError):
    """Base of errors that concern one task."""


class TaskNotFoundError(TaskError, LookupError):
    """No task has this id: it was never enqueued here, or its result was kept for `result_ttl` and then pruned."""

    _why = "it was never enqueued in this store, or its result_ttl has passed and it was pruned"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"no task {task_id!r}: {self._why}")
        self.task_id = task_id

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.task_id,)


class ParentNotFoundError(TaskNotFoundError, ValidationError):
    """A task was to depend on one that is not in this store. Nothing was stored."""

    def __init__(self, task_id: str) -> None:
        Exception.__init__(
            self,
            f"there is no task {task_id!r} to depend on, by depends_on or as an argument: enqueue it first, into the "
            "same store, and before its result_ttl has passed. str(handle) passes the plain id. Nothing was stored",
        )
        self.task_id = task_id


class ResultExpiredError(TaskNotFoundError):
    """The task was stored and is gone: its `result_ttl` passed after its end, or it was removed by hand."""

    _why = (
        "its result has expired: result_ttl passed after its end and it was pruned, or it was removed by hand; or the "
        "transaction in which it was enqueued was not committed"
    )


class TaskTimeoutError(TaskError, TimeoutError):
    """The task did not finish within the time the caller was willing to wait. The task itself goes on."""


class TaskFailedError(TaskError):
    """The task ended in failure. Carries what the worker recorded, as data: the original exception is not rebuilt."""

    def __init__(self, task_id: str, error_type: str, message: str, traceback: str = "") -> None:
        text = f"task {task_id} {self._how()}: {error_type}: {message}"
        super().__init__(f"{text}\n\nTraceback in the worker:\n{traceback}" if traceback else text)
        self.task_id = task_id
        self.error_type = error_type
        self.message = message
        self.traceback = traceback

    def _how(self) -> str:
        return "failed"

    def __reduce__(self) -> tuple[type, tuple[str | int, ...]]:
        return type(self), (self.task_id, self.error_type, self.message, self.traceback)


class TaskRetryExhaustedError(TaskFailedError):
    """The task was retried and failed for good. What it carries is of the last of its `attempts`."""

    def __init__(self, task_id: str, error_type: str, message: str, traceback: str, attempts: int) -> None:
        self.attempts = attempts
        super().__init__(task_id, error_type, message, traceback)

    def _how(self) -> str:
        return f"failed for good in attempt {self.attempts}"

    def __reduce__(self) -> tuple[type, tuple[str | int, ...]]:
        return type(self), (self.task_id, self.error_type, self.message, self.traceback, self.attempts)


class TaskStaleError(TaskError):
    """This run of the task does not count any more: its lease was lost, or the task has ended. Nothing was written."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"this run does not hold task {task_id} any more: its lease was lost, or the task has ended already, by an "
            "earlier complete_in() perhaps. Nothing was written: roll your transaction back"
        )
        self.task_id = task_id

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.task_id,)


class TaskCancelledError(TaskError):
    """The task was cancelled and has no value."""


class TaskSerializationError(TaskError):
    """A call, a result or an error cannot be turned into bytes, or these bytes cannot be read back."""


class PayloadRefusedError(TaskSerializationError):
    """These bytes are not of the kind that this queue reads, or they cannot be verified. Nothing in them was run."""


class ContextProviderError(TaskError):
    """A context provider failed: at `enqueue`, which stored nothing, or before a run, and the task was parked."""

    def __init__(self, provider: str, what: str) -> None:
        super().__init__(f"context provider {provider!r} {what}")
        self.provider = provider
        self.what = what

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.provider, self.what)


class PayloadTooLargeError(TaskSerializationError):
    """The encoded call or result is larger than the queue's `max_payload`."""


# -- Queue -----------------------------------------------------------------------------------------


class QueueError(SitqError):
    """Base of errors that concern the queue as a whole."""


class QueueClosedError(QueueError):
    """The queue was closed. Open it again with `async with queue` or `await queue.open()`."""


class QueueFullError(QueueError):
    """The queue has as many pending tasks as `max_pending` allows. Nothing was stored; try again later."""

    def __init__(self, queue: str, limit: int) -> None:
        super().__init__(
            f"queue {queue!r} is full: max_pending allows {limit:,} pending tasks. Nothing was stored; try again later"
        )
        self.queue = queue
        self.limit = limit

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (self.queue, self.limit)


class ScheduleNotFoundError(QueueError, LookupError):
    """No schedule has this name in this store."""

    def __init__(self, name: str, near: str | None = None) -> None:
        hint = (
            f": did you mean {near!r}?" if near else ": it was never defined in this store, or it was removed"
        )
        super().__init__(f"no schedule {name!r}{hint}")
        self.name = name
        self.near = near

    def __reduce__(self) -> tuple[type, tuple[str, str | None]]:
        return type(self), (self.name, self.near)


class QueueEmptyError(QueueError):
    """There was nothing to take: `process_task` found the task running elsewhere, waiting or not yet due."""


# -- Storage ---------------------------------------------------------------------------------------


class BackendError(SitqError):
    """The storage failed. Unless a subclass says otherwise the outcome is unknown: repeat with the same task id."""


class BackendConnectionError(BackendError):
    """The storage cannot be opened or reached: not a database, no permission, wrong file system, wrong process."""


class BackendSchemaError(BackendConnectionError):
    """The storage was written by a newer sitq, or lacks something that belongs to it. It is left untouched."""


class BackendTimeoutError(BackendError):
    """Somebody else held the write lock for longer than `busy_timeout`, or wrote after your transaction had read.

    Nothing was written.
    """


class BackendUnsupportedError(BackendError):
    """This kind of storage cannot do it. Nothing was written; the message names one that can."""


class StorageFullError(BackendError):
    """No space left, or a quota was hit. Nothing was written."""


# -- Worker ----------------------------------------------------------------------------------------


class WorkerError(SitqError):
    """Base of errors that concern a worker."""


class WorkerStoppedError(WorkerError):
    """The worker is not running, or was stopped; make a new one."""


class ProcessStartError(WorkerError):
    """A child process of a worker cannot start. The task that was to run there is put off, and its message says why."""


class WorkerBusyError(WorkerError):
    """Every slot of the worker is taken."""
