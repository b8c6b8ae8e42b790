"""What people do to tasks from outside: cancel, requeue, prune. Plain functions of a connection."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from sitq.backends.sqlite import capacity, edges, limits, notes, rates, registry, rows, schema, unique
from sitq.backends.sqlite.edges import MET, OPEN, REFUSED
from sitq.backends.sqlite.notes import Entry
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.rows import Row
from sitq.model import NoteKind, Status, TaskId

# -- cancel ----------------------------------------------------------------------------------------

_REQUEST: Final = "UPDATE sitq_tasks SET cancel_requested = 1 WHERE seq IN (SELECT value FROM json_each(?))"


def cancel(db: sqlite3.Connection, ids: Collection[TaskId], now: int, rings: Rings) -> dict[TaskId, Status]:
    found = rows.by_id(db, ids)
    ended = {row.id: row for row in found.values() if row.status in (Status.WAITING, Status.PENDING)}
    running = [row.seq for row in found.values() if row.status == Status.RUNNING]
    rows.cancel(db, [row.seq for row in ended.values()], now)
    waited = [row.seq for row in ended.values() if row.status == Status.WAITING]
    edges.forgo(db, waited)
    limits.forgo(db, [row.seq for row in ended.values() if row.limited is not None], now, rings)
    db.execute(_REQUEST, (json.dumps(running),))
    rings.tasks.extend(ended)
    linked = [row.seq for row in ended.values() if (row.edges or 0) & edges.HAS_CHILDREN]
    edges.end(db, [(seq, Status.CANCELLED) for seq in linked], now, rings)
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
    for row in sorted(found.values()):  # by `seq`: parents before what depends on them
        if row.status not in (Status.FAILED, Status.CANCELLED):
            continue
        held = MET if row.edges is None else edges.holds(db, row.seq)
        if held == REFUSED:
            continue
        [[key, error]] = db.execute(_BEFORE, (row.seq,)).fetchall()
        holder = None if key is None else unique.holder(db, key, now)
        if holder is None or holder.seq == row.seq:
            db.execute(_AGAIN, (now, row.seq))
            left.append(Entry(row.seq, NoteKind.REQUEUED, row.attempt, now, error))
            again.append(row)
            if row.edges is not None:
                edges.reopen(db, row.seq, row.edges)
            if held == OPEN:
                edges.put_behind(db, row.seq, now)
            else:
                rings.queues.add(row.queue)
    notes.insert(db, left)
    if again:
        capacity.grow(db, len(again))
    rings.tasks.extend(row.id for row in again)
    return [row.id for row in again]


def are_requeued(db: sqlite3.Connection, done: Sequence[TaskId]) -> bool:
    """Whether a requeueing with this answer took place. All of it did, if the first task shows it."""
    row = rows.by_id(db, done[:1])
    return any(one.status not in (Status.FAILED, Status.CANCELLED) for one in row.values())


# -- prune -----------------------------------------------------------------------------------------

_TABLES: Final = (
    ("sitq_tasks", "seq"),
    ("sitq_payloads", "seq"),
    ("sitq_limits", "seq"),
    ("sitq_notes", "seq"),
    ("sitq_dependents", "seq"),
    ("sitq_edges", "child"),
)
_KEEPS: Final = "coalesce(unique_until = 'instant' AND unique_bound > ?1, 0)"
_EXPIRED: Final = f"SELECT seq, edges, {_KEEPS} FROM sitq_tasks WHERE expires_at <= ?1 LIMIT ?2"
_KEEP: Final = "UPDATE sitq_tasks SET expires_at = unique_bound WHERE seq IN (SELECT value FROM json_each(?))"
_CHOSEN: Final = f"""
SELECT seq, edges FROM sitq_tasks
WHERE id IN (SELECT value FROM json_each(?2)) AND status IN ('success', 'failed', 'cancelled') AND NOT {_KEEPS}
"""


def prune(db: sqlite3.Connection, now: int, limit: int, ids: Collection[TaskId] | None = None) -> int:
    if ids is None:
        pruned = _prune_expired(db, now, limit)
    else:
        chosen = db.execute(_CHOSEN, (now, json.dumps(list(ids)))).fetchall()
        needed = _needed(db, chosen)
        # The newest first, so that what depends on others goes before them if not all can go.
        seqs = sorted((seq for seq, _ in chosen if seq not in needed), reverse=True)[:limit]
        _delete(db, seqs)
        pruned = len(seqs)
    rates.forget_over(db, now)
    registry.forget_dead(db, now)
    schema.shrink(db)
    return pruned


def _prune_expired(db: sqlite3.Connection, now: int, limit: int) -> int:
    left, more = limit, True
    while more:  # of those on which these depended, some may go now
        seqs = _expired(db, now, left)
        more = _delete(db, seqs)
        left -= len(seqs)
    return limit - left


def _expired(db: sqlite3.Connection, now: int, limit: int) -> list[int]:
    while True:
        found = db.execute(_EXPIRED, (now, limit)).fetchall()
        kept = [seq for seq, _, keeps in found if keeps]
        needed = _needed(db, [(seq, linked) for seq, linked, keeps in found if not keeps])
        if not kept and not needed:
            return [seq for seq, _, _ in found]
        # They hold a key until an instant, or are needed: out of the way of later calls until then.
        db.execute(_KEEP, (json.dumps(kept),))
        edges.keep(db, needed)


def _needed(db: sqlite3.Connection, candidates: Sequence[tuple[int, int | None]]) -> set[int]:
    """Those on which one depends that stays, if the others go."""
    if all(linked is None for _, linked in candidates):
        return set()
    return edges.needed(db, sorted((seq for seq, _ in candidates), reverse=True))


def _delete(db: sqlite3.Connection, seqs: Sequence[int]) -> bool:
    """Delete tasks with all that belongs to them. Tells whether others may go, since these are gone."""
    more = bool(seqs) and edges.need_no_more(db, seqs)
    for table, column in _TABLES:
        sql = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
        db.execute(sql, (json.dumps(seqs),))
    return more
