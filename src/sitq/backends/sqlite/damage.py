"""Rows that sitq did not write: what becomes of tasks that cannot be read. Plain functions of a connection.

One such row must not keep others from being handed out. Nobody looks for them as long as everything can be read: only a
`reserve` that failed has the tasks that are due looked at one by one.
"""

import json
import logging
import sqlite3
from typing import Any, Final

from sitq.backends.sqlite import edges, limits
from sitq.backends.sqlite.rings import Rings
from sitq.model import Status

logger = logging.getLogger("sitq.sqlite")

_MOST: Final = 10_000
"""How many tasks that are due are looked at in one go."""
_LARGEST: Final = 2**62
_CANDIDATES: Final = """
SELECT seq FROM sitq_tasks WHERE due_at <= ? OR typeof(due_at) NOT IN ('integer', 'null')
UNION SELECT l.seq FROM sitq_limits AS l JOIN sitq_tasks AS t ON t.seq = l.seq WHERE l.line IS NOT NULL
LIMIT ?
"""
# `reserve` reads the names of all queues, of tasks that are not due yet too.
_NAMES: Final = "SELECT DISTINCT CAST(queue AS BLOB) FROM sitq_tasks WHERE due_at IS NOT NULL"
_OF_QUEUE: Final = (
    "SELECT seq FROM sitq_tasks WHERE due_at IS NOT NULL AND CAST(queue AS BLOB) = ? ORDER BY seq LIMIT ?"
)
_READ: Final = """
SELECT t.id, t.name, t.queue, t.status, t.worker, t.metadata,
    t.priority, coalesce(t.due_at, l.due_at), t.fence, t.attempt, t.crashes, t.max_crashes, t.cancel_requested,
    t.edges, t.limited, p.payload,
    l.concurrency_key, l.concurrency_limit, l.rate_key, l.rate_count, l.rate_period
FROM sitq_tasks AS t LEFT JOIN sitq_payloads AS p ON p.seq = t.seq
LEFT JOIN sitq_limits AS l ON l.seq = t.seq AND t.limited IS NOT NULL
WHERE t.seq = ?
"""
_PARENTS: Final = "SELECT parent_id FROM sitq_edges WHERE child = ?"
_SET_ASIDE: Final = """
UPDATE sitq_tasks SET status = 'failed', due_at = NULL, worker = NULL, finished_at = ?, expires_at = NULL
WHERE seq = ?
"""


def set_aside(db: sqlite3.Connection, now: int, rings: Rings) -> int:
    """End the tasks that are due, or stand in a line, and cannot be read, as failed, and return how many. They stay as
    they are otherwise, until somebody discards or repairs them.
    """
    found = [row[0] for row in db.execute(_CANDIDATES, (now, _MOST))]
    for (name,) in db.execute(_NAMES).fetchall():
        if not _is_text(name):
            found += [row[0] for row in db.execute(_OF_QUEUE, (name, _MOST))]
    damaged = [seq for seq in dict.fromkeys(found) if not _is_readable(db, seq)]
    for seq in damaged:
        logger.error("the task in row %s of sitq_tasks cannot be read, and is set aside as failed", seq)
        db.execute(_SET_ASIDE, (now, seq))
    for seq in damaged:
        _let_others_in(db, seq, now, rings)
        _tell_children(db, seq, now, rings)
    return len(damaged)


def _let_others_in(db: sqlite3.Connection, seq: int, now: int, rings: Rings) -> None:
    """What waits for a limit of it may go. Limits that cannot be read are left as they are."""
    db.execute("SAVEPOINT others")
    try:
        limits.forgo(db, [seq], now, rings)
    except (sqlite3.Error, ValueError, TypeError):
        db.execute("ROLLBACK TO others")
    db.execute("RELEASE others")


def _tell_children(db: sqlite3.Connection, seq: int, now: int, rings: Rings) -> None:
    """Cancel or release those that wait for it, as after any other failure. If one of them cannot be read either, they
    wait until somebody repairs or discards them.
    """
    db.execute("SAVEPOINT children")
    try:
        edges.end(db, [(seq, Status.FAILED)], now, rings)
    except (sqlite3.Error, ValueError, TypeError):
        logger.error("what depends on the task in row %s of sitq_tasks cannot be read, and waits", seq)
        db.execute("ROLLBACK TO children")
    db.execute("RELEASE children")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_readable(db: sqlite3.Connection, seq: int) -> bool:
    try:
        row: tuple[Any, ...] = db.execute(_READ, (seq,)).fetchone()
        texts, metadata, numbers, payload, bounds = row[:4], row[5], row[6:13], row[15], row[16:]
        json.loads("null" if metadata is None else metadata)
        parents = [parent for (parent,) in db.execute(_PARENTS, (seq,))]
        return (
            all(type(text) is str for text in (*texts, *parents))
            and row[3] in (Status.PENDING, Status.RUNNING)
            and all(type(number) is int and abs(number) < _LARGEST for number in numbers)
            and all(number is None or type(number) is int for number in row[13:15])
            and isinstance(metadata, str | None)
            and isinstance(payload, bytes)
            and (row[14] is None or bounds[0] is not None or bounds[2] is not None)
            and _are_bounds(*bounds)
        )
    except (sqlite3.Error, ValueError, TypeError, RecursionError):
        return False


def _are_bounds(key: Any, limit: Any, rate: Any, count: Any, period: Any) -> bool:
    concurrency = key is None or (type(key) is str and type(limit) is int)
    numbers = type(count) is int and type(period) is int and 0 < count < _LARGEST and 0 < period < _LARGEST
    return concurrency and (rate is None or (type(rate) is str and numbers))
