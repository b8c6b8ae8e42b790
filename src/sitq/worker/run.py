"""One attempt at one task: what the executor, its judge and the task itself share."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sitq.emitter import Emitter
from sitq.model import Held, NewNote, NoteKind, ReservedTask
from sitq.rules import RunRules

type Complete = Callable[["Run", object, bytes], Coroutine[Any, Any, None] | None]


class Stop(Enum):
    """Why a run is being stopped."""

    CANCEL = "somebody asked for it"
    TIMEOUT = "its time is up"
    RELEASE = "the worker stops"
    LOST = "the lease is lost"


@dataclass(slots=True, eq=False)
class Run:
    """One attempt at one task, and its channel between task and worker.

    Owned by the executor and written on the loop's thread only, but for `noticed`, which the task sets by asking.

    Attributes:
        started: Monotonic.
        post: Where notes go; callable from any thread.
        emit: Where they go as events.
        complete: Writes the success of the run into a transaction of the task.
        stop: Why it is to stop; the first reason counts.
        noticed: The task asked whether it is to stop, and was told so.
        reported: Its outcome is on its way, or its lease is lost: nothing that it does counts any more.
        completed: The result that the task has written into a transaction of its own, on its thread.
        said: The notes that it has written there.
    """

    reserved: ReservedTask
    held: Held
    rules: RunRules
    started: float
    post: Callable[[NewNote], None]
    emit: Emitter
    max_payload: int
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    stop: Stop | None = None
    noticed: bool = False
    reported: bool = False
    complete: Complete | None = None
    completed: bytes | None = None
    said: Sequence[NewNote] = ()

    @property
    def duration(self) -> float:
        return time.monotonic() - self.started

    @property
    def stopping(self) -> bool:
        return self.stop is not None

    def say(self, kind: NoteKind, data: bytes, event: type[Any], *details: Any) -> None:
        if self.reported:
            return
        self.post(NewNote(self.held, kind, data))
        if self.emit.wants(event):
            about = self.reserved
            self.emit(event(about.id, about.name, about.queue, about.attempt, *details))

    def complete_in(self, connection: object, result: bytes) -> Coroutine[Any, Any, None] | None:
        assert self.complete is not None, "the executor gives it to every run"
        return self.complete(self, connection, result)

    def __reduce__(self) -> Any:
        raise TypeError(
            "what belongs to a running task cannot travel: take from current_task() what is needed"
        )
