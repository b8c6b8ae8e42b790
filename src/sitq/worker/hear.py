"""What a task says in another process, told as if it had said it here."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sitq.errors import TaskSerializationError
from sitq.events import TaskLogged, TaskProgressed, TaskPublished
from sitq.model import NewNote, NoteKind
from sitq.progress import decode_line, decode_progress
from sitq.serialization import decode_value
from sitq.worker.run import Run

_TOLD_AS: Final[Mapping[NoteKind, tuple[type[Any], Callable[[bytes], tuple[Any, ...]]]]] = {
    NoteKind.PROGRESS: (TaskProgressed, lambda data: tuple(decode_progress(data))),
    NoteKind.LOG: (TaskLogged, lambda data: (decode_line(data),)),
    NoteKind.VALUE: (TaskPublished, lambda data: (decode_value(data),)),
}


def hear(run: Run, kind: NoteKind, data: bytes) -> None:
    """Pass on what a run said. Callable from any thread."""
    event, read = _TOLD_AS[kind]
    details: tuple[Any, ...] = ()
    if run.emit.wants(event):  # read only for somebody: a value may be large
        try:
            details = read(data)
        except TaskSerializationError:  # of a class that only the child knows: others may read the note
            if not run.reported:
                run.post(NewNote(run.held, kind, data))
            return
    run.say(kind, data, event, *details)
