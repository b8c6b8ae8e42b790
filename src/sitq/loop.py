"""An event loop on a daemon thread, for code that has none of its own."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, Final

from sitq.errors import BackendTimeoutError, QueueClosedError, QueueError

_JOIN_TIMEOUT: Final = 5.0
# Windows does not interrupt a thread that waits for a lock, so there Ctrl-C is noticed between slices of the wait.
_SLICE: Final = 0.1 if os.name == "nt" else None


class _Thread(threading.Thread):
    """Told from other threads by its type."""


def refuse_on_loop() -> None:
    """Raise `QueueError` on the thread of a private loop, which would wait for itself."""
    if isinstance(threading.current_thread(), _Thread):
        raise QueueError(
            "this SyncTaskQueue was called on its own event loop, which would wait for itself: in coroutines use "
            "TaskQueue"
        )


class LoopThread:
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
        self._thread = _Thread(target=self._serve, name="sitq-sync", daemon=True)
        self._thread.start()

    @property
    def foreign(self) -> bool:
        """True in a process that was forked from the one that started this thread."""
        return os.getpid() != self.pid

    def call[T](self, make: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and return what it returns. An exception here, such as Ctrl-C, cancels it."""
        future: Future[T] = Future()
        with self._lock:
            if self._stopped:
                raise closed()
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
            _answer(future, error=closed())

    def _begin(self, make: Callable[[], Coroutine[Any, Any, Any]], future: Future[Any]) -> None:
        task = self._loop.create_task(self._run(make, future))
        self._calls[future] = task
        # Not in a `finally` of the coroutine: one that is cancelled before its first step runs none of it.
        task.add_done_callback(lambda _: self._calls.pop(future, None))

    async def _run(self, make: Callable[[], Coroutine[Any, Any, Any]], future: Future[Any]) -> None:
        try:
            value = await make()
        except asyncio.CancelledError:
            _answer(future, error=closed())
            raise
        except BaseException as error:
            # As a value: SystemExit and KeyboardInterrupt would end the loop.
            _answer(future, error=error)
        else:
            _answer(future, value)

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


def closed() -> QueueClosedError:
    return QueueClosedError("this queue is closed: use it inside its `with`, or open it again with open()")
