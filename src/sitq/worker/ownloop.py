"""A coroutine function away from the worker's loop: on an event loop of its own, where it is called."""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable
from typing import Any

from sitq.context import CurrentTask, running_here
from sitq.task import Call


async def awaited(value: Awaitable[Any]) -> Any:
    """Return what it gives: a call of this is one of a coroutine function."""
    return await value


class OwnLoop:
    """Runs one call on an event loop in the calling thread and its context. Another thread may cancel it.

    Args:
        runner: Of the loop to which the resources of this process belong; a new loop if there is none.
    """

    def __init__(self, call: Call[Any], runner: asyncio.Runner | None = None) -> None:
        self._call = call
        self._runner = runner
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def run(self) -> Any:
        """Return what the coroutine returns. What it leaves running is cancelled.

        Raises:
            CancelledError: It was cancelled; and whatever it raises itself.
        """
        if self._runner is None:
            with asyncio.Runner() as runner:
                return self._run(runner)
        try:
            return self._run(self._runner)
        finally:
            self._runner.run(_cancel_left(running_here(contextvars.copy_context())))

    def _run(self, runner: asyncio.Runner) -> Any:
        try:
            return runner.run(self._main(), context=contextvars.copy_context())
        finally:
            with self._lock:  # the loop closes, or is for the next task
                self._loop = None

    def cancel(self) -> None:
        """Cancel the coroutine, if it still runs. Callable from any thread, before `run` too."""
        with self._lock:
            self._cancelled = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _main(self) -> Any:
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            cancelled = self._cancelled
        if cancelled:
            raise asyncio.CancelledError
        return await self._call.func(*self._call.args, **self._call.kwargs)


async def _cancel_left(current: CurrentTask | None) -> None:
    """Cancel what a task has left running on a loop that goes on."""
    left = [task for task in asyncio.all_tasks() if running_here(task.get_context()) is current is not None]
    left = [task for task in left if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
