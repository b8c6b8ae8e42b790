"""What a task says in another process, told as if it had said it here."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sitq.errors import TaskSerializationError
from sitq.events import TaskLogged, TaskProgressed, TaskPublished
from sitq.model import NewNote, NoteKind
from sitq.progress import Progress, decode_line, decode_progress
from sitq.serialization import Purpose
from sitq.worker.run import Run


def _progress(run: Run, data: bytes) -> Progress:
    return decode_progress(run.codec.unseal(data, run.held.id, Purpose.PROGRESS))


def _line(run: Run, data: bytes) -> str:
    return decode_line(run.codec.unseal(data, run.held.id, Purpose.LOG))


def _value(run: Run, data: bytes) -> Any:
    return run.codec.decode_value(data, run.held.id, Purpose.VALUE, run.reserved.name)


_TOLD_AS: Final[Mapping[NoteKind, tuple[type[Any], Callable[[Run, bytes], tuple[Any, ...]]]]] = {
    NoteKind.PROGRESS: (
        TaskProgressed,
        lambda run, data: tuple(_progress(run, data)),
    ),
    NoteKind.LOG: (TaskLogged, lambda run, data: (_line(run, data),)),
    NoteKind.VALUE: (TaskPublished, lambda run, data: (_value(run, data),)),
}


def hear(run: Run, kind: NoteKind, data: bytes) -> None:
    """Pass on what a run said. Callable from any thread."""
    event, read = _TOLD_AS[kind]
    details: tuple[Any, ...] = ()
    if run.emit.wants(event):  # read only for somebody: a value may be large
        try:
            details = read(run, data)
        except TaskSerializationError:  # of a class that only the child knows: others may read the note
            if not run.reported:
                run.post(NewNote(run.held, kind, data))
            return
    run.tell(kind, data, event, *details)
