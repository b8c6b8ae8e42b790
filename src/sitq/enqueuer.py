"""A view of a queue that enqueues with fixed options."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, overload

from sitq.handle import TaskHandle
from sitq.options import TaskOptions
from sitq.task import Call, made_call


class Enqueue(Protocol):
    """How a view reaches its queue."""

    async def __call__[R](self, calls: Iterable[Call[R]], options: TaskOptions) -> list[TaskHandle[R]]: ...


class Enqueuer:
    """A view of a queue that enqueues with fixed options. Made by `TaskQueue.options`."""

    def __init__(self, enqueue: Enqueue, options: TaskOptions) -> None:
        self._enqueue = enqueue
        self._options = options

    @overload
    async def enqueue[R](self, call: Call[R], /) -> TaskHandle[R]: ...
    @overload
    async def enqueue[**P, R](
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue[**P, R](
        self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    async def enqueue(self, func: Any, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """As `TaskQueue.enqueue`, except that every keyword belongs to the function."""
        return (await self._enqueue([made_call(func, args, kwargs)], self._options))[0]

    async def enqueue_many[R](self, calls: Iterable[Call[R]], /) -> list[TaskHandle[R]]:
        """As `TaskQueue.enqueue_many`."""
        return await self._enqueue(calls, self._options)
