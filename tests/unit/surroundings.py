"""What tests of pickling by reference refer to: context variables and a lifespan that a child process can import."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id")
tenant_of_the_request: ContextVar[int] = ContextVar("tenant")
lonely: ContextVar[str] = ContextVar("lonely")
"""No other module has it as a global."""


class Shelf:
    hidden: ContextVar[str] = ContextVar("hidden")


@asynccontextmanager
async def lifespan() -> AsyncGenerator[dict[str, str]]:
    yield {"made": "here"}


class Locale:
    """A provider of somebody's own."""

    name = "locale"

    def capture(self) -> str | None:
        return request_id.get(None)

    @contextmanager
    def restore(self, data: Any) -> Generator[None]:
        token = request_id.set(data)
        yield
        request_id.reset(token)
