"""`SyncTaskQueue`: `TaskQueue` for code without an event loop.

Every call runs as a coroutine of the one `TaskQueue` inside, on a private event loop in a daemon thread. There is no
second implementation: this module only carries calls there and answers back.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Protocol, Self, Unpack, overload

from sitq.backends.base import Backend
from sitq.errors import BackendConnectionError, BackendTimeoutError, QueueClosedError, QueueError
from sitq.handle import Result, SyncTaskHandle, TaskHandle
from sitq.model import Stats, Status, TaskId, TaskRecord
from sitq.options import Duration, GivenOptions
from sitq.queue import DEFAULT_MAX_PAYLOAD, DEFAULT_PATH, Enqueuer, TaskQueue
from sitq.task import Call

_CLOSE_TIMEOUT: Final = 30.0
"""How long the storage may take to close before its thread is left behind."""

_JOIN_TIMEOUT: Final = 5.0
# Windows does not interrupt a thread that waits for a lock, so there Ctrl-C is noticed between slices of the wait.
_SLICE: Final = 0.1 if os.name == "nt" else None


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
    ) -> None:
        self._queue: Final = TaskQueue(backend, max_payload=max_payload)
        self.backend: Final = self._queue.backend
        self.max_payload: Final = self._queue.max_payload
        # Held while opening and closing. Reentrant, because a signal handler may use the queue as well.
        self._changing = threading.RLock()
        self._thread: _LoopThread | None = None
        self._closed = False

    # -- Opening and closing -----------------------------------------------------------------------

    def open(self) -> None:
        """As `TaskQueue.open`."""
        self._check_fork()
        with self._changing:
            if self._thread is None:
                thread = _LoopThread()
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

    def _check_fork(self) -> None:
        if self._thread is not None and self._thread.foreign:
            raise BackendConnectionError(
                f"this SyncTaskQueue was opened in process {self._thread.pid} and is used in process {os.getpid()}: "
                "its thread and its connections do not survive a fork. Make a new SyncTaskQueue in the child process"
            )

    def _call[T](self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that `make` returns on the private loop, and wait for it."""
        self._check_fork()
        thread = self._thread
        if thread is None:
            with self._changing:
                if self._closed:
                    raise _closed()
                self.open()
                thread = self._thread
            assert thread is not None
        return thread.call(make)

    def _handle[R](self, handle: TaskHandle[R]) -> SyncTaskHandle[R]:
        return SyncTaskHandle(str(handle), self)

    # -- Putting tasks in --------------------------------------------------------------------------

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
    def enqueue(
        self, func: Callable[..., Any], /, *args: Any, eta: Any = None, **kwargs: Any
    ) -> SyncTaskHandle[Any]:
        """As `TaskQueue.enqueue`. When this returns the task is durable."""
        return self._handle(self._call(lambda: self._queue.enqueue(func, *args, eta=eta, **kwargs)))

    def enqueue_many[R](self, calls: Iterable[Call[R]], /) -> list[SyncTaskHandle[R]]:
        """As `TaskQueue.enqueue_many`."""
        return [self._handle(one) for one in self._call(lambda: self._queue.enqueue_many(calls))]

    def options(self, **given: Unpack[GivenOptions]) -> "SyncEnqueuer":
        """As `TaskQueue.options`."""
        return SyncEnqueuer(self._queue.options(**given), self._call, self._handle)

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

    def get(self, task_id: TaskId) -> TaskRecord:
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

    def cancel(self, task_id: TaskId) -> Status:
        """As `TaskQueue.cancel`."""
        return self._call(lambda: self._queue.cancel(task_id))


class SyncEnqueuer:
    """A view of a queue that enqueues with fixed options. Made by `SyncTaskQueue.options`."""

    def __init__(self, enqueuer: Enqueuer, call: "_CallOf", handle: "_HandleOf") -> None:
        self._enqueuer = enqueuer
        self._call = call
        self._handle = handle

    @overload
    def enqueue[**P, R](
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]: ...
    @overload
    def enqueue[**P, R](
        self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncTaskHandle[R]: ...
    def enqueue(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> SyncTaskHandle[Any]:
        """As `SyncTaskQueue.enqueue`, except that every keyword belongs to the function."""
        return self._handle(self._call(lambda: self._enqueuer.enqueue(func, *args, **kwargs)))

    def enqueue_many[R](self, calls: Iterable[Call[R]], /) -> list[SyncTaskHandle[R]]:
        """As `SyncTaskQueue.enqueue_many`."""
        return [self._handle(one) for one in self._call(lambda: self._enqueuer.enqueue_many(calls))]


class _CallOf(Protocol):
    def __call__[T](self, make: Callable[[], Coroutine[Any, Any, T]], /) -> T: ...


class _HandleOf(Protocol):
    def __call__[R](self, handle: TaskHandle[R], /) -> SyncTaskHandle[R]: ...


# -- The loop in its thread ------------------------------------------------------------------------


class _LoopThread:
    """An event loop on a daemon thread, so that a queue that nobody closed does not keep the interpreter alive.

    A call enters `_calls` before the loop is told of it and leaves when it is answered; what is still in there when the
    loop ends is answered with `QueueClosedError`. So nobody waits for ever.
    """

    def __init__(self) -> None:
        self.pid: Final = os.getpid()
        self._lock = threading.RLock()
        self._calls: dict[Future[Any], asyncio.Task[None] | None] = {}
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self._stop_requested = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="sitq-sync", daemon=True)
        self._thread.start()

    @property
    def foreign(self) -> bool:
        """True in a process that was forked from the one that started this thread."""
        return os.getpid() != self.pid

    def call[T](self, make: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and return what it returns. An exception here, such as Ctrl-C, cancels it."""
        if threading.current_thread() is self._thread:
            raise QueueError(
                "this SyncTaskQueue was called on its own event loop, which would wait for itself: in coroutines use "
                "TaskQueue"
            )
        future: Future[T] = Future()
        with self._lock:
            if self._stopped:
                raise _closed()
            self._calls[future] = None
            self._loop.call_soon_threadsafe(self._begin, make, future)
        try:
            _wait(future, timeout)
            return future.result()
        except BaseException:
            self._tell(self._cancel, future)
            raise
        finally:
            del future  # it holds the exception, whose traceback holds this frame

    def stop(self) -> None:
        """End the loop and answer whoever still waits. Returns when the thread has ended, or after a few seconds."""
        with self._lock:
            self._stopped = True
        self._tell(self._stop_requested.set)
        self._thread.join(_JOIN_TIMEOUT)

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop has ended, and everything with it
            pass

    # -- On the loop's thread ----------------------------------------------------------------------

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        await self._stop_requested.wait()
        # Answered before the runner waits for the cancelled coroutines, which may take their time.
        for future in list(self._calls):
            _answer(future, error=_closed())

    def _begin(self, make: Callable[[], Coroutine[Any, Any, Any]], future: Future[Any]) -> None:
        self._calls[future] = self._loop.create_task(self._run(make, future))

    async def _run(self, make: Callable[[], Coroutine[Any, Any, Any]], future: Future[Any]) -> None:
        try:
            value = await make()
        except asyncio.CancelledError:
            _answer(future, error=_closed())
            raise
        except BaseException as error:
            # As a value: SystemExit and KeyboardInterrupt would end the loop.
            _answer(future, error=error)
        else:
            _answer(future, value)
        finally:
            self._calls.pop(future, None)

    def _cancel(self, future: Future[Any]) -> None:
        task = self._calls.get(future)
        if task is not None:
            task.cancel()


def _wait(future: Future[Any], timeout: float | None) -> None:
    deadline = None if timeout is None else time.monotonic() + timeout
    while not future.done():
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise BackendTimeoutError(
                f"the storage did not close within {timeout:g} s; its thread was left behind"
            )
        slices = [part for part in (left, _SLICE) if part is not None]
        wait_for([future], min(slices, default=None))


def _answer(future: Future[Any], value: object = None, error: BaseException | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _closed() -> QueueClosedError:
    return QueueClosedError("this queue is closed: use it inside its `with`, or open it again with open()")
