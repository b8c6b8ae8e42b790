"""A task with everything that people want to know of it: its record, its errors and how far it has come."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime

from sitq.errors import TaskSerializationError
from sitq.failure import ErrorInfo, decode_error
from sitq.model import Note, NoteKind, TaskRecord
from sitq.progress import Progress, decode_progress
from sitq.serialization import Codec, Purpose


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
        last_error: What the last attempt failed with, or why it is parked or was cancelled; None after a success.
        attempts_log: Every error that the task had, oldest first: of attempts that were tried again and of runs that
            were requeued the last 20 each, and if it has ended the one that ended it.
        progress: The last that it said of itself.
        requeued: How often it was given a new run, up to 20.
    """

    last_error: ErrorInfo | None = None
    attempts_log: tuple[AttemptError, ...] = ()
    progress: Progress | None = None
    requeued: int = 0


def details(record: TaskRecord, notes: Iterable[Note], codec: Codec) -> TaskDetails:
    """Put a record, read with bytes, and its notes together. The bytes are left out."""

    def read(error: bytes) -> ErrorInfo:
        """An error that cannot be read here, or was put there past the worker, must not hide the rest of the task."""
        try:
            return decode_error(codec.unseal(error, record.id, Purpose.ERROR))
        except TaskSerializationError as unreadable:
            return ErrorInfo("unreadable", str(unreadable))

    errors: list[AttemptError] = []
    progress: Progress | None = None
    requeued = 0
    retried: tuple[int, bytes] | None = None
    for note in notes:
        if note.kind is NoteKind.PROGRESS:
            with suppress(
                TaskSerializationError
            ):  # as with an error; there is no kind of progress to say it with
                progress = decode_progress(codec.unseal(note.data, record.id, Purpose.PROGRESS))
        elif note.kind is NoteKind.ATTEMPT:
            retried = note.attempt, note.data
            errors.append(AttemptError(note.attempt, note.at, read(note.data)))
        elif note.kind is NoteKind.REQUEUED:
            retried = None
            requeued += 1
            if note.data:
                errors.append(AttemptError(note.attempt, note.at, read(note.data)))
    last_error = None if record.error is None else read(record.error)
    # One that was cancelled while it waited for its next attempt still has the error of the one before.
    known_already = retried == (record.attempt, record.error)
    if last_error is not None and record.finished_at is not None and not known_already:
        errors.append(AttemptError(record.attempt, record.finished_at, last_error, last=True))
    plain = replace(record, payload=None, result=None, error=None)
    known = {each.name: getattr(plain, each.name) for each in fields(TaskRecord)}
    return TaskDetails(
        **known, last_error=last_error, attempts_log=tuple(errors), progress=progress, requeued=requeued
    )
