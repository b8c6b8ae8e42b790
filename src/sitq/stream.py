"""The life of one task as a stream of events, read by anybody who can read the store.

Changes of state are seen in the task's record, the rest in its notes. A cursor says what a reader has had: the position
of the last note, and the reservation and state of the last record.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple

from sitq.backends.base import Backend
from sitq.errors import ValidationError
from sitq.events import (
    Event,
    TaskCancelled,
    TaskEnqueued,
    TaskFailed,
    TaskLogged,
    TaskProgressed,
    TaskPublished,
    TaskRequeued,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
)
from sitq.failure import decode_error
from sitq.model import Note, NoteKind, Status, TaskId, TaskRecord, TaskTopic
from sitq.progress import decode_line, decode_progress
from sitq.serialization import Codec, Purpose

_PAGE: Final = 500
_LARGEST: Final = 2**63 - 1
_POLL_INTERVAL: Final = 1.0


class Streamed(NamedTuple):
    """One entry of the stream of a task.

    Attributes:
        cursor: Give it to `events(after=...)` to go on behind this entry, in any process.
        at: When it happened, by the clock of the store's process.
        event: What happened.
    """

    cursor: str
    at: datetime
    event: Event


class _Place(NamedTuple):
    """Where a reader is: behind this note, and having seen this state of this reservation."""

    position: int
    fence: int
    status: str

    def __str__(self) -> str:
        return f"{self.position}.{self.fence}.{self.status}"


_START: Final = _Place(0, 0, "")


async def stream(
    backend: Backend,
    read: Callable[[], Awaitable[TaskRecord]],
    task_id: TaskId,
    after: str | None,
    codec: Codec,
) -> AsyncGenerator[Streamed]:
    """Yield what happens to a task until it has finished.

    Args:
        read: Reads its record with bytes; raises if there is none.
        after: The cursor of the last entry that the reader had; None for all there is.

    Raises:
        ValidationError: `after` is no cursor.
        TaskSerializationError: A note cannot be read with this codec.
    """
    place = _START if after is None else _parse(after)
    async with backend.listen([TaskTopic(task_id)]) as signal:
        while True:
            # The record first: when it says finished, every note of it is there.
            record = await read()
            more = True
            while more:
                notes = await backend.notes(task_id, after=place.position, limit=_PAGE)
                more = len(notes) == _PAGE
                for entry in _entries(record, notes, place, codec, last=not more):
                    place = _parse(entry.cursor)
                    yield entry
            if record.status.finished:
                return
            await signal.wait(_POLL_INTERVAL)


_SAID: Final = frozenset({NoteKind.PROGRESS, NoteKind.LOG, NoteKind.VALUE})
"""What a run says itself; the other notes are written when it has ended."""


class _New(NamedTuple):
    """Something that a reader has not had yet, and what of his place it moves."""

    at: datetime
    event: Event
    moves: dict[str, int | str]


def _entries(
    record: TaskRecord, notes: list[Note], place: _Place, codec: Codec, *, last: bool
) -> list[Streamed]:
    """What is new: the notes in their order, and changes of state among them by their time.

    Args:
        last: There are no more notes, so what is beyond them may be told.
    """
    about = (record.id, record.name, record.queue)
    found = [_New(note.at, _said(about, note, codec), _moves(note)) for note in notes]
    if record.started_at is not None and record.fence != place.fence:
        begun = TaskStarted(*about, record.attempt, record.worker or "")
        index = next((i for i, note in enumerate(notes) if _is_of_run(note, record)), len(found))
        if index < len(found) or last:
            moves: dict[str, int | str] = {"fence": record.fence, "status": Status.RUNNING}
            found.insert(index, _New(record.started_at, begun, moves))
    if place == _START:
        found.insert(0, _New(record.enqueued_at, TaskEnqueued(*about), {"status": Status.PENDING}))
    entries: list[Streamed] = []
    for new in found:
        place = place._replace(**new.moves)  # type: ignore[arg-type]
        entries.append(Streamed(str(place), new.at, new.event))
    if last and record.status.finished and record.finished_at is not None and record.status != place.status:
        place = place._replace(status=record.status)
        entries.append(Streamed(str(place), record.finished_at, _end(about, record, codec)))
    return entries


def _moves(note: Note) -> dict[str, int | str]:
    moves: dict[str, int | str] = {"position": note.position}
    return moves if note.kind in _SAID else {**moves, "status": Status.PENDING}


def _is_of_run(note: Note, record: TaskRecord) -> bool:
    """Whether it is of the run that is in the record: so it comes after the start."""
    return (
        note.kind is not NoteKind.REQUEUED
        and note.attempt == record.attempt
        and record.started_at is not None
        and note.at >= record.started_at
    )


def _said(about: tuple[TaskId, str, str], note: Note, codec: Codec) -> Event:
    task_id, name, _ = about
    match note.kind:
        case NoteKind.PROGRESS:
            progress = decode_progress(codec.unseal(note.data, task_id, Purpose.PROGRESS))
            return TaskProgressed(*about, note.attempt, progress.percent, progress.note)
        case NoteKind.LOG:
            line = decode_line(codec.unseal(note.data, task_id, Purpose.LOG))
            return TaskLogged(*about, note.attempt, line)
        case NoteKind.VALUE:
            value = codec.decode_value(note.data, task_id, Purpose.VALUE, name)
            return TaskPublished(*about, note.attempt, value)
        case NoteKind.ATTEMPT:
            error = decode_error(codec.unseal(note.data, task_id, Purpose.ERROR))
            return TaskRetried(*about, note.attempt, None, None, error.type, error.message)
        case NoteKind.REQUEUED:
            return TaskRequeued(*about)


def _end(about: tuple[TaskId, str, str], record: TaskRecord, codec: Codec) -> Event:
    begin = record.started_at or record.finished_at
    duration = (
        (record.finished_at - begin).total_seconds()
        if begin is not None and record.finished_at is not None
        else 0.0
    )
    last = (*about, record.attempt, record.worker or "", duration)
    match record.status:
        case Status.SUCCESS:
            return TaskSucceeded(*last)
        case Status.FAILED:
            error = decode_error(codec.unseal(record.error or b"", record.id, Purpose.ERROR))
            return TaskFailed(*last, error.type, error.message)
        case _:
            return TaskCancelled(*last)


def _parse(cursor: str) -> _Place:
    try:
        position, fence, status = cursor.split(".")
        if status and status not in Status:
            raise ValueError("no such state")
        place = _Place(int(position), int(fence), status)
        if max(place[:2]) > _LARGEST or min(place[:2]) < 0:
            raise ValueError("no position")
        return place
    except (AttributeError, TypeError, ValueError):
        raise ValidationError(
            "after is no cursor: give the cursor of an entry that events() yielded"
        ) from None
