"""What bounds the start of tasks, and the lines in which those stand that it holds up: plain functions of a connection.

A task that a limit does not let start leaves the index of what is due and costs nothing there. It stands in a line: the
tasks of one queue that wait for the same limit. Whoever leaves room lets the first of each line that may use it
back into the index; whether it may start is seen when it is its turn. So to let in too many costs a second look,
and to let in too few would hold up tasks for ever: all that takes a task out of the index without a start (`forgo`)
passes its room on.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from sitq.backends.sqlite import rates
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import MICROSECOND
from sitq.model import NewTask

_MOST_LINES: Final = 100
"""How many lines one call opens."""
_MOST_FREED: Final = 1_000
"""How many tasks of one line one call lets in; the line stays open then."""

CONCURRENCY: Final = "concurrency"
RATE: Final = "rate"


type Turn = tuple[int, int, int]
"""The priority, the `due_at` and the `seq` of a task: the order of `reserve`."""


class Line(NamedTuple):
    """What the tasks of a line wait for."""

    kind: Literal["concurrency", "rate"]
    key: str
    queue: str
    number: int
    period: int = 0


class Limits(NamedTuple):
    """The lines in which a task may have to stand."""

    concurrency: Line | None
    rate: Line | None


# -- Storing and reading ---------------------------------------------------------------------------

_INSERT: Final = """
INSERT INTO sitq_limits (seq, concurrency_key, concurrency_limit, rate_key, rate_count, rate_period)
VALUES (?, ?, ?, ?, ?, ?)
"""
_OF_PENDING: Final = """
SELECT seq, queue, concurrency_key, concurrency_limit, rate_key, rate_count, rate_period
FROM sitq_tasks JOIN sitq_limits USING (seq)
WHERE seq IN (SELECT value FROM json_each(?)) AND status = 'pending'
"""


def store(db: sqlite3.Connection, seq: int, task: NewTask, due_at: int) -> None:
    """Write down the limits of a new task."""
    concurrency = task.concurrency or (None, None)
    rate = task.rate
    period = None if rate is None else rate.period // MICROSECOND
    db.execute(
        _INSERT,
        (seq, *concurrency, None if rate is None else rate.key, None if rate is None else rate.limit, period),
    )
    if rate is not None and period is not None:
        rates.expect(db, rate.key, period, due_at)


def of_pending(db: sqlite3.Connection, seqs: Collection[int]) -> dict[int, Limits]:
    """The limits of those of these tasks that are pending and have any."""
    return {
        seq: Limits(
            None if key is None else Line(CONCURRENCY, key, queue, limit),
            None if rate is None else Line(RATE, rate, queue, count, period),
        )
        for seq, queue, key, limit, rate, count, period in db.execute(_OF_PENDING, (json.dumps(list(seqs)),))
    }


# -- Starting --------------------------------------------------------------------------------------

_RUNNING: Final = (
    "SELECT count(*) FROM sitq_limits INDEXED BY sitq_runs WHERE concurrency_key = ? AND runs = 1"
)
_START: Final = """
UPDATE sitq_limits SET runs = concurrency_key IS NOT NULL, line = NULL, priority = NULL, due_at = NULL
WHERE seq IN (SELECT value FROM json_each(?))
"""
_STAND: Final = "UPDATE sitq_limits SET line = ?, priority = ?, due_at = ? WHERE seq = ?"
_LINE: Final = """
INSERT INTO sitq_lines (kind, key, queue, number, period, opens_at) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (kind, key, queue, number, period) DO UPDATE SET opens_at = excluded.opens_at
RETURNING id
"""
_ANY_LINE: Final = "SELECT 1 FROM sitq_lines WHERE kind = ? AND key = ? AND number > ? LIMIT 1"
_NOT_DUE: Final = "UPDATE sitq_tasks SET due_at = NULL WHERE seq IN (SELECT value FROM json_each(?))"


class Gate:
    """Lets tasks start in one call of `reserve`, or puts them in line. Each start counts at once."""

    def __init__(self, db: sqlite3.Connection, now: int) -> None:
        self._db = db
        self._now = now
        self._running: dict[str, int] = {}
        self._closed: dict[Line, int] = {}  # for the rest of the call: starts are only added
        self._started: list[int] = []
        self._held_up: list[tuple[int, Turn]] = []
        # Room that one limit leaves to those who wait for it, because the other one keeps a task from it.
        self._wait_for: dict[tuple[str, str], bool] = {}
        self._unused_places: Counter[str] = Counter()
        self._unused_rates: set[str] = set()
        self.held_up = 0

    def lets_in(self, turn: Turn, limits: Limits) -> bool:
        line = self._closed_line(limits)
        if line is not None:
            self._held_up.append((line, turn))
            self.held_up += 1
            return False
        self._started.append(turn[2])
        if limits.concurrency is not None:
            self._running[limits.concurrency.key] += 1
        if limits.rate is not None:
            rates.start(self._db, limits.rate.key, limits.rate.period, self._now)
        return True

    @property
    def made_room(self) -> bool:
        """Whether others may start before those who are yet to come, once this is written."""
        return bool(self._unused_places or self._unused_rates)

    def write(self, rings: Rings) -> None:
        """Store what was decided so far. Those who could not use their room pass it on."""
        db = self._db
        db.execute(_START, (json.dumps(self._started),))
        db.executemany(_STAND, [(line, *turn) for line, turn in self._held_up])
        db.execute(_NOT_DUE, (json.dumps([seq for _, (_, _, seq) in self._held_up]),))
        let_in(db, self._unused_places, rings)
        _open_now(db, self._unused_rates, self._now, rings)
        for done in (self._started, self._held_up, self._wait_for, self._unused_places, self._unused_rates):
            done.clear()

    def _closed_line(self, limits: Limits) -> int | None:
        """The line in which a task with these limits has to stand."""
        concurrency, rate = limits
        if concurrency is not None and self._is_full(concurrency):
            if rate is not None and self._is_waited_for(rate) and self._closed_rate(rate) is None:
                self._unused_rates.add(rate.key)
            return self._close(concurrency, None)
        line = None if rate is None else self._closed_rate(rate)
        if line is not None and concurrency is not None and self._is_waited_for(concurrency):
            self._unused_places[concurrency.key] += 1
        return line

    def _closed_rate(self, rate: Line) -> int | None:
        if rate in self._closed:
            return self._closed[rate]
        room = rates.room(self._db, rate.key, rate.number, rate.period, self._now)
        return None if room.free > 0 else self._close(rate, room.opens_at)

    def _is_waited_for(self, line: Line) -> bool:
        bound = line.kind, line.key
        if bound not in self._wait_for:
            running = self._running.get(line.key, 0) if line.kind == CONCURRENCY else 0
            found = self._db.execute(_ANY_LINE, (*bound, running)).fetchone()
            self._wait_for[bound] = found is not None
        return self._wait_for[bound]

    def _is_full(self, line: Line) -> bool:
        if line.key not in self._running:
            [[self._running[line.key]]] = self._db.execute(_RUNNING, (line.key,)).fetchall()
        return self._running[line.key] >= line.number

    def _close(self, line: Line, opens_at: int | None) -> int:
        if line not in self._closed:
            [[self._closed[line]]] = self._db.execute(_LINE, (*line, opens_at)).fetchall()
        return self._closed[line]


# -- Leaving room ----------------------------------------------------------------------------------

_END: Final = """
UPDATE sitq_limits SET runs = 0 WHERE seq IN (SELECT value FROM json_each(?)) AND runs = 1 RETURNING concurrency_key
"""
_WAIT_FOR_END: Final = """
SELECT id, queue, number FROM sitq_lines WHERE kind = 'concurrency' AND key = ? AND number > ?
"""
_OPENED: Final = (
    "SELECT id, key, number, period FROM sitq_lines WHERE opens_at <= ? ORDER BY opens_at LIMIT ?"
)
_OPENINGS: Final = "SELECT queue, opens_at FROM sitq_lines WHERE opens_at IS NOT NULL ORDER BY opens_at"
_FIRST_OPENING: Final = "SELECT min(opens_at) FROM sitq_lines WHERE queue = ? AND opens_at IS NOT NULL"
_FIRST: Final = "SELECT due_at, seq FROM sitq_limits WHERE line = ? ORDER BY priority, due_at, seq LIMIT ?"
_LEAVE: Final = """
UPDATE sitq_limits SET line = NULL, priority = NULL, due_at = NULL WHERE seq IN (SELECT value FROM json_each(?))
"""
_FORGO: Final = (
    "SELECT line, concurrency_key, rate_key FROM sitq_limits WHERE seq IN (SELECT value FROM json_each(?))"
)
_OPEN_NOW: Final = """
UPDATE sitq_lines SET opens_at = ?1 WHERE kind = 'rate' AND key = ?2 AND opens_at > ?1 RETURNING queue
"""


def end(db: sqlite3.Connection, seqs: Sequence[int], rings: Rings) -> None:
    """The runs of these tasks are over: let in who waits for it."""
    if seqs:
        let_in(db, Counter(row[0] for row in db.execute(_END, (json.dumps(seqs),)).fetchall()), rings)


def let_in(db: sqlite3.Connection, keys: Mapping[str, int], rings: Rings) -> None:
    """So many tasks of these concurrency keys made room."""
    for key, places in keys.items():
        [[running]] = db.execute(_RUNNING, (key,)).fetchall()
        for line, queue, number in db.execute(_WAIT_FOR_END, (key, running)).fetchall():
            _free(db, line, min(places, number - running))
            rings.queues.add(queue)


def open_lines(db: sqlite3.Connection, now: int) -> None:
    """Let in those for whom it is time by their rate."""
    for line, key, number, period in db.execute(_OPENED, (now, _MOST_LINES)).fetchall():
        room = rates.room(db, key, number, period, now)
        if room.free > 0 and not _free(db, line, min(room.free, _MOST_FREED)):
            continue
        opens_at = now if room.free > _MOST_FREED else room.opens_at
        db.execute("UPDATE sitq_lines SET opens_at = ? WHERE id = ?", (opens_at, line))


def allowed_at(db: sqlite3.Connection, limits: Limits, now: int) -> int:
    """When the rate allows the next start."""
    if limits.rate is None:
        return now
    room = rates.room(db, limits.rate.key, limits.rate.number, limits.rate.period, now)
    return now if room.free > 0 else room.opens_at


def next_opening(
    db: sqlite3.Connection, queues: Collection[str] | None, paused: Collection[str]
) -> int | None:
    """When the first line of these queues opens. All queues are meant by None."""
    if queues is not None:
        firsts = [
            db.execute(_FIRST_OPENING, (queue,)).fetchone()[0] for queue in queues if queue not in paused
        ]
        return min((at for at in firsts if at is not None), default=None)
    return next((int(at) for queue, at in db.execute(_OPENINGS) if queue not in paused), None)


def forgo(db: sqlite3.Connection, seqs: Sequence[int], now: int, rings: Rings) -> None:
    """These pending tasks will not start now, whether they stand in line or were let in: others may."""
    if not seqs:
        return
    tasks = json.dumps(seqs)
    rows = db.execute(_FORGO, (tasks,)).fetchall()
    db.execute(_LEAVE, (tasks,))
    let_in(db, Counter(key for line, key, _ in rows if line is None and key is not None), rings)
    _open_now(db, {rate for line, _, rate in rows if line is None and rate is not None}, now, rings)


def _open_now(db: sqlite3.Connection, rate_keys: Collection[str], now: int, rings: Rings) -> None:
    for key in rate_keys:
        rings.queues.update(row[0] for row in db.execute(_OPEN_NOW, (now, key)).fetchall())


def _free(db: sqlite3.Connection, line: int, most: int) -> bool:
    """Let in the first of a line. False if nobody is left in it: then it is gone."""
    first: list[tuple[Any, ...]] = db.execute(_FIRST, (line, most)).fetchall()
    db.executemany("UPDATE sitq_tasks SET due_at = ? WHERE seq = ?", first)
    db.execute(_LEAVE, (json.dumps([seq for _, seq in first]),))
    if len(first) == most:
        return True
    db.execute("DELETE FROM sitq_lines WHERE id = ?", (line,))
    return False
