"""One attempt at one task: what the executor, its judge and the task itself share."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import Any

from sitq.context import CurrentTask
from sitq.emitter import Emitter
from sitq.model import Held, NewNote, NoteKind, Outcome, ReservedTask, make
from sitq.rules import RunRules
from sitq.serialization import Codec, Purpose
from sitq.verbs import Verb
from sitq.worker.inputs import Input

type Complete = Callable[["Run", object, bytes], Coroutine[Any, Any, None] | None]


class Stop(Enum):
    """Why a run is being stopped."""

    CANCEL = "somebody asked for it"
    TIMEOUT = "its time is up"
    RELEASE = "the worker stops"
    LOST = "the lease is lost"


@dataclass(eq=False)
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
        inputs: What the tasks left on which it depends, by their numbers, if it takes their values.
        waits: It has to wait for a place to run at, and its time begins when it has one.
        complete: Completes it in a transaction of its own; None in another process than that of the worker.
        completed: The result that the task has written into a transaction of its own, on its thread.
        said: The notes that it has written there.
    """

    reserved: ReservedTask
    held: Held
    rules: RunRules
    started: float
    post: Callable[[NewNote], None]
    emit: Emitter
    codec: Codec
    # Of the class until they are set, which most of them never are: one of these is made for each attempt.
    task: asyncio.Task[None] | None = field(default=None, init=False)
    timer: asyncio.TimerHandle | None = field(default=None, init=False)
    stop: Stop | None = field(default=None, init=False)
    noticed: bool = field(default=False, init=False)
    reported: bool = field(default=False, init=False)
    waits: bool = field(default=False, init=False)
    inputs: Mapping[int, Input] = field(default=MappingProxyType({}), init=False)
    complete: Complete | None = field(default=None, init=False)
    completed: bytes | None = field(default=None, init=False)
    said: Sequence[NewNote] = field(default=(), init=False)

    @property
    def duration(self) -> float:
        return time.monotonic() - self.started

    @property
    def stopping(self) -> bool:
        return self.stop is not None

    def say(self, kind: NoteKind, data: bytes, event: type[Any], *details: Any) -> None:
        if self.codec.seals and kind is not NoteKind.VALUE:  # a value is encoded already
            data = self.codec.seal(data, self.held.id, Purpose(kind))
        self.tell(kind, data, event, *details)

    def tell(self, kind: NoteKind, data: bytes, event: type[Any], *details: Any) -> None:
        """As `say`, with the data as it is stored."""
        if self.reported:
            return
        self.post(NewNote(self.held, kind, data))
        if self.emit.wants(event):
            about = self.reserved
            self.emit(event(about.id, about.name, about.queue, about.attempt, *details))

    def wait(self) -> None:
        """Its time has not begun yet."""
        self.waits = True
        if self.timer is not None:
            self.timer.cancel()

    @property
    def complete_in(self) -> Callable[[object, bytes], Coroutine[Any, Any, None] | None] | None:
        return None if self.complete is None else partial(self.complete, self)

    def __reduce__(self) -> Any:
        raise TypeError(
            "what belongs to a running task cannot travel: take from current_task() what is needed"
        )


def current_of(run: Run, context: Mapping[str, Any]) -> CurrentTask:
    """What the task sees of its run."""
    task_id, _, name, queue, _, attempt, crashes, _, metadata, _, _ = run.reserved
    return make(CurrentTask, (task_id, name, queue, attempt, crashes, metadata or {}, context, run))


class Judged(Verb):
    """What a runner returns that knows already what follows from the attempt."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome
