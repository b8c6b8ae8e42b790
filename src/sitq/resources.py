"""What tasks share that is set up once: a pool of connections, a client, a model in memory.

A worker has them for itself, and a child process has its own: a `Lifespan` sets them up and takes them down, `provide`
puts them into the context of a run, and `resource` finds them there.
"""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from contextvars import ContextVar
from typing import Any, Final, cast

from sitq.checks import kind as kind_of
from sitq.context import is_inside_task
from sitq.errors import TaskError, ValidationError, WorkerError
from sitq.failure import reason, type_name

type Resources = Callable[[], AbstractAsyncContextManager[Any] | AbstractContextManager[Any]]
"""Returns a context manager, async or plain, that gives one object."""

TAKE_DOWN_TIMEOUT: Final = 10.0
"""How long the end may take before it is cancelled."""
_CANCEL_TIMEOUT: Final = 5.0
_FORM: Final = "give a function that returns a context manager, such as one with @asynccontextmanager"

_provided: ContextVar[Any] = ContextVar("sitq.resources")


# -- In a task -------------------------------------------------------------------------------------


def resource[R](kind: type[R]) -> R:
    """Return the resources of the worker that runs this task, in the coroutine or thread of the caller.

    Args:
        kind: Their class.

    Raises:
        TaskError: No task runs here, its worker has no resources, or they are of another class.
        ValidationError: `kind` is not a class.
    """
    try:
        found: Any = _provided.get()
    except LookupError:
        raise TaskError(_lack()) from None
    try:
        fits = isinstance(found, kind)
    except TypeError:
        raise ValidationError(f"kind is {kind_of(kind)}: give the class of the resources") from None
    if not fits:
        raise TaskError(
            f"the resources of this worker are of type {type_name(found)}, not {kind.__qualname__}: ask for what "
            "Worker(resources=...) gives"
        )
    value: R = found
    return value


def _lack() -> str:
    if is_inside_task():
        return (
            "the worker that runs this task has no resources: give it some with Worker(queue, resources=...)"
        )
    return (
        "resource() was called outside a task: it works in what a worker runs, and in threads started from there with "
        "asyncio.to_thread or contextvars.copy_context().run"
    )


def provide(value: Any) -> None:
    """Make these the resources of what runs in the current context."""
    _provided.set(value)


# -- Around tasks ----------------------------------------------------------------------------------


def check_resources(given: Any) -> Resources | None:
    """Return what makes the resources of a worker.

    Raises:
        ValidationError: Not a function, or one that returns something else than a context manager.
    """
    if given is None:
        return None
    if _has(given, "__aenter__") or _has(given, "__enter__"):
        raise ValidationError("resources is a context manager already: give the function, without calling it")
    if not callable(given):
        raise ValidationError(f"resources is {kind_of(given)}: {_FORM}")
    for test, decorator in (
        (inspect.isasyncgenfunction, "@asynccontextmanager"),
        (inspect.isgeneratorfunction, "@contextmanager"),
    ):
        if test(given):
            raise ValidationError(f"resources is a generator function: decorate it with {decorator}")
    if inspect.iscoroutinefunction(given):
        raise ValidationError(f"resources is a coroutine function: {_FORM}")
    return cast("Resources", given)


class Lifespan:
    """The resources of one worker or child process: `start`, then `close`, on one event loop.

    They live in an asyncio task of their own: what is entered in a task, such as a TaskGroup or a timeout, has to be
    left in it.

    Attributes:
        value: What tasks get; None before the start.
        on_end: Called with the error if they end by themselves, before `close`.
    """

    def __init__(self, make: Resources) -> None:
        self._make = make
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self.value: Any = None
        self.on_end: Callable[[WorkerError], object] = _nobody

    async def start(self) -> None:
        """Set them up. Being cancelled meanwhile cancels that, and waits for it.

        Raises:
            WorkerError: They cannot be set up; the message says why.
        """
        self._task = asyncio.create_task(self._live(), name="sitq-resources")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        finally:
            ready.cancel()
        if not self._ready.is_set():
            raise self._failure("could not be set up, so it was not started")
        self._task.add_done_callback(self._on_done)

    async def close(self) -> None:
        """Take them down, within 10 s; then that is cancelled, and after 5 s left behind. Idempotent.

        Raises:
            WorkerError: That raised, or took longer.
        """
        alone = self._task is None or (self._task.done() and not self._closing.is_set())
        self._closing.set()
        if self._task is None or alone:
            return
        _, late = await asyncio.wait([self._task], timeout=TAKE_DOWN_TIMEOUT)
        if late:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_TIMEOUT)
            raise WorkerError(f"its resources were not taken down within {TAKE_DOWN_TIMEOUT:g} s")
        if self._error is not None:
            raise self._failure("could not be taken down")

    async def _live(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                self.value = await _enter(stack, self._make())
                self._ready.set()
                await self._closing.wait()
        except BaseException as error:
            # As a value: SystemExit would end the loop.
            self._error = error

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not self._closing.is_set():
            self.on_end(self._failure("ended by themselves"))

    def _failure(self, what: str) -> WorkerError:
        failure = WorkerError(f"its resources {what}" + (f": {reason(self._error)}" if self._error else ""))
        failure.__cause__ = self._error
        return failure


async def _enter(stack: AsyncExitStack, made: Any) -> Any:
    if _has(made, "__aenter__"):
        return await stack.enter_async_context(made)
    if _has(made, "__enter__"):
        return stack.enter_context(made)
    raise TypeError(f"resources returned {kind_of(made)}: {_FORM}")


def _has(value: object, method: str) -> bool:
    """As `with` looks for it: on the type."""
    return hasattr(type(value), method)


def _nobody(error: WorkerError) -> None:
    pass
