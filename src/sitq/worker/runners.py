"""Where a call runs: coroutines on the loop, plain functions on threads.

A runner gets a call and returns what it returned or raises what it raised. It knows nothing of tasks, leases
and outcomes (`sitq.executors.Runner`).
"""

import asyncio
import contextvars
import inspect
import itertools
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import FunctionType
from typing import Any, Final

from sitq.context import is_inside_task
from sitq.task import Call, Task
from sitq.worker.fork import end_if_forked


class AsyncRunner:
    """Coroutine functions, on the worker's event loop.

    asyncio lets SystemExit and KeyboardInterrupt in any of its tasks end the loop. For a run itself the executor sees
    to that; for the asyncio tasks that user code creates there, this puts itself before the loop's task factory.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._former = self._loop.get_task_factory()
        self._factory = self._create_task
        self._loop.set_task_factory(self._factory)

    def run(self, call: Call[Any]) -> Awaitable[Any]:
        func, args, kwargs = call
        awaitable: Awaitable[Any] = func(*args, **kwargs)
        return awaitable

    def close(self) -> None:
        if self._loop.get_task_factory() is self._factory:  # else somebody came after us, and still needs us
            self._loop.set_task_factory(self._former)

    def _create_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        if is_inside_task() and asyncio.iscoroutine(coro):
            coro = _Contained(coro)
        if self._former is not None:
            return self._former(loop, coro, **options)
        return asyncio.Task(coro, loop=loop, **options)


async def on_this_loop(call: Call[Any]) -> Any:
    """Run a call on the loop, whatever its function is. A plain one blocks the loop until it returns."""
    value = call.func(*call.args, **call.kwargs)
    return await value if inspect.isawaitable(value) else value


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine whose SystemExit and KeyboardInterrupt are errors like any other."""

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any, /) -> Any:
        try:
            return self._inner.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"an asyncio task raised {error!r}") from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._inner.throw(*error)
        except (SystemExit, KeyboardInterrupt) as raised:
            raise RuntimeError(f"an asyncio task raised {raised!r}") from raised

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # cr_frame and the like, for those who print stacks


class ThreadRunner:
    """Plain functions, each on a thread of a small pool.

    The threads are daemons: a function that never ends must not keep the interpreter from ending. It cannot be stopped
    either, so its slot stays taken until it returns.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0

    async def run(self, call: Call[Any], cancel: Callable[[], None] | None = None) -> Any:
        """Run the call on a thread. `cancel` is called when it is to stop; the thread is waited for all the same."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self._jobs.put(partial(_run_in_thread, contextvars.copy_context(), call, loop, future))
        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < self._size:
            self._add_thread()
        try:
            value, error = await _outlast_one_cancel(future, cancel)
        finally:
            self._busy -= 1
        if error is not None:
            raise error
        # A plain function may return an awaitable: a lambda around a coroutine function, say.
        return await value if inspect.isawaitable(value) else value

    def _add_thread(self) -> None:
        number = next(_numbers)
        thread = threading.Thread(target=_serve, args=(self._jobs,), name=f"sitq-task-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()


_numbers: Final = itertools.count(1)


async def _outlast_one_cancel[T](future: asyncio.Future[T], cancel: Callable[[], None] | None) -> T:
    """Wait for a thread. It cannot be stopped, and its slot is free only when it is: so the first cancellation goes on
    waiting. A second one means that the worker itself ends and leaves the thread behind.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        return await future


def _serve(jobs: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # or an idle thread keeps the last call's arguments alive


def _run_in_thread(
    context: contextvars.Context,
    call: Call[Any],
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[tuple[Any, BaseException | None]],
) -> None:
    value: Any = None
    error: BaseException | None = None
    pid = os.getpid()
    try:
        value = context.run(call.func, *call.args, **call.kwargs)
    except BaseException as raised:
        # As a value: StopIteration cannot be set on a future, and SystemExit would end the loop.
        error = raised
    end_if_forked(pid)
    try:
        loop.call_soon_threadsafe(_settle, future, (value, error))
    except RuntimeError:  # the worker is gone; its lease runs out and another one takes the task
        pass


def _settle[T](future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine, for functions, `@task`s, partials, methods and objects with `__call__`."""
    if type(func) is FunctionType and func.__code__.co_flags & inspect.CO_COROUTINE:
        return True  # the common case, for a twentieth of what inspect takes
    if isinstance(func, Task):
        func = func.func
    # Looked up on the type, as a call does: calling a class makes an object, whatever its `__call__` may be.
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)
