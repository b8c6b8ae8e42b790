"""What a worker tells: that it lives, and what became of its tasks. Plain functions of a connection.

Run inside a transaction that somebody else ends. Every one can be run twice, so that a commit whose outcome is unknown
may be repeated; `are_noted` tells whether the first one took place, where a second one would repeat notes.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sitq.backends.sqlite import edges, limits, notes, registry, rows
from sitq.backends.sqlite.database import RESULT_OF, Database
from sitq.backends.sqlite.notes import Entry, Written
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.rows import Row
from sitq.backends.sqlite.schema import MICROSECOND, micros
from sitq.model import (
    Completed,
    Crashed,
    Failed,
    Heartbeat,
    Held,
    NewNote,
    NoteKind,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    WorkerInfo,
    leads_to,
)

# -- heartbeat -------------------------------------------------------------------------------------

_RENEW: Final = "UPDATE sitq_tasks SET due_at = ? WHERE seq IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class Pulse:
    """The arguments of one `heartbeat`, with its instants as stored."""

    worker: str
    held: Sequence[Held]
    notes: Sequence[NewNote]
    info: WorkerInfo | None
    now: int
    lease_end: int


def heartbeat(db: sqlite3.Connection, pulse: Pulse, rings: Rings) -> tuple[Heartbeat, Written | None]:
    held = pulse.held
    found = rows.by_id(db, (one.id for one in held)) if held else {}
    ours = {one: row for one in held if (row := found.get(one.id)) and row.fence == one.fence and row.is_held}
    if ours:
        db.execute(_RENEW, (pulse.lease_end, json.dumps([row.seq for row in ours.values()])))
    written = notes.write(db, pulse.notes, pulse.now, rings)
    if pulse.info is not None:
        registry.see(db, pulse.worker, pulse.info, pulse.now, pulse.lease_end)
    answer = Heartbeat(
        lost=frozenset(one for one in held if one not in ours),
        cancelled=frozenset(one for one, row in ours.items() if row.cancel_requested),
    )
    return answer, written


def are_noted[T](db: sqlite3.Connection, answer: tuple[T, Written | None]) -> bool:
    """Whether a call with this answer took place. It has to be asked only if it wrote something down."""
    _, written = answer
    return written is not None and notes.are_written(db, written)


# -- complete --------------------------------------------------------------------------------------

# The state, the fence and the row in one statement: nothing has to be read first. The end of a task with limits has to
# let others in, and others may wait for the end of one with edges: so these are looked at.
_SUCCEED: Final = """
UPDATE sitq_tasks SET
    status = 'success', due_at = NULL, finished_at = ?1, expires_at = ?1 + result_ttl, result = ?2, error = NULL
WHERE id = ?3 AND fence = ?4 AND status = 'running' AND worker IS NOT NULL
"""
_SUCCEED_PLAIN: Final = f"{_SUCCEED} AND limited IS NULL AND edges IS NULL"
_SUCCEED_ALIKE: Final = _SUCCEED_PLAIN.replace("id = ?3", "id IN (SELECT value FROM json_each(?3))")
_SUCCEED_TOGETHER: Final = _SUCCEED_ALIKE.replace("result = ?2", f"result = {RESULT_OF}(id)")
_FINISH: Final = """
UPDATE sitq_tasks SET
    status = ?1, due_at = NULL, finished_at = ?2, expires_at = ?2 + max(result_ttl, ?3), error = coalesce(?4, error)
WHERE seq = ?5
"""
_GIVE_BACK: Final = """
UPDATE sitq_tasks SET
    status = 'pending', due_at = ?, attempt = attempt - ?, worker = NULL, started_at = NULL, error = coalesce(?, error)
WHERE seq = ?
"""
_CRASH: Final = "UPDATE sitq_tasks SET due_at = ?, worker = NULL, error = ? WHERE seq = ?"


def complete(
    db: sqlite3.Connection, outcomes: Sequence[Outcome], new_notes: Sequence[NewNote], now: int, rings: Rings
) -> tuple[Completed, Written | None]:
    written = notes.write(db, new_notes, now, rings)
    if not outcomes:
        return Completed(0), written
    succeeded = [one for one in outcomes if isinstance(one, Succeeded)]
    if len(succeeded) == len(outcomes):
        changed = _succeed(db, succeeded, now)
        rings.tasks.extend([held.id for held, _ in succeeded])
        if changed == len(outcomes):
            return Completed(changed), written
    # Not all of one kind, or not all of them current: each is looked at. What was written just now counts as repeated.
    stale = _complete_each(db, outcomes, now, rings)
    if stale:
        db.execute("UPDATE sitq_meta SET value = value + ? WHERE key = 'stale_outcomes'", (len(stale),))
    return Completed(len(outcomes) - len(stale), tuple(stale)), written


def _succeed(db: sqlite3.Connection, succeeded: Sequence[Succeeded], now: int) -> int:
    (_, fence), result = succeeded[0]
    results = {task_id: result for (task_id, other), result in succeeded if other == fence}
    together = len(results) == len(succeeded)  # reserved so: then they can be completed by one statement
    arguments = now, result, json.dumps(list(results)), fence
    if together and all(each == result for each in results.values()):  # most tasks return nothing
        return db.execute(_SUCCEED_ALIKE, arguments).rowcount
    if together and isinstance(db, Database):
        db.results.update(results)
        try:
            return db.execute(_SUCCEED_TOGETHER, arguments).rowcount
        finally:
            db.results.clear()
    return db.executemany(_SUCCEED_PLAIN, [(now, result, *held) for held, result in succeeded]).rowcount


def _complete_each(db: sqlite3.Connection, outcomes: Sequence[Outcome], now: int, rings: Rings) -> list[Held]:
    """Apply outcomes one after another. Returns those that came too late."""
    found = rows.by_id(db, (outcome.held.id for outcome in outcomes))
    stale: list[Held] = []
    limited: list[int] = []
    linked: list[tuple[Row, Status]] = []
    for outcome in outcomes:
        held = outcome.held
        row = found.get(held.id)
        if row is None or row.fence != held.fence:
            stale.append(held)
            continue
        status = leads_to(outcome, bool(row.cancel_requested))
        if row.is_held:
            _apply(db, row, outcome, status, now, rings)
            found[row.id] = row._replace(status=status, worker=None)
            if row.limited is not None and status is not Status.RUNNING:
                limited.append(row.seq)
            if row.edges is not None and status.finished:
                linked.append((row, status))
        elif row.status != status and (row.status, status) != (Status.WAITING, Status.PENDING):
            # Already ended under this fence. The same outcome again is a repeated message, another one is too late.
            stale.append(held)
    limits.end(db, limited, rings)
    if linked:
        _end_linked(db, linked, now, rings)
    return stale


def _end_linked(db: sqlite3.Connection, linked: Sequence[tuple[Row, Status]], now: int, rings: Rings) -> None:
    edges.end(
        db,
        [(row.seq, status) for row, status in linked if (row.edges or 0) & edges.HAS_CHILDREN],
        now,
        rings,
    )
    succeeded = [
        row.seq for row, status in linked if status is Status.SUCCESS and (row.edges or 0) & edges.HAS_PARENTS
    ]
    if succeeded:
        edges.need_no_more(db, succeeded)


def _apply(
    db: sqlite3.Connection, row: Row, outcome: Outcome, status: Status, now: int, rings: Rings
) -> None:
    if isinstance(outcome, Succeeded):
        db.execute(_SUCCEED, (now, outcome.result, *outcome.held))
        rings.tasks.append(row.id)
        return
    if isinstance(outcome, Retried | Crashed):
        notes.insert(db, [Entry(row.seq, NoteKind.ATTEMPT, row.attempt, now, outcome.error)])
        rings.tasks.append(row.id)
    if isinstance(outcome, Crashed):
        db.execute(_CRASH, (now, outcome.error, row.seq))
        rings.queues.add(row.queue)
    elif status is Status.PENDING and isinstance(outcome, Retried | Released):
        due_at = now if outcome.at is None else micros(outcome.at)
        db.execute(_GIVE_BACK, (due_at, isinstance(outcome, Released), outcome.error, row.seq))
        if row.edges is not None and edges.is_open(db, row.seq):
            edges.put_behind(db, row.seq, due_at)
        else:
            rings.queues.add(row.queue)
    else:
        keep_for = outcome.keep_for // MICROSECOND if isinstance(outcome, Failed) else 0
        db.execute(_FINISH, (status, now, keep_for, outcome.error, row.seq))
        rings.tasks.append(row.id)
