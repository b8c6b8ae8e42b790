"""A task with everything that people want to know of it: its record, its errors and how far it has come."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime

from sitq.failure import ErrorInfo, decode_error
from sitq.model import Note, NoteKind, TaskRecord
from sitq.progress import Progress, decode_progress


@dataclass(frozen=True, slots=True)
class AttemptError:
    """Why one attempt failed.

    Attributes:
        at: When it failed.
        last: It ended the task; the others were followed by another attempt, or by a new run.
    """

    attempt: int
    at: datetime
    error: ErrorInfo
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetails(TaskRecord):
    """A `TaskRecord` with what its notes say.

    Attributes:
        attempts_log: Every error that the task had, oldest first: the last 20 and, if it failed, the final one.
        progress: The last that it said of itself.
        requeued: How often it was given a new run, up to 20.
    """

    attempts_log: tuple[AttemptError, ...] = ()
    progress: Progress | None = None
    requeued: int = 0


def details(record: TaskRecord, notes: Iterable[Note]) -> TaskDetails:
    """Put a record, read with bytes, and its notes together. The bytes are left out."""
    errors: list[AttemptError] = []
    progress: Progress | None = None
    requeued = 0
    for note in notes:
        if note.kind is NoteKind.PROGRESS:
            progress = decode_progress(note.data)
        elif note.kind is NoteKind.ATTEMPT:
            errors.append(AttemptError(note.attempt, note.at, decode_error(note.data)))
        elif note.kind is NoteKind.REQUEUED:
            requeued += 1
            if note.data:
                errors.append(AttemptError(note.attempt, note.at, decode_error(note.data)))
    if record.status.finished and record.error is not None and record.finished_at is not None:
        errors.append(AttemptError(record.attempt, record.finished_at, decode_error(record.error), last=True))
    plain = replace(record, payload=None, result=None, error=None)
    known = {each.name: getattr(plain, each.name) for each in fields(TaskRecord)}
    return TaskDetails(**known, attempts_log=tuple(errors), progress=progress, requeued=requeued)
