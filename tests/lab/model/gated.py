"""Lets a coroutine go from one call of the storage to the next, by hand, with a failure before or after one of them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sitq.backends.base import Backend
from sitq.errors import BackendConnectionError
from sitq.model import Enqueued, NewTask

type Fault = Literal["", "before", "after"]


class Made(NamedTuple):
    """A call that the storage has answered, whether or not its caller has heard that."""

    verb: str
    argument: Any
    answer: Any


class Gated:
    """The verbs of a storage that a ticker calls. Each waits until `go` lets it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._arrived = asyncio.Event()
        self._open = asyncio.Event()
        self._fault: Fault = ""
        self._task: asyncio.Task[Any] | None = None
        self.made: list[Made] = []

    async def load(self, prefix: str) -> dict[str, bytes]:
        return await self._pass("load", prefix, lambda: self._backend.load(prefix))

    async def save(self, documents: Mapping[str, bytes | None]) -> None:
        await self._pass("save", documents, lambda: self._backend.save(documents))

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        return await self._pass("enqueue", tasks, lambda: self._backend.enqueue(tasks))

    async def _pass(self, verb: str, argument: Any, call: Callable[[], Awaitable[Any]]) -> Any:
        self._arrived.set()
        await self._open.wait()
        self._open.clear()
        if self._fault == "before":
            raise BackendConnectionError("nothing was done")
        answer = await call()
        self.made.append(Made(verb, argument, answer))
        if self._fault == "after":
            raise BackendConnectionError("it was done, and the answer was lost")
        return answer

    async def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let it come to its first call."""
        self._arrived.clear()
        self._open.clear()
        self._task = asyncio.ensure_future(work)
        await self._until_it_waits()

    async def go(self, fault: Fault = "") -> bool:
        """Let one call pass. True if the work has ended with that, by a failure too.

        Raises:
            Exception: What ended it, unless it was the failure.
        """
        self._fault = fault
        self._arrived.clear()
        self._open.set()
        await self._until_it_waits()
        assert self._task is not None
        if not self._task.done():
            return False
        error = self._task.exception()
        if error is not None and not (fault and isinstance(error, BackendConnectionError)):
            raise error
        return True

    async def kill(self) -> None:
        """End it where it stands: the call that it waits for is never made."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _until_it_waits(self) -> None:
        assert self._task is not None
        arrived = asyncio.ensure_future(self._arrived.wait())
        await asyncio.wait([self._task, arrived], return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()
