"""What readers see: tasks and counts, read on a connection of their own."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from sitq.backends.sqlite import edges, registry, unique
from sitq.backends.sqlite.schema import MICROSECOND, micros, moment
from sitq.model import Concurrency, QueueStats, Rate, Stats, Status, TaskId, TaskQuery, TaskRecord

_COLUMNS: Final = """
t.seq, t.id, t.name, t.queue, t.status, t.priority, t.attempt, t.crashes, t.max_crashes, t.fence, t.worker,
t.enqueued_at, coalesce(t.due_at, l.due_at, d.due_at), t.started_at, t.finished_at, t.cancel_requested, t.metadata,
t.unique_key, t.unique_until, t.unique_bound, t.unique_replace,
l.concurrency_key, l.concurrency_limit, l.rate_key, l.rate_count, l.rate_period,
t.edges, d.cancelled_by
"""
_BYTES: Final = ", p.payload, t.result, t.error"
_PAYLOADS: Final = "LEFT JOIN sitq_payloads p ON p.seq = t.seq"
_LIMITS: Final = "LEFT JOIN sitq_limits l ON l.seq = t.seq AND t.limited IS NOT NULL"
_DEPENDENTS: Final = "LEFT JOIN sitq_dependents d ON d.seq = t.seq AND t.edges IS NOT NULL"
# Neither an index on states nor the order of rows leads to these: they are due, held up, or wait.
_UNFINISHED: Final = """
SELECT seq FROM sitq_tasks INDEXED BY sitq_due WHERE due_at IS NOT NULL
UNION ALL SELECT seq FROM sitq_limits INDEXED BY sitq_held_up WHERE line IS NOT NULL
UNION ALL SELECT seq FROM sitq_dependents INDEXED BY sitq_waiting WHERE due_at IS NOT NULL
"""
_MAX_SORTED: Final = 10_000
"""Up to so many unfinished tasks are read and sorted; of more than that, the newest are near the end of the table."""


def find(db: sqlite3.Connection, query: TaskQuery) -> list[TaskRecord]:
    tests: list[str] = []
    values: list[Any] = []

    def test(condition: str, value: Any) -> None:
        tests.append(condition)
        values.append(value)

    if query.ids is not None:
        test("t.id IN (SELECT value FROM json_each(?))", json.dumps(list(query.ids)))
    if query.statuses is not None:
        # As text and, for one, by `=`: or the planner could not see that an index of one state serves.
        names = [f"'{Status(status)}'" for status in query.statuses]
        tests.append(f"t.status = {names[0]}" if len(names) == 1 else f"t.status IN ({', '.join(names)})")
    if query.queue is not None:
        test("t.queue = ?", query.queue)
    if query.name is not None:
        test("t.name = ?", query.name)
    if query.since is not None:
        test("t.enqueued_at >= ?", micros(query.since))
    if query.until is not None:
        test("t.enqueued_at < ?", micros(query.until))
    if query.before is not None:
        test("t.seq < ?", query.before)
    # Built from the constants above and the names of states; every value is a parameter.
    columns, payloads = (_COLUMNS + _BYTES, _PAYLOADS) if query.with_bytes else (_COLUMNS, "")
    way, condition = _way(db, query)
    if condition:
        tests.append(condition)
    sql = f"SELECT {columns} FROM sitq_tasks t {way} {_LIMITS} {_DEPENDENTS} {payloads}"
    if tests:
        sql += f" WHERE {' AND '.join(tests)}"
    found = db.execute(f"{sql} ORDER BY t.seq DESC LIMIT ?", (*values, query.limit)).fetchall()
    dependents = [row[0] for row in found if (row[26] or 0) & edges.HAS_PARENTS]
    parents = edges.parents_of(db, dependents) if dependents else {}
    return [_record(row, parents.get(row[0], ())) for row in found]


def _way(db: sqlite3.Connection, query: TaskQuery) -> tuple[str, str]:
    """How to get at the tasks of some states: what the planner cannot know is that few are unfinished or failed.

    An index to go by, and a condition that leads to the tasks; either may be empty.
    """
    statuses = frozenset(query.statuses or Status)
    if query.ids is not None or not statuses:
        return "", ""
    if len(statuses) == 1 and statuses <= {Status.FAILED, Status.CANCELLED}:
        return f"INDEXED BY sitq_{next(iter(statuses))}", ""
    if statuses <= {Status.WAITING, Status.PENDING, Status.RUNNING}:
        [[unfinished]] = db.execute(
            f"SELECT count(*) FROM ({_UNFINISHED} LIMIT ?)", (_MAX_SORTED + 1,)
        ).fetchall()
        if unfinished <= _MAX_SORTED:
            return "", f"t.seq IN ({_UNFINISHED})"
    return "", ""


def _record(row: Sequence[Any], parents: tuple[TaskId, ...]) -> TaskRecord:
    key, limit, rate, count, period = row[21:26]
    payload, result, error = row[28:] or (None, None, None)
    return TaskRecord(
        seq=row[0],
        id=row[1],
        name=row[2],
        queue=row[3],
        status=Status(row[4]),
        priority=row[5],
        attempt=row[6],
        crashes=row[7],
        max_crashes=row[8],
        fence=row[9],
        worker=row[10],
        enqueued_at=moment(int(row[11])),
        due_at=moment(row[12]),
        started_at=moment(row[13]),
        finished_at=moment(row[14]),
        cancel_requested=bool(row[15]),
        metadata=None if row[16] is None else json.loads(row[16]),
        unique=unique.loaded(unique.Stored._make(row[17:21])),
        concurrency=None if key is None else Concurrency(key, limit),
        rate=None if rate is None else Rate(rate, count, period * MICROSECOND),
        parents=parents,
        cancelled_by=row[27],
        payload=payload,
        result=result,
        error=error,
    )


_COUNTS: Final = "SELECT queue, status, count(*) FROM sitq_tasks GROUP BY queue, status"
_OLDEST: Final = """
SELECT queue, min(due_at) FROM (
    SELECT queue, due_at FROM sitq_tasks WHERE due_at <= ?1 AND status = 'pending'
    UNION ALL
    SELECT sitq_lines.queue, sitq_limits.due_at FROM sitq_limits JOIN sitq_lines ON sitq_lines.id = sitq_limits.line
    WHERE sitq_limits.line IS NOT NULL AND sitq_limits.due_at <= ?1
) GROUP BY queue
"""


def stats(db: sqlite3.Connection, now: int) -> Stats:
    paused = registry.paused(db)
    counts: dict[str, dict[Status, int]] = {queue: {} for queue in paused}
    for queue, status, count in db.execute(_COUNTS):
        counts.setdefault(queue, {})[Status(status)] = count
    oldest: dict[str, int] = dict(db.execute(_OLDEST, (now,)).fetchall())
    [[stale]] = db.execute("SELECT value FROM sitq_meta WHERE key = 'stale_outcomes'").fetchall()
    queues = (
        QueueStats(queue, counts[queue], moment(oldest.get(queue)), queue in paused)
        for queue in sorted(counts)
    )
    return Stats(tuple(queues), stale)
