"""Tasks by their ids, as the verbs that change them need to see them."""

import json
import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from sitq.model import TaskId

_ROWS: Final = """
SELECT seq, id, fence, status, queue, cancel_requested, attempt, limited FROM sitq_tasks
WHERE id IN (SELECT value FROM json_each(?))
"""


class Row(NamedTuple):
    """The part of a task's row that decides what becomes of it. `limited` is None for a task without limits."""

    seq: int
    id: TaskId
    fence: int
    status: str
    queue: str
    cancel_requested: int
    attempt: int
    limited: int | None


def by_id(db: sqlite3.Connection, ids: Iterable[TaskId]) -> dict[TaskId, Row]:
    return {row[1]: Row._make(row) for row in db.execute(_ROWS, (json.dumps(list(ids)),))}
