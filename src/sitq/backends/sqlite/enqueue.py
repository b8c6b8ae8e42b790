"""How tasks come into the tables: plain functions of a connection, run inside a transaction that somebody else ends."""

import itertools
import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sitq.backends.sqlite import capacity, limits, rows, unique
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import MICROSECOND, micros
from sitq.errors import QueueFullError
from sitq.model import Enqueued, NewTask

# -- Tasks that nothing holds up: many rows a statement --------------------------------------------


class _Insert(NamedTuple):
    head: str
    row: str
    tail: str = ""


_TASKS: Final = _Insert(
    "INSERT INTO sitq_tasks"
    " (seq, id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at, metadata) VALUES ",
    "(?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?)",
    " ON CONFLICT (id) DO NOTHING",
)
_PAYLOADS: Final = _Insert("INSERT INTO sitq_payloads (seq, payload) VALUES ", "(?, ?)")
_MOST_ROWS: Final = 128
_LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM main.sqlite_sequence WHERE name = 'sitq_tasks'"
_PLAIN: Final = (None, None, None)


def are_plain(tasks: Sequence[NewTask]) -> bool:
    """Whether none of these tasks has a key or a limit."""
    for task in tasks:  # noqa: SIM110  # a generator takes twice the time, and this is on the way of every call
        if task[9:] != _PLAIN:
            return False
    return True


def enqueue(
    db: sqlite3.Connection, batches: Sequence[Sequence[NewTask]], now: int, rings: Rings
) -> list[list[Enqueued]]:
    """Store the plain tasks of several callers, with an answer for each caller."""
    tasks = [task for batch in batches for task in batch]
    if len(tasks) == 1:  # the look at the last `seq` would cost a lone caller more than it saves
        return [[_enqueue_one(db, task, now, rings) for task in batch] for batch in batches]
    [[last]] = db.execute(_LAST_SEQ).fetchall()
    numbered = list(enumerate(tasks, last + 1))
    created: Collection[int] = range(last + 1, last + 1 + len(tasks))
    if _insert(db, _TASKS, [_row(seq, task, now) for seq, task in numbered]) < len(tasks):
        created = {row[0] for row in db.execute("SELECT seq FROM sitq_tasks WHERE seq > ?", (last,))}
        numbered = [(seq, task) for seq, task in numbered if seq in created]
    _insert(db, _PAYLOADS, [(seq, task.payload) for seq, task in numbered])
    rings.queues.update({task.queue for _, task in numbered})
    seqs = itertools.count(last + 1)
    return [[Enqueued(task.id, next(seqs) in created) for task in batch] for batch in batches]


def _enqueue_one(db: sqlite3.Connection, task: NewTask, now: int, rings: Rings) -> Enqueued:
    cursor = db.execute(_of_rows(_TASKS, 1), _row(None, task, now))
    created = cursor.rowcount == 1
    if created:
        db.execute(_of_rows(_PAYLOADS, 1), (cursor.lastrowid, task.payload))
        rings.queues.add(task.queue)
    return Enqueued(task.id, created)


def _insert(db: sqlite3.Connection, into: _Insert, rows: Sequence[tuple[Any, ...]]) -> int:
    """Insert rows, and return how many. A statement of many rows takes half the time of one for each."""
    changed = start = 0
    while left := len(rows) - start:
        # Powers of two, so that few statements are kept prepared for all numbers of rows.
        size = 1 << min(left, _MOST_ROWS).bit_length() - 1
        values = list(itertools.chain.from_iterable(rows[start : start + size]))
        changed += db.execute(_of_rows(into, size), values).rowcount
        start += size
    return changed


@cache
def _of_rows(into: _Insert, size: int) -> str:
    return into.head + ", ".join([into.row] * size) + into.tail


def are_stored(db: sqlite3.Connection, done: Sequence[Enqueued] | QueueFullError) -> bool:
    """Whether an enqueueing with this answer took place. It has to be asked only if it created something."""
    if isinstance(done, QueueFullError):
        return False
    created = next((one.id for one in done if one.created), None)
    return created is not None and created in rows.by_id(db, [created])


def _row(seq: int | None, task: NewTask, now: int) -> tuple[Any, ...]:
    task_id, name, _, queue, priority, due_at, max_crashes, result_ttl, metadata, _, _, _ = task
    return (
        seq,
        task_id,
        name,
        queue,
        priority,
        now if due_at is None else micros(due_at),
        max_crashes,
        None if result_ttl is None else result_ttl // MICROSECOND,
        now,
        None if metadata is None else json.dumps(dict(metadata)),
    )


# -- Tasks with a key or a limit: one after another ------------------------------------------------

_INSERT_ONE: Final = """
INSERT INTO sitq_tasks (
    seq, id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at, metadata,
    unique_key, unique_until, unique_bound, unique_replace, limited
) VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def enqueue_each(db: sqlite3.Connection, tasks: Sequence[NewTask], now: int, rings: Rings) -> list[Enqueued]:
    if are_plain(tasks):
        return enqueue(db, [tasks], now, rings)[0]
    return [_enqueue_careful(db, task, now, rings) for task in tasks]


def _enqueue_careful(db: sqlite3.Connection, task: NewTask, now: int, rings: Rings) -> Enqueued:
    # What is wrong with a task shows here, whoever holds its key.
    row = _row(None, task, now)
    if db.execute("SELECT 1 FROM sitq_tasks WHERE id = ?", (task.id,)).fetchone() is not None:
        return Enqueued(task.id, created=False)
    due_at = now if task.due_at is None else micros(task.due_at)
    holder = None if task.unique is None else unique.holder(db, task.unique.key, now)
    if holder is not None:
        if task.unique is not None and task.unique.replace:
            unique.replace(db, holder, task.payload, due_at, now, rings)
        return Enqueued(holder.id, created=False)
    limited = None if task.concurrency is None and task.rate is None else 1
    seq = db.execute(_INSERT_ONE, (*row, *unique.stored(task.unique, now), limited)).lastrowid
    assert seq is not None
    db.execute("INSERT INTO sitq_payloads (seq, payload) VALUES (?, ?)", (seq, task.payload))
    if limited is not None:
        limits.store(db, seq, task, max(now, due_at))
    rings.queues.add(task.queue)
    return Enqueued(task.id, created=True)


# -- Queues that may become full -------------------------------------------------------------------


def enqueue_bounded(
    db: sqlite3.Connection, tasks: Sequence[NewTask], max_pending: Mapping[str, int], now: int, rings: Rings
) -> list[Enqueued] | QueueFullError:
    """Store all, or nothing if a queue would become too full.

    That is an answer and no exception: one would undo what the other callers of the transaction did.
    """
    if not max_pending:
        return enqueue_each(db, tasks, now, rings)
    mine = Rings()
    db.execute("SAVEPOINT sitq_enqueue")
    done = enqueue_each(db, tasks, now, mine)
    grown = dict.fromkeys(task.queue for task, answer in zip(tasks, done, strict=True) if answer.created)
    full = next(
        (
            queue
            for queue in grown
            if queue in max_pending and capacity.is_over(db, queue, max_pending[queue])
        ),
        None,
    )
    if full is not None:
        db.execute("ROLLBACK TO sitq_enqueue")
    db.execute("RELEASE sitq_enqueue")
    if full is not None:
        return QueueFullError(full, max_pending[full])
    rings.queues |= mine.queues
    return done
