"""Who holds a unique key: plain functions of a connection. The index `sitq_unique` is what keeps two from it."""

import sqlite3
from datetime import timedelta
from typing import Final, NamedTuple

from sitq.backends.sqlite import limits
from sitq.backends.sqlite.edges import HAS_PARENTS
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import HOLDS_KEY, MICROSECOND, micros, moment
from sitq.model import Status, TaskId, Unique, Until

_INSTANT: Final = "instant"
_PASSED: Final = "passed"
_HOLDER: Final = f"""
SELECT seq, id, fence, status, queue, limited, edges, unique_until, unique_bound FROM sitq_tasks INDEXED BY sitq_unique
WHERE unique_key = ? AND {HOLDS_KEY}
"""


class Stored(NamedTuple):
    """The columns of a `Unique`."""

    key: str | None = None
    until: str | None = None
    bound: int | None = None
    replace: bool | None = None


class Holder(NamedTuple):
    """The task that holds a key."""

    seq: int
    id: TaskId
    fence: int
    status: str
    queue: str
    limited: int | None
    edges: int | None
    until: str
    bound: int | None


def stored(unique: Unique | None, now: int) -> Stored:
    """The columns of a new task, that is to hold its key from now on."""
    if unique is None:
        return Stored()
    if not isinstance(unique.until, Until):
        instant = (
            now + unique.until // MICROSECOND if isinstance(unique.until, timedelta) else micros(unique.until)
        )
        return Stored(unique.key, _INSTANT if instant > now else _PASSED, instant, unique.replace)
    return Stored(unique.key, unique.until, 0 if unique.until is Until.START else None, unique.replace)


def loaded(columns: Stored) -> Unique | None:
    if columns.key is None or columns.until is None:
        return None
    at_instant = columns.until in (_INSTANT, _PASSED) and columns.bound is not None
    until = moment(columns.bound) if at_instant else Until(columns.until)
    assert until is not None
    return Unique(columns.key, until, bool(columns.replace))


def holder(db: sqlite3.Connection, key: str, now: int) -> Holder | None:
    """The task that holds the key now. One whose instant has passed lets go of it here."""
    row = db.execute(_HOLDER, (key,)).fetchone()
    if row is None:
        return None
    found = Holder._make(row)
    if found.until == _INSTANT and found.bound is not None and found.bound <= now:
        db.execute("UPDATE sitq_tasks SET unique_until = ? WHERE seq = ?", (_PASSED, found.seq))
        return None
    return found


def replace(
    db: sqlite3.Connection, found: Holder, payload: bytes, due_at: int, now: int, rings: Rings
) -> None:
    """Give the holder of a key what the second one brings, unless it was reserved already or depends on others."""
    if found.fence or found.status != Status.PENDING or (found.edges or 0) & HAS_PARENTS:
        return
    if found.limited is not None:
        limits.forgo(db, [found.seq], now, rings)
    db.execute("UPDATE sitq_payloads SET payload = ? WHERE seq = ?", (payload, found.seq))
    db.execute("UPDATE sitq_tasks SET due_at = ? WHERE seq = ?", (due_at, found.seq))
    rings.queues.add(found.queue)
