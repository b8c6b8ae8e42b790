"""Tasks by their ids, as the verbs that change them need to see them."""

import json
import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from sitq.model import Status, TaskId

_ROWS: Final = """
SELECT seq, id, fence, status, queue, cancel_requested, attempt, limited, worker FROM sitq_tasks
WHERE id IN (SELECT value FROM json_each(?))
"""


class Row(NamedTuple):
    """The part of a task's row that decides what becomes of it. `limited` is None for a task without limits, `worker`
    for one that crashed and runs nowhere.
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

    @property
    def is_held(self) -> bool:
        return self.status == Status.RUNNING and self.worker is not None


def by_id(db: sqlite3.Connection, ids: Iterable[TaskId]) -> dict[TaskId, Row]:
    return {row[1]: Row._make(row) for row in db.execute(_ROWS, (json.dumps(list(ids)),))}
