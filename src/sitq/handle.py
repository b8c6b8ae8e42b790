"""What a caller holds after enqueueing: a handle on the task."""

from collections.abc import AsyncGenerator, Generator
from typing import Any, Protocol

from sitq.checks import MAX_DURATION, Duration
from sitq.errors import ResultExpiredError, TaskNotFoundError
from sitq.model import Status, TaskId
from sitq.result import Result
from sitq.stream import Streamed


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
