"""What a caller holds after enqueueing: a handle on the task, and the result as it stands."""

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sitq.checks import MAX_DURATION, Duration
from sitq.errors import (
    ResultExpiredError,
    TaskCancelledError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    TaskRetryExhaustedError,
)
from sitq.failure import decode_error
from sitq.model import Status, TaskId, TaskRecord
from sitq.serialization import Codec, Purpose
from sitq.stream import Streamed


@dataclass(frozen=True, slots=True, kw_only=True)
class Result[R]:
    """A task as its caller sees it.

    Attributes:
        value: What the task returned; None unless `status` is success.
        error: The message of what made it fail, or of why it is parked, waits for another attempt or was cancelled;
            None if nothing went wrong, or it succeeded in the end.
        error_type: The qualified name of the exception's class, as text.
        traceback: Where it was raised in the worker, as text, without local variables.
        attempts: How many times a worker reserved it; of a task that was given up as `worker_lost` the last
            reservation only recorded that.
        exhausted: It failed in the last of several attempts.
    """

    id: TaskId
    status: Status
    value: R | None = None
    error: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    enqueued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    exhausted: bool = False

    def unwrap(self) -> R:
        """The value of a task that succeeded.

        Raises:
            TaskFailedError: The task failed; with the traceback of the worker.
            TaskRetryExhaustedError: The same, in the last of several attempts.
            TaskCancelledError: The task was cancelled.
            TaskError: The task has not finished yet.
        """
        match self.status:
            case Status.SUCCESS:
                return self.value  # type: ignore[return-value]  # R may be None
            case Status.FAILED:
                told = (self.id, self.error_type or "", self.error or "", self.traceback or "")
                if self.exhausted:
                    raise TaskRetryExhaustedError(*told, self.attempts)
                raise TaskFailedError(*told)
            case Status.CANCELLED:
                raise TaskCancelledError(
                    f"task {self.id} was cancelled" + (f": {self.error}" if self.error else "")
                )
            case _:
                raise TaskError(
                    f"task {self.id} is {self.status}, not finished: wait with get_result(id, timeout=...)"
                )


def result_of(record: TaskRecord, codec: Codec) -> Result[Any]:
    """A record that was read with its bytes, as its caller sees it. Raises `TaskSerializationError`."""
    error = None
    if record.error is not None:
        error = decode_error(codec.unseal(record.error, record.id, Purpose.ERROR))
    return Result(
        id=record.id,
        status=record.status,
        value=codec.decode_value(record.result, record.id, Purpose.RESULT, record.name)
        if record.status is Status.SUCCESS and record.result is not None
        else None,
        error=error.message if error else None,
        error_type=error.type if error else None,
        traceback=error.traceback if error else None,
        enqueued_at=record.enqueued_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        attempts=record.attempt,
        exhausted=error.exhausted if error else False,
    )


class _Tasks(Protocol):
    """What a handle needs of its queue."""

    async def get_result(self, task_id: TaskId, timeout: Duration | None = None) -> Result[Any]: ...
    async def get_status(self, task_id: TaskId) -> Status: ...
    async def cancel(self, task_id: TaskId, timeout: Duration | None = None) -> Status: ...
    def events(self, task_id: TaskId, *, after: str | None = None) -> AsyncGenerator[Streamed]: ...


class _SyncTasks(Protocol):
    def get_result(self, task_id: TaskId, timeout: Duration | None = None) -> Result[Any]: ...
    def get_status(self, task_id: TaskId) -> Status: ...
    def cancel(self, task_id: TaskId, timeout: Duration | None = None) -> Status: ...
    def events(self, task_id: TaskId, *, after: str | None = None) -> Generator[Streamed]: ...


class TaskHandle[R](str):
    """The id of a task that also knows its queue: a `str` to log, store and send. It pickles as its plain id."""

    __slots__ = ("_tasks",)
    _tasks: _Tasks

    def __new__(cls, task_id: TaskId, tasks: _Tasks) -> "TaskHandle[R]":
        self = super().__new__(cls, task_id)
        self._tasks = tasks
        return self

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait for the end and return the value. Without a timeout it waits for as long as it takes.

        Raises:
            TaskFailedError: The task failed; with the traceback of the worker.
            TaskRetryExhaustedError: The same, in the last of several attempts.
            TaskCancelledError: The task was cancelled.
            TaskTimeoutError: It did not finish in time; it goes on.
            ResultExpiredError: It was pruned, or removed by hand.
        """
        try:
            result: Result[R] = await self._tasks.get_result(
                self, MAX_DURATION if timeout is None else timeout
            )
        except TaskNotFoundError:
            # Who has a handle has enqueued it: it was there.
            raise ResultExpiredError(str(self)) from None
        return result.unwrap()

    async def status(self) -> Status:
        """Where the task is in its life."""
        return await self._tasks.get_status(self)

    async def cancel(self, timeout: Duration | None = None) -> Status:
        """Cancel the task, as `TaskQueue.cancel` does."""
        return await self._tasks.cancel(self, timeout)

    def events(self, *, after: str | None = None) -> AsyncGenerator[Streamed]:
        """What happens to the task until it has finished, as `TaskQueue.events` tells it: use it with `async for`."""
        return self._tasks.events(self, after=after)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class SyncTaskHandle[R](str):
    """`TaskHandle` for code without an event loop."""

    __slots__ = ("_tasks",)
    _tasks: _SyncTasks

    def __new__(cls, task_id: TaskId, tasks: _SyncTasks) -> "SyncTaskHandle[R]":
        self = super().__new__(cls, task_id)
        self._tasks = tasks
        return self

    def result(self, timeout: Duration | None = None) -> R:
        """As `TaskHandle.result`."""
        try:
            result: Result[R] = self._tasks.get_result(self, MAX_DURATION if timeout is None else timeout)
        except TaskNotFoundError:
            raise ResultExpiredError(str(self)) from None
        return result.unwrap()

    def status(self) -> Status:
        """As `TaskHandle.status`."""
        return self._tasks.get_status(self)

    def cancel(self, timeout: Duration | None = None) -> Status:
        """As `TaskHandle.cancel`."""
        return self._tasks.cancel(self, timeout)

    def events(self, *, after: str | None = None) -> Generator[Streamed]:
        """As `TaskHandle.events`: use it with `for`."""
        return self._tasks.events(self, after=after)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)
