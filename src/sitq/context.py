"""What a running task knows about itself, and its way to speak with its worker."""

from collections.abc import Coroutine, Mapping
from contextvars import Context, ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

from sitq.errors import TaskError
from sitq.events import TaskLogged, TaskProgressed, TaskPublished
from sitq.model import NoteKind, TaskId
from sitq.progress import encode_line, encode_progress
from sitq.serialization import Codec, Purpose

if TYPE_CHECKING:
    import sqlite3

    import aiosqlite


class Channel(Protocol):
    """Between a run and its worker: the wish that it stops goes in, what it has to say comes out."""

    noticed: bool
    codec: Codec

    @property
    def stopping(self) -> bool:
        """Whether the run is to stop."""
        ...

    def say(self, kind: NoteKind, data: bytes, event: type[Any], *details: Any) -> None:
        """Take what the task has to say, as a note and as the fields of an event. Callable from any thread."""
        ...


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
    channel: Channel | None = None

    @property
    def cancelled(self) -> bool:
        """Whether this run is to stop: cancelled, out of time, its lease lost, or its worker is stopping.

        A coroutine is cancelled by asyncio. A plain function on a thread cannot be: one that takes long asks here from
        time to time and returns when it is True. A run that has seen True and then returns counts as stopped, and its
        value is not kept.
        """
        if self.channel is None or not self.channel.stopping:
            return False
        self.channel.noticed = True
        return True

    def progress(self, percent: float, note: str = "") -> None:
        """Say how far the task has come. Costs little: a few times a second the last one is stored.

        Raises:
            ValidationError: `percent` is not a number from 0 to 100, or `note` is not a str.
        """
        self._say(NoteKind.PROGRESS, encode_progress(percent, note), TaskProgressed, percent, note)

    def log(self, text: str) -> None:
        """Add a line to the log of this task, for `TaskHandle.events`. The newest 1,000 are kept, 8 KiB each.

        Raises:
            ValidationError: It is not a str.
        """
        self._say(NoteKind.LOG, encode_line(text), TaskLogged, text)

    def publish(self, value: Any) -> None:
        """Hand out a partial result, for `TaskHandle.events`. The newest 1,000 are kept.

        Raises:
            TaskSerializationError: It cannot be pickled.
            PayloadTooLargeError: It is larger than the queue's `max_payload`.
        """
        if self.channel is not None:
            data = self.channel.codec.encode_value(value, self.id, Purpose.VALUE)
            self._say(NoteKind.VALUE, data, TaskPublished, value)

    @overload
    def complete_in(self, connection: "sqlite3.Connection", value: Any = None) -> None: ...
    @overload
    def complete_in(
        self, connection: "aiosqlite.Connection", value: Any = None
    ) -> Coroutine[Any, Any, None]: ...
    def complete_in(self, connection: Any, value: Any = None) -> Coroutine[Any, Any, None] | None:
        """Complete this task in the open transaction of your connection to the queue's file; `value` is its result.

        What you write in the transaction and the success of the task are committed together, so the effect is there
        exactly once, however often the task is started. It is you who commits. After that the return value of the
        function does not matter; what it raises is told as `ErrorAfterCompletion`. If it returns and the transaction
        was not committed, the attempt has failed.

        Raises:
            TaskStaleError: This run does not count any more: roll back. Raised for a second call after a commit, too.
            TaskError: The task runs in another process than its worker.
            TaskSerializationError, PayloadTooLargeError: As for what a task returns.
            BackendUnsupportedError, ValidationError, BackendTimeoutError: As for `TaskQueue.within`.
        """
        complete_in = getattr(self.channel, "complete_in", None)
        if self.channel is None or complete_in is None:
            raise TaskError(
                "complete_in() was called outside the process of a worker: it works in coroutines and on threads, so "
                "give the task another executor"
            )
        done: Coroutine[Any, Any, None] | None = complete_in(
            connection, self.channel.codec.encode_value(value, self.id, Purpose.RESULT)
        )
        return done

    def _say(self, kind: NoteKind, data: bytes, event: type[Any], *details: Any) -> None:
        if self.channel is not None:
            self.channel.say(kind, data, event, *details)

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
