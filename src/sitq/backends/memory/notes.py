"""What tasks said while they ran, and what happened to them."""

from collections import defaultdict, deque
from datetime import datetime
from heapq import merge
from itertools import count, islice

from sitq.model import NOTES_KEPT, Note, NoteKind, TaskId, TaskRecord


class Notes:
    """The newest notes of each kind for each task. For the holder of the backend's lock."""

    def __init__(self) -> None:
        self._positions = count(1)  # of the store, not of a task
        self._notes: defaultdict[TaskId, dict[NoteKind, deque[Note]]] = defaultdict(dict)

    def write(self, task: TaskRecord, kind: NoteKind, data: bytes, now: datetime) -> None:
        note = Note(next(self._positions), kind, task.attempt, now, data)
        self._notes[task.id].setdefault(kind, deque(maxlen=NOTES_KEPT[kind])).append(note)

    def read(self, task_id: TaskId, after: int, limit: int) -> list[Note]:
        found = merge(*self._notes.get(task_id, {}).values())  # by position, which no two notes share
        return list(islice((note for note in found if note.position > after), limit))

    def forget(self, task_id: TaskId) -> None:
        self._notes.pop(task_id, None)
