"""Tasks by their ids, as the verbs that change them need to see them."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sitq.model import Status, TaskId

_ROWS: Final = """
SELECT seq, id, fence, status, queue, cancel_requested, attempt, limited, worker, edges FROM sitq_tasks
WHERE id IN (SELECT value FROM json_each(?))
"""
_CANCEL: Final = """
UPDATE sitq_tasks SET
    status = 'cancelled', due_at = NULL, finished_at = ?1, expires_at = ?1 + result_ttl
WHERE seq IN (SELECT value FROM json_each(?2))
"""


class Row(NamedTuple):
    """The part of a task's row that decides what becomes of it.

    Attributes:
        limited: None for a task without limits.
        worker: None for one that crashed and runs nowhere.
        edges: None for a task on which none depends and that depends on none; else which of both, as bits.
    """

    seq: int
    id: TaskId
    fence: int
    status: str
    queue: str
    cancel_requested: int
    attempt: int
    limited: int | None
    worker: str | None
    edges: int | None

    @property
    def is_held(self) -> bool:
        return self.status == Status.RUNNING and self.worker is not None


def by_id(db: sqlite3.Connection, ids: Iterable[TaskId]) -> dict[TaskId, Row]:
    return {row[1]: Row._make(row) for row in db.execute(_ROWS, (json.dumps(list(ids)),))}


def cancel(db: sqlite3.Connection, seqs: Sequence[int], now: int) -> None:
    """These become cancelled, which do not run."""
    db.execute(_CANCEL, (now, json.dumps(seqs)))
