"""Whether a queue has more pending tasks than it may: plain functions of a connection.

To count them takes as long as there are many. So a count is written down together with how much the store had grown by
then: as long as it has not grown by more than was left, there is room without another count. Near the bound each
enqueueing counts.
"""

import sqlite3
from typing import Final

# Whatever makes a queue longer, here or in another one: new tasks, and those that were requeued.
_GROWN: Final = """
SELECT (SELECT coalesce(max(seq), 0) FROM main.sqlite_sequence WHERE name = 'sitq_tasks')
    + (SELECT value FROM sitq_meta WHERE key = 'requeued')
"""
_COUNTED: Final = "SELECT unfinished, grown FROM sitq_counts WHERE queue = ?"
_WRITE: Final = "INSERT OR REPLACE INTO sitq_counts (queue, unfinished, grown) VALUES (?, ?, ?)"
# Running tasks are counted as well, so that no row has to be looked at; few of these are enough to say there is room.
_DUE: Final = "SELECT count(*) FROM sitq_tasks INDEXED BY sitq_due WHERE queue = ? AND due_at IS NOT NULL"
_PENDING: Final = """
SELECT count(*) FROM (
    SELECT 1 FROM sitq_tasks INDEXED BY sitq_due
    WHERE queue = ? AND due_at IS NOT NULL AND status = 'pending' LIMIT ?
)
"""
_HELD_UP: Final = """
SELECT count(*) FROM sitq_lines CROSS JOIN sitq_limits ON sitq_limits.line = sitq_lines.id WHERE sitq_lines.queue = ?
"""


def is_over(db: sqlite3.Connection, queue: str, most: int) -> bool:
    """Whether more than `most` tasks of the queue are pending."""
    [[grown]] = db.execute(_GROWN).fetchall()
    counted = db.execute(_COUNTED, (queue,)).fetchone()
    if counted is not None and counted[0] + grown - counted[1] <= most:
        return False
    [[held_up]] = db.execute(_HELD_UP, (queue,)).fetchall()
    [[due]] = db.execute(_DUE, (queue,)).fetchall()
    db.execute(_WRITE, (queue, held_up + due, grown))
    if held_up + due <= most:
        return False
    left = max(most - held_up, 0)
    [[pending]] = db.execute(_PENDING, (queue, left + 1)).fetchall()
    return bool(held_up + pending > most)


def grow(db: sqlite3.Connection, number: int) -> None:
    """So many tasks became pending again that were over."""
    db.execute("UPDATE sitq_meta SET value = value + ? WHERE key = 'requeued'", (number,))
