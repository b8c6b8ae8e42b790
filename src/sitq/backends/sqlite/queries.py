"""What readers see: tasks and counts, read on a connection of their own."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from sitq.backends.sqlite.schema import micros, moment
from sitq.model import QueueStats, Stats, Status, TaskQuery, TaskRecord

_COLUMNS: Final = """
t.seq, t.id, t.name, t.queue, t.status, t.priority, t.attempt, t.crashes, t.max_crashes, t.fence, t.worker,
t.enqueued_at, t.due_at, t.started_at, t.finished_at, t.cancel_requested, t.metadata
"""
_BYTES: Final = ", p.payload, t.result, t.error"
_PAYLOADS: Final = "LEFT JOIN sitq_payloads p ON p.seq = t.seq"
_BY_DUE: Final = "INDEXED BY sitq_due"
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
    columns, joins = (_COLUMNS + _BYTES, _PAYLOADS) if query.with_bytes else (_COLUMNS, "")
    way = _way(db, query)
    if way == _BY_DUE:
        tests.append("t.due_at IS NOT NULL")
    sql = f"SELECT {columns} FROM sitq_tasks t {way} {joins}"
    if tests:
        sql += f" WHERE {' AND '.join(tests)}"
    return [_record(row) for row in db.execute(f"{sql} ORDER BY t.seq DESC LIMIT ?", (*values, query.limit))]


def _way(db: sqlite3.Connection, query: TaskQuery) -> str:
    """How to get at the tasks of some states: what the planner cannot know is that few are unfinished or failed."""
    statuses = frozenset(query.statuses or Status)
    if query.ids is not None or not statuses:
        return ""
    if len(statuses) == 1 and statuses <= {Status.FAILED, Status.CANCELLED}:
        return f"INDEXED BY sitq_{next(iter(statuses))}"
    if statuses <= {Status.PENDING, Status.RUNNING}:
        few = "SELECT count(*) FROM (SELECT 1 FROM sitq_tasks INDEXED BY sitq_due WHERE due_at IS NOT NULL LIMIT ?)"
        [[unfinished]] = db.execute(few, (_MAX_SORTED + 1,)).fetchall()
        if unfinished <= _MAX_SORTED:
            return _BY_DUE
    return ""


def _record(row: Sequence[Any]) -> TaskRecord:
    payload, result, error = row[17:] or (None, None, None)
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
        payload=payload,
        result=result,
        error=error,
    )


def stats(db: sqlite3.Connection, now: int) -> Stats:
    counts: dict[str, dict[Status, int]] = {}
    for queue, status, count in db.execute(
        "SELECT queue, status, count(*) FROM sitq_tasks GROUP BY queue, status"
    ):
        counts.setdefault(queue, {})[Status(status)] = count
    oldest = dict(
        db.execute(
            "SELECT queue, min(due_at) FROM sitq_tasks WHERE due_at <= ? AND status = 'pending' GROUP BY queue",
            (now,),
        ).fetchall()
    )
    [[stale]] = db.execute("SELECT value FROM sitq_meta WHERE key = 'stale_outcomes'").fetchall()
    return Stats(
        tuple(QueueStats(queue, counts[queue], moment(oldest.get(queue))) for queue in sorted(counts)), stale
    )
