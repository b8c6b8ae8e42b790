"""`SyncTaskQueue`: `TaskQueue` for code without an event loop.

Every call runs as a coroutine of the one `TaskQueue` inside, on a private event loop in a daemon thread. There is no
second implementation: this module only carries calls there and answers back.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Generator, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, Unpack, overload

from sitq.backends.base import Backend, finished
from sitq.carrying import ContextProvider
from sitq.checks import Duration
from sitq.details import TaskDetails
from sitq.enqueuer import Enqueuer
from sitq.errors import BackendConnectionError, QueueError, ValidationError
from sitq.events import EventHandler
from sitq.executors import RunnerFactory
from sitq.handle import SyncTaskHandle, TaskHandle
from sitq.loop import LoopThread, closed, refuse_on_loop
from sitq.model import Stats, Status, TaskId, TaskRecord, WorkerRecord
from sitq.options import GivenDefaults, GivenOptions
from sitq.queue import DEFAULT_MAX_PAYLOAD, DEFAULT_PATH, TaskQueue
from sitq.result import Result
from sitq.schedule import Misfire, Overlap
from sitq.schedules import ScheduleRecord
from sitq.serialization import Serializer
from sitq.stream import Streamed
from sitq.task import Call
from sitq.within import TransactionEnqueuer

if TYPE_CHECKING:
    import sqlite3

_CLOSE_TIMEOUT: Final = 30.0
"""How long the storage may take to close before its thread is left behind."""


class SyncTaskQueue:
    """Tasks in one storage, for scripts, threads and frameworks without an event loop. Coroutines use `TaskQueue`.

    Use it as `with SyncTaskQueue("app.db") as queue`, or call `open` and `close`. It opens itself at the first use, and
    may be used from several threads. Ctrl-C ends a call that waits; the task it waits for goes on.

    Args and errors are those of `TaskQueue`, method by method. Besides them a method raises `QueueError` when it is
    called on the queue's own event loop, and `BackendConnectionError` after a fork.
    """

    def __init__(
        self,
        backend: str | os.PathLike[str] | Backend = DEFAULT_PATH,
        *,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        max_pending: int | Mapping[str, int] | None = None,
        runners: Mapping[str, RunnerFactory] | None = None,
        serializer: str | Serializer = "cloudpickle",
        also_reads: Collection[str | Serializer] = (),
        context_providers: Iterable[ContextProvider] = (),
    ) -> None:
        self._queue: Final = TaskQueue(
            backend,
            max_payload=max_payload,
            max_pending=max_pending,
            runners=runners,
            serializer=serializer,
            also_reads=also_reads,
            context_providers=context_providers,
        )
        self.backend: Final = self._queue.backend
        self.max_payload: Final = self._queue.max_payload
        self.runners: Final = self._queue.runners
        self.codec: Final = self._queue.codec
        self.emitter: Final = self._queue.emitter
        self.declared: Final = self._queue.declared
        self.context_providers: Final = self._queue.context_providers
        # Held while opening and closing. Reentrant, because a signal handler may use the queue as well.
        self._changing = threading.RLock()
        self._thread: LoopThread | None = None
        self._closed = False

    # -- Opening and closing -----------------------------------------------------------------------

    def open(self) -> None:
        """As `TaskQueue.open`."""
        self._check_caller()
        with self._changing:
            if self._thread is None:
                thread = LoopThread()
                try:
                    thread.call(self._queue.open)
                except BaseException:
                    thread.stop()
                    raise
                self._thread = thread
            self._closed = False

    def close(self) -> None:
        """As `TaskQueue.close`. Calls that wait in other threads end with `QueueClosedError`.

        Raises:
            BackendTimeoutError: The storage did not close within 30 s; its thread was left behind.
        """
        refuse_on_loop()
        if self._thread is not None and self._thread.foreign:
            return  # it belongs to the parent process, which closes it
        with self._changing:
            thread, self._thread, self._closed = self._thread, None, True
            if thread is not None:
                try:
                    thread.call(self._queue.close, _CLOSE_TIMEOUT)
                finally:
                    thread.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_caller(self) -> None:
        refuse_on_loop()
        if self._thread is not None and self._thread.foreign:
            raise BackendConnectionError(
                f"this SyncTaskQueue was opened in process {self._thread.pid} and is used in process {os.getpid()}: "
                "its thread and its connections do not survive a fork. Make a new SyncTaskQueue in the child process"
            )

    def _call[T](self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that `make` returns on the private loop, and wait for it."""
        self._check_caller()
        thread = self._thread
        if thread is None:
            with self._changing:
                if self._closed:
                    raise closed()
                self.open()
                thread = self._thread
            assert thread is not None
        return thread.call(make)

    def _handle[R](self, handle: TaskHandle[R]) -> SyncTaskHandle[R]:
        return SyncTaskHandle(str(handle), self)

    # -- Putting tasks in --------------------------------------------------------------------------

    @overload
    def enqueue[R](self, call: Call[R], /, *, eta: datetime | None = None) -> SyncTaskHandle[R]: ...
    @overload
    def enqueue[R](
        self, func: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, eta: datetime | None, **kwargs: Any
    ) -> SyncTaskHandle[R]: ...
    @overload
    def enqueue[R](
        self, func: Callable[..., R], /, *args: Any, eta: datetime | None, **kwargs: Any
    ) -> SyncTaskHandle[R]: ...
    @overload
    def enqueue[**P, R](
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]: ...
    @overload
    def enqueue[**P, R](
        self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]: ...
    def enqueue(self, func: Any, /, *args: Any, eta: Any = None, **kwargs: Any) -> SyncTaskHandle[Any]:
        """As `TaskQueue.enqueue`. When this returns the task is durable."""
        return self._handle(self._call(lambda: self._queue.enqueue(func, *args, eta=eta, **kwargs)))

    def enqueue_many[R](self, calls: Iterable[Call[R]], /) -> list[SyncTaskHandle[R]]:
        """As `TaskQueue.enqueue_many`."""
        return [self._handle(one) for one in self._call(lambda: self._queue.enqueue_many(calls))]

    def options(self, **given: Unpack[GivenOptions]) -> "SyncEnqueuer":
        """As `TaskQueue.options`."""
        return SyncEnqueuer(self._queue.options(**given), self._call, self._handle)

    def within(self, connection: "sqlite3.Connection", /) -> "SyncTransactionEnqueuer":
        """As `TaskQueue.within`, on the thread of the caller."""
        if not self.backend.within(connection).blocking:
            raise ValidationError(
                f"connection is a {type(connection).__qualname__}, which needs an event loop: give a "
                "sqlite3.Connection, or use TaskQueue"
            )
        return SyncTransactionEnqueuer(self._queue.within(connection), self._handle)

    # -- Looking at them ---------------------------------------------------------------------------

    @overload
    def get_result[R](self, task_id: SyncTaskHandle[R], timeout: Duration | None = None) -> Result[R]: ...
    @overload
    def get_result(self, task_id: TaskId, timeout: Duration | None = None) -> Result[Any]: ...
    def get_result(self, task_id: TaskId, timeout: Duration | None = None) -> Result[Any]:
        """As `TaskQueue.get_result`."""
        return self._call(lambda: self._queue.get_result(task_id, timeout))

    def get_status(self, task_id: TaskId) -> Status:
        """As `TaskQueue.get_status`."""
        return self._call(lambda: self._queue.get_status(task_id))

    def get(self, task_id: TaskId) -> TaskDetails:
        """As `TaskQueue.get`."""
        return self._call(lambda: self._queue.get(task_id))

    def find(
        self,
        *,
        status: Status | Collection[Status] | None = None,
        queue: str | None = None,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[TaskRecord]:
        """As `TaskQueue.find`."""
        return self._call(
            lambda: self._queue.find(
                status=status, queue=queue, name=name, since=since, until=until, before=before, limit=limit
            )
        )

    def stats(self) -> Stats:
        """As `TaskQueue.stats`."""
        return self._call(self._queue.stats)

    def events(self, task_id: TaskId, *, after: str | None = None) -> Generator[Streamed]:
        """As `TaskQueue.events`, for a `for` loop. Whoever leaves it early closes it, or drops it."""
        reader = _Reader(self._queue.events(task_id, after=after))
        try:
            while (entry := self._call(reader.next)) is not None:
                yield entry
        finally:
            # Not where it cannot be: on the private loop, in a forked child, after the close. There nobody reads on.
            with suppress(QueueError, BackendConnectionError):
                if self._thread is not None:
                    self._call(reader.close)

    def on[E](self, kind: type[E], /) -> Callable[[EventHandler[E]], EventHandler[E]]:
        """As `TaskQueue.on`. Handlers run on the queue's own event loop, where this object cannot be used."""
        return self._queue.on(kind)

    # -- Steering ----------------------------------------------------------------------------------

    def cancel(self, task_id: TaskId, timeout: Duration | None = None) -> Status:
        """As `TaskQueue.cancel`."""
        return self._call(lambda: self._queue.cancel(task_id, timeout))

    def requeue(
        self,
        ids: TaskId | Collection[TaskId] | None = None,
        *,
        status: Status | Collection[Status] | None = None,
        queue: str | None = None,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[TaskId]:
        """As `TaskQueue.requeue`."""
        return self._call(
            lambda: self._queue.requeue(ids, status=status, queue=queue, name=name, since=since, until=until)
        )

    def discard(
        self,
        ids: TaskId | Collection[TaskId] | None = None,
        *,
        status: Status | Collection[Status] | None = None,
        queue: str | None = None,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """As `TaskQueue.discard`."""
        return self._call(
            lambda: self._queue.discard(ids, status=status, queue=queue, name=name, since=since, until=until)
        )

    def pause(self, queue: str) -> None:
        """As `TaskQueue.pause`."""
        self._call(lambda: self._queue.pause(queue))

    def resume(self, queue: str) -> None:
        """As `TaskQueue.resume`."""
        self._call(lambda: self._queue.resume(queue))

    def workers(self) -> list[WorkerRecord]:
        """As `TaskQueue.workers`."""
        return self._call(self._queue.workers)

    # -- What repeats ------------------------------------------------------------------------------

    def cron[F: Callable[[], Any]](
        self,
        cron: str,
        /,
        *,
        tz: str = "UTC",
        name: str | None = None,
        misfire: Misfire = "latest",
        overlap: Overlap | None = None,
        **options: Unpack[GivenDefaults],
    ) -> Callable[[F], F]:
        """As `TaskQueue.cron`."""
        return self._queue.cron(cron, tz=tz, name=name, misfire=misfire, overlap=overlap, **options)

    def schedule(
        self,
        name: str,
        call: Call[Any],
        *,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        misfire: Misfire = "latest",
        overlap: Overlap | None = None,
        **options: Unpack[GivenDefaults],
    ) -> ScheduleRecord:
        """As `TaskQueue.schedule`."""
        return self._call(
            lambda: self._queue.schedule(
                name, call, cron=cron, every=every, tz=tz, misfire=misfire, overlap=overlap, **options
            )
        )

    def schedules(self) -> list[ScheduleRecord]:
        """As `TaskQueue.schedules`."""
        return self._call(self._queue.schedules)

    def pause_schedule(self, name: str) -> None:
        """As `TaskQueue.pause_schedule`."""
        self._call(lambda: self._queue.pause_schedule(name))

    def resume_schedule(self, name: str) -> None:
        """As `TaskQueue.resume_schedule`."""
        self._call(lambda: self._queue.resume_schedule(name))

    def remove_schedule(self, name: str) -> None:
        """As `TaskQueue.remove_schedule`."""
        self._call(lambda: self._queue.remove_schedule(name))


class _Reader:
    """A stream that is read one call at a time. A call that was cancelled may still be ending when the next one comes,
    and an async generator does not bear two at once.
    """

    def __init__(self, entries: AsyncGenerator[Streamed]) -> None:
        self._entries = entries
        self._turn = asyncio.Lock()

    async def next(self) -> Streamed | None:
        async with self._turn:
            return await anext(self._entries, None)

    async def close(self) -> None:
        async with self._turn:
            await self._entries.aclose()


class SyncEnqueuer:
    """A view of a queue that enqueues with fixed options. Made by `SyncTaskQueue.options`."""

    def __init__(self, enqueuer: Enqueuer, call: "_CallOf", handle: "_HandleOf") -> None:
        self._enqueuer = enqueuer
        self._call = call
        self._handle = handle

    @overload
    def enqueue[R](self, call: Call[R], /) -> SyncTaskHandle[R]: ...
    @overload
    def enqueue[**P, R](
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]: ...
    @overload
    def enqueue[**P, R](
        self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]: ...
    def enqueue(self, func: Any, /, *args: Any, **kwargs: Any) -> SyncTaskHandle[Any]:
        """As `SyncTaskQueue.enqueue`, except that every keyword belongs to the function."""
        return self._handle(self._call(lambda: self._enqueuer.enqueue(func, *args, **kwargs)))

    def enqueue_many[R](self, calls: Iterable[Call[R]], /) -> list[SyncTaskHandle[R]]:
        """As `SyncTaskQueue.enqueue_many`."""
        return [self._handle(one) for one in self._call(lambda: self._enqueuer.enqueue_many(calls))]


class SyncTransactionEnqueuer(SyncEnqueuer):
    """A view of a queue that enqueues in an open transaction of the application. Made by `SyncTaskQueue.within`."""

    def __init__(self, inside: TransactionEnqueuer, handle: "_HandleOf") -> None:
        super().__init__(inside, _call_here, handle)
        self._inside = inside

    def options(self, **given: Unpack[GivenOptions]) -> SyncEnqueuer:
        """As `SyncTaskQueue.options`, in the transaction."""
        return SyncEnqueuer(self._inside.options(**given), self._call, self._handle)


def _call_here[T](make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the coroutine on this thread, where the connection is."""
    return finished(make())


class _CallOf(Protocol):
    def __call__[T](self, make: Callable[[], Coroutine[Any, Any, T]], /) -> T: ...


class _HandleOf(Protocol):
    def __call__[R](self, handle: TaskHandle[R], /) -> SyncTaskHandle[R]: ...
