"""What a running task knows about itself."""

from collections.abc import Mapping
from contextvars import Context, ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

from sitq.errors import TaskError
from sitq.model import TaskId


class CurrentTask(NamedTuple):
    """The task that runs here.

    Attributes:
        attempt: Counts tries, from 1.
        crashes: How many earlier tries ended with the death of their worker.
        metadata: As given when it was enqueued.
        context: As given when it was enqueued: what travels beside the arguments.
    """

    id: TaskId
    name: str
    queue: str
    attempt: int
    crashes: int = 0
    metadata: Mapping[str, Any] = MappingProxyType({})
    context: Mapping[str, Any] = MappingProxyType({})

    def __repr__(self) -> str:
        # Without the context: it may hold secrets, and this ends up in logs.
        return f"<CurrentTask {self.name}[{self.id}] on {self.queue}, attempt {self.attempt}>"


_current: ContextVar[CurrentTask] = ContextVar("sitq.current_task")


def current_task() -> CurrentTask:
    """Return the task that runs here, in the coroutine or thread of the caller.

    Raises:
        TaskError: No task runs here.
    """
    try:
        return _current.get()
    except LookupError:
        raise TaskError(
            "current_task() was called outside a task: it works in what a worker runs, and in threads started from "
            "there with asyncio.to_thread or contextvars.copy_context().run"
        ) from None


def bind(current: CurrentTask) -> Context:
    """Return a fresh context in which `current` is the current task. Nothing of the caller's context is in it."""
    context = Context()
    context.run(_current.set, current)
    return context


def running_here(context: Context) -> CurrentTask | None:
    """Return the task to which a context belongs, if any."""
    return context.get(_current)


def is_inside_task() -> bool:
    """Return whether the caller runs inside a task, or in something that a task has started."""
    return _current.get(None) is not None
