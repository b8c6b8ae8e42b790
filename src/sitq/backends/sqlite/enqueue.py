"""How tasks come into the tables: plain functions of a connection, run inside a transaction that somebody else ends."""

import itertools
import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, NamedTuple

from sitq.backends.sqlite import capacity, edges, limits, rows, unique
from sitq.backends.sqlite.errors import checked
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import MICROSECOND, micros
from sitq.errors import ParentNotFoundError, QueueFullError, SitqError
from sitq.model import Enqueued, NewTask, Status, TaskId, make

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
_PLAIN: Final = (None, None, None, ())


def are_plain(tasks: Sequence[NewTask]) -> bool:
    """Whether none of these tasks has a key, a limit or an edge."""
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
    return [[make(Enqueued, (task.id, next(seqs) in created)) for task in batch] for batch in batches]


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


def are_stored(db: sqlite3.Connection, done: Sequence[Enqueued] | SitqError) -> bool:
    """Whether an enqueueing with this answer took place. It has to be asked only if it created something."""
    if isinstance(done, SitqError):
        return False
    created = next((one.id for one in done if one.created), None)
    return created is not None and created in rows.by_id(db, [created])


def _row(seq: int | None, task: NewTask, now: int) -> tuple[Any, ...]:
    task_id, name, _, queue, priority, due_at, max_crashes, result_ttl, metadata, *_ = task
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


# -- Tasks with a key, a limit or an edge: one after another ---------------------------------------

_INSERT_ONE: Final = """
INSERT INTO sitq_tasks (
    seq, id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at, metadata,
    unique_key, unique_until, unique_bound, unique_replace, limited
) VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, slots=True)
class _Batch:
    """The tasks of one caller while they are stored, one after another.

    Attributes:
        names: Who stands for those with a key that were not stored.
        grown: The queues that have more pending tasks than before.
    """

    db: sqlite3.Connection
    now: int
    rings: Rings
    names: dict[TaskId, TaskId] = field(default_factory=dict[TaskId, TaskId])
    grown: dict[str, None] = field(default_factory=dict[str, None])

    def store_all(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        done: list[Enqueued] = []
        # Many plain tasks and then one that depends on them is the usual form of a wide batch.
        for plain, some in itertools.groupby(tasks, lambda task: are_plain((task,))):
            alike = list(some)
            if plain:
                [answers] = enqueue(self.db, [alike], self.now, self.rings)
                pairs = zip(alike, answers, strict=True)
                self.grown.update((task.queue, None) for task, answer in pairs if answer.created)
                done += answers
                for task in alike if self.names else ():
                    self.names.pop(task.id, None)
            else:
                for task in alike:
                    done.append(self._store(task))
                    self.names[task.id] = done[-1].id
        return done

    def _store(self, task: NewTask) -> Enqueued:
        db, now = self.db, self.now
        # What is wrong with a task shows here, whoever holds its key.
        row = _row(None, task, now)
        if db.execute("SELECT 1 FROM sitq_tasks WHERE id = ?", (task.id,)).fetchone() is not None:
            return Enqueued(task.id, created=False)
        due_at = now if task.due_at is None else micros(task.due_at)
        holder = None if task.unique is None else checked(unique.holder)(db, task.unique.key, now)
        if holder is not None:
            if task.unique is not None and task.unique.replace and not task.edges:
                checked(unique.replace)(db, holder, task.payload, due_at, now, self.rings)
            return Enqueued(holder.id, created=False)
        placed = checked(edges.place)(db, task.edges, self.names) if task.edges else None
        limited = None if task.concurrency is None and task.rate is None else 1
        seq = db.execute(_INSERT_ONE, (*row, *unique.stored(task.unique, now), limited)).lastrowid
        assert seq is not None
        db.execute("INSERT INTO sitq_payloads (seq, payload) VALUES (?, ?)", (seq, task.payload))
        if limited is not None:
            limits.store(db, seq, task, max(now, due_at))
        if placed is not None:
            checked(edges.store)(db, seq, placed, due_at, now)
        if placed is None or placed.status is Status.PENDING:
            self.rings.queues.add(task.queue)
            self.grown[task.queue] = None
        return Enqueued(task.id, created=True)


def enqueue_carefully(
    db: sqlite3.Connection, tasks: Sequence[NewTask], max_pending: Mapping[str, int], now: int, rings: Rings
) -> list[Enqueued] | SitqError:
    """Store all, or nothing if a queue would become too full or a parent is missing.

    That is an answer and no exception: one would undo what the other callers of the transaction did.
    """
    if not max_pending and not any(task.edges for task in tasks):
        return _Batch(db, now, rings).store_all(tasks)
    mine = Rings()
    batch = _Batch(db, now, mine)
    db.execute("SAVEPOINT sitq_enqueue")
    try:
        done: list[Enqueued] | SitqError = batch.store_all(tasks)
        for queue in batch.grown:
            if queue in max_pending and capacity.is_over(db, queue, max_pending[queue]):
                raise QueueFullError(queue, max_pending[queue])
    except (QueueFullError, ParentNotFoundError) as error:
        db.execute("ROLLBACK TO sitq_enqueue")
        done, mine = error, Rings()
    db.execute("RELEASE sitq_enqueue")
    rings.queues |= mine.queues
    return done
