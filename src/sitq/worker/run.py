"""One attempt at one task: what the executor, its judge and the task itself share."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sitq.emitter import Emitter
from sitq.model import Held, NewNote, NoteKind, ReservedTask
from sitq.rules import RunRules
from sitq.serialization import Codec, Purpose


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
        stop: Why it is to stop; the first reason counts.
        noticed: The task asked whether it is to stop, and was told so.
        reported: Its outcome is on its way, or its lease is lost: nothing that it does counts any more.
    """

    reserved: ReservedTask
    held: Held
    rules: RunRules
    started: float
    post: Callable[[NewNote], None]
    emit: Emitter
    codec: Codec
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    stop: Stop | None = None
    noticed: bool = False
    reported: bool = False

    @property
    def duration(self) -> float:
        return time.monotonic() - self.started

    @property
    def stopping(self) -> bool:
        return self.stop is not None

    def say(self, kind: NoteKind, data: bytes, event: type[Any], *details: Any) -> None:
        if self.reported:
            return
        if self.codec.seals and kind is not NoteKind.VALUE:  # a value is encoded already
            data = self.codec.seal(data, self.held.id, Purpose(kind))
        self.post(NewNote(self.held, kind, data))
        if self.emit.wants(event):
            about = self.reserved
            self.emit(event(about.id, about.name, about.queue, about.attempt, *details))

    def __reduce__(self) -> Any:
        raise TypeError(
            "what belongs to a running task cannot travel: take from current_task() what is needed"
        )
