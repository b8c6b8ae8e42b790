"""What people do to tasks from outside: cancel, requeue, prune. Plain functions of a connection."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from sitq.backends.sqlite import capacity, limits, notes, rates, registry, rows, unique
from sitq.backends.sqlite.notes import Entry
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.rows import Row
from sitq.model import NoteKind, Status, TaskId

# -- cancel ----------------------------------------------------------------------------------------

_CANCEL: Final = """
UPDATE sitq_tasks SET
    status = 'cancelled', due_at = NULL, finished_at = ?1, expires_at = ?1 + result_ttl
WHERE seq IN (SELECT value FROM json_each(?2))
"""
_REQUEST: Final = "UPDATE sitq_tasks SET cancel_requested = 1 WHERE seq IN (SELECT value FROM json_each(?))"


def cancel(db: sqlite3.Connection, ids: Collection[TaskId], now: int, rings: Rings) -> dict[TaskId, Status]:
    found = rows.by_id(db, ids)
    ended = {row.id: row for row in found.values() if row.status in (Status.WAITING, Status.PENDING)}
    running = [row.seq for row in found.values() if row.status == Status.RUNNING]
    db.execute(_CANCEL, (now, json.dumps([row.seq for row in ended.values()])))
    limits.forgo(db, [row.seq for row in ended.values() if row.limited is not None], now, rings)
    db.execute(_REQUEST, (json.dumps(running),))
    rings.tasks.extend(ended)
    rings.cancels |= bool(running)
    return {row.id: Status.CANCELLED if row.id in ended else Status(row.status) for row in found.values()}


# -- requeue ---------------------------------------------------------------------------------------

_AGAIN: Final = """
UPDATE sitq_tasks SET
    status = 'pending', due_at = ?1, attempt = 0, crashes = 0, cancel_requested = 0, worker = NULL,
    started_at = NULL, finished_at = NULL, expires_at = NULL, error = NULL,
    unique_bound = CASE unique_until WHEN 'start' THEN fence ELSE unique_bound END
WHERE seq = ?2
"""
_BEFORE: Final = "SELECT unique_key, coalesce(error, x'') FROM sitq_tasks WHERE seq = ?"


def requeue(db: sqlite3.Connection, ids: Collection[TaskId], now: int, rings: Rings) -> list[TaskId]:
    found = rows.by_id(db, ids)
    again: list[Row] = []
    left: list[Entry] = []
    for row in (found[task_id] for task_id in dict.fromkeys(ids) if task_id in found):
        if row.status not in (Status.FAILED, Status.CANCELLED):
            continue
        [[key, error]] = db.execute(_BEFORE, (row.seq,)).fetchall()
        holder = None if key is None else unique.holder(db, key, now)
        if holder is None or holder.seq == row.seq:
            db.execute(_AGAIN, (now, row.seq))
            left.append(Entry(row.seq, NoteKind.REQUEUED, row.attempt, now, error))
            again.append(row)
    notes.insert(db, left)
    if again:
        capacity.grow(db, len(again))
    rings.queues.update(row.queue for row in again)
    rings.tasks.extend(row.id for row in again)
    return [row.id for row in again]


def are_requeued(db: sqlite3.Connection, done: Sequence[TaskId]) -> bool:
    """Whether a requeueing with this answer took place. All of it did, if the first task shows it."""
    row = rows.by_id(db, done[:1])
    return any(one.status not in (Status.FAILED, Status.CANCELLED) for one in row.values())


# -- prune -----------------------------------------------------------------------------------------

_KEEPS: Final = "coalesce(unique_until = 'instant' AND unique_bound > ?1, 0)"
_EXPIRED: Final = f"SELECT seq, {_KEEPS} FROM sitq_tasks WHERE expires_at <= ?1 LIMIT ?2"
_KEEP: Final = "UPDATE sitq_tasks SET expires_at = unique_bound WHERE seq IN (SELECT value FROM json_each(?))"
_CHOSEN: Final = f"""
SELECT seq FROM sitq_tasks
WHERE id IN (SELECT value FROM json_each(?3)) AND status IN ('success', 'failed', 'cancelled') AND NOT {_KEEPS}
LIMIT ?2
"""


def prune(db: sqlite3.Connection, now: int, limit: int, ids: Collection[TaskId] | None = None) -> int:
    if ids is None:
        seqs = _expired(db, now, limit)
    else:
        seqs = [row[0] for row in db.execute(_CHOSEN, (now, limit, json.dumps(list(ids))))]
    for table in ("sitq_tasks", "sitq_payloads", "sitq_limits", "sitq_notes"):
        sql = f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))"
        db.execute(sql, (json.dumps(seqs),))
    rates.forget_over(db, now)
    registry.forget_dead(db, now)
    return len(seqs)


def _expired(db: sqlite3.Connection, now: int, limit: int) -> list[int]:
    while True:
        found = db.execute(_EXPIRED, (now, limit)).fetchall()
        kept = [seq for seq, keeps in found if keeps]
        if not kept:
            return [seq for seq, _ in found]
        # They hold a key until an instant: out of the way of later calls until then.
        db.execute(_KEEP, (json.dumps(kept),))
