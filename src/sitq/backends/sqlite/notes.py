"""What tasks say while they run, and what happened to them: plain functions of a connection."""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import moment
from sitq.model import NOTES_KEPT, NewNote, Note, NoteKind, TaskId


class Entry(NamedTuple):
    """A note as it goes into the table."""

    seq: int
    kind: NoteKind
    attempt: int
    at: int
    data: bytes


class Written(NamedTuple):
    """The last note of a call: what shows later whether the call took place."""

    position: int
    entry: Entry


_RUNNING: Final = """
SELECT id, fence, seq, attempt FROM sitq_tasks
WHERE id IN (SELECT value FROM json_each(?)) AND status = 'running' AND worker IS NOT NULL
"""
_LAST_POSITION: Final = "SELECT coalesce(max(seq), 0) FROM main.sqlite_sequence WHERE name = 'sitq_notes'"
_INSERT: Final = "INSERT INTO sitq_notes (position, seq, kind, attempt, at, data) VALUES (?, ?, ?, ?, ?, ?)"
_TRIM: Final = """
DELETE FROM sitq_notes WHERE seq = ?1 AND kind = ?2 AND position <= (
    SELECT position FROM sitq_notes WHERE seq = ?1 AND kind = ?2 ORDER BY position DESC LIMIT 1 OFFSET ?3
)
"""
# Each kind by itself: the index leads to those beyond a position, whatever the others are.
_READ: Final = f"""
SELECT position, kind, attempt, at, data FROM sitq_notes INDEXED BY sitq_notes_of_task
WHERE seq = (SELECT seq FROM sitq_tasks WHERE id = ?)
    AND kind IN ({", ".join(f"'{kind}'" for kind in NoteKind)}) AND position > ?
ORDER BY position LIMIT ?
"""


def write(db: sqlite3.Connection, notes: Sequence[NewNote], now: int, rings: Rings) -> Written | None:
    """Write down what those say who hold a running task. None if nobody does."""
    if not notes:
        return None
    ids = json.dumps(list({note.held.id for note in notes}))
    running = {(row[0], row[1]): row for row in db.execute(_RUNNING, (ids,))}
    entries: list[Entry] = []
    rung: dict[TaskId, None] = {}
    for held, kind, data in notes:
        row = running.get((held.id, held.fence))
        if row is not None:
            entries.append(Entry(row[2], kind, row[3], now, data))
            rung[held.id] = None
    rings.tasks.extend(rung)
    return insert(db, entries)


def insert(db: sqlite3.Connection, entries: Sequence[Entry]) -> Written | None:
    """Add notes in order; of each kind a task keeps the newest."""
    if not entries:
        return None
    counts: Counter[tuple[int, NoteKind]] = Counter()
    newest: list[tuple[int, Entry]] = []
    [[last]] = db.execute(_LAST_POSITION).fetchall()
    # Those that would be trimmed at once are not written, but have had their position.
    for position, entry in reversed(list(enumerate(entries, last + 1))):
        pile = entry.seq, entry.kind
        if counts[pile] < NOTES_KEPT[entry.kind]:
            counts[pile] += 1
            newest.append((position, entry))
    db.executemany(_INSERT, [(position, *entry) for position, entry in reversed(newest)])
    db.executemany(_TRIM, [(seq, kind, NOTES_KEPT[kind]) for seq, kind in counts])
    return Written(*newest[0])


def are_written(db: sqlite3.Connection, written: Written) -> bool:
    """Whether the call with this last note took place. Its position may have gone to another note otherwise."""
    row = db.execute(
        "SELECT seq, kind, attempt, at, data FROM sitq_notes WHERE position = ?", (written.position,)
    ).fetchone()
    return row is not None and tuple(row) == written.entry


def read(db: sqlite3.Connection, task_id: TaskId, after: int, limit: int) -> list[Note]:
    return [
        Note(position, NoteKind(kind), attempt, moment(int(at)), data)
        for position, kind, attempt, at, data in db.execute(_READ, (task_id, after, limit))
    ]
