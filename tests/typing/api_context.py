# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers say about providers and resources. Nothing here runs; each line with an ignore is a mistake."""

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, assert_type

from sitq import (
    ContextProvider,
    ContextVars,
    StructlogContext,
    SyncTaskQueue,
    TaskQueue,
    TraceContext,
    Worker,
    resource,
)


@dataclass
class Resources:
    size: int


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Resources]:
    yield Resources(1)


@contextmanager
def plain() -> Generator[Resources]:
    yield Resources(1)


async def coroutine() -> Resources:
    return Resources(1)


async def in_a_task() -> None:
    assert_type(resource(Resources), Resources)
    assert_type(resource(Resources).size, int)
    resource("Resources")  # type: ignore[arg-type]
    resource(Resources(1))  # type: ignore[arg-type]
    print(resource(Resources).length)  # type: ignore[attr-defined]


async def workers(queue: TaskQueue) -> None:
    Worker(queue, resources=lifespan)
    Worker(queue, resources=plain)
    Worker(queue, resources=lambda: nullcontext(1))
    Worker(queue, resources=None)
    Worker(queue, resources=lifespan())  # type: ignore[arg-type]
    Worker(queue, resources=coroutine)  # type: ignore[arg-type]
    Worker(queue, resources=Resources(1))  # type: ignore[arg-type]


class Locale:
    name = "locale"

    def capture(self) -> str | None:
        return "de"

    def restore(self, data: str) -> AbstractContextManager[None]:
        return nullcontext()


class Half:
    name = "half"

    def capture(self) -> str | None:
        return None


class Async:
    name = "async"

    async def capture(self) -> str | None:
        return None

    async def restore(self, data: Any) -> None: ...


request_id: ContextVar[str] = ContextVar("request_id")
provider: ContextProvider = Locale()
half: ContextProvider = Half()  # type: ignore[assignment]
asynchronous: ContextProvider = Async()  # type: ignore[assignment]


def queues() -> None:
    TaskQueue(
        context_providers=[ContextVars(request_id), StructlogContext(), TraceContext(span=True), Locale()]
    )
    SyncTaskQueue(context_providers=(ContextVars(request_id, name="mine"),))
    TaskQueue(context_providers=[Half()])  # type: ignore[list-item]
    TaskQueue(context_providers=Locale())  # type: ignore[arg-type]
    ContextVars("request_id")  # type: ignore[arg-type]
    TraceContext(span="yes")  # type: ignore[arg-type]
