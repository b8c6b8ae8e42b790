"""How tasks are handed out: plain functions of a connection, run inside a transaction that somebody else ends."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sitq.backends.sqlite import edges, limits, rates, registry
from sitq.backends.sqlite.errors import DamagedError
from sitq.backends.sqlite.limits import Gate, Limits, Turn
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import moment
from sitq.model import DEFAULT_MAX_CRASHES, MAX_PRIORITY, MIN_PRIORITY, Reserved, ReservedTask, TaskId, make

_MOST_HELD_UP: Final = 1_000
"""How many tasks one call puts in line. The next one goes on at once."""
_LOOK: Final = 200
"""How many more are looked at in one go, if some may not start."""
_LOOKED_AHEAD: Final = 20
"""How many that are not due yet are looked at to say when one may start."""
_EVER: Final = 2**62
_USUAL: Final = tuple(ReservedTask._field_defaults.values())

# One seek a priority level. A single range over (queue, priority, due_at) would walk all tasks of a better
# priority that are not due yet: 200,000 of them made one reservation take 15 ms, the seeks take 0.02 ms.
_LEVELS: Final = range(MIN_PRIORITY, MAX_PRIORITY + 1)
_DUE: Final = " UNION ALL ".join(
    "SELECT * FROM (SELECT priority, due_at, seq FROM sitq_tasks INDEXED BY sitq_due"
    f" WHERE queue = ?1 AND priority = {level} AND due_at <= ?2 ORDER BY due_at, seq LIMIT ?3)"
    for level in _LEVELS
)
_DUE_IN_QUEUE: Final = f"SELECT * FROM ({_DUE}) LIMIT ?3"
_NEXT_IN_QUEUE: Final = (
    "SELECT min(due_at) FROM ("
    + " UNION ALL ".join(
        "SELECT min(due_at) AS due_at FROM sitq_tasks INDEXED BY sitq_due"
        f" WHERE queue = ?1 AND priority = {level} AND due_at IS NOT NULL"
        for level in _LEVELS
    )
    + ")"
)
_SOON_IN_QUEUE: Final = f"SELECT due_at, seq FROM ({_DUE})"
# Those in a line have their `due_at` there.
_DUE_BY_ID: Final = """
SELECT t.priority, coalesce(t.due_at, l.due_at) AS due, t.seq, t.queue
FROM sitq_tasks AS t LEFT JOIN sitq_limits AS l ON l.seq = t.seq
WHERE t.id IN (SELECT value FROM json_each(?1)) AND due <= ?2
"""
# Hops from queue to queue along the index instead of reading all of it.
_QUEUES: Final = """
WITH RECURSIVE found (queue) AS (
    SELECT min(queue) FROM sitq_tasks WHERE due_at IS NOT NULL
    UNION ALL
    SELECT (SELECT min(queue) FROM sitq_tasks WHERE due_at IS NOT NULL AND queue > found.queue) FROM found
    WHERE found.queue IS NOT NULL
)
SELECT queue FROM found WHERE queue IS NOT NULL
"""
_IS_BOUNDED: Final = """
SELECT EXISTS (SELECT 1 FROM sitq_paused) OR EXISTS (SELECT 1 FROM sitq_lines) OR EXISTS (SELECT 1 FROM sitq_rates)
"""
_NEXT_FENCE: Final = "UPDATE sitq_meta SET value = value + 1 WHERE key = 'fence' RETURNING value"
_TAKE: Final = """
UPDATE sitq_tasks SET
    crashes = crashes + (status = 'running'), status = 'running', attempt = attempt + 1,
    fence = ?1, worker = ?2, due_at = ?3, started_at = ?4
WHERE seq IN (SELECT value FROM json_each(?5))
"""
# One that has lost its lease runs already: it needs no room to start.
_TAKE_PLAIN: Final = f"{_TAKE} AND (limited IS NULL OR status = 'running')"
# CROSS JOIN keeps the order of the list. What is the same for most tasks is one column, and empty: a tenth of the time
# of a reservation goes into columns that are fetched.
_TAKEN: Final = f"""
SELECT t.id, t.name, t.queue, p.payload,
    CASE WHEN t.attempt > 1 OR t.crashes OR t.max_crashes <> {DEFAULT_MAX_CRASHES} OR t.metadata IS NOT NULL
        OR t.cancel_requested OR t.edges IS NOT NULL
    THEN json_array(
        t.attempt, t.crashes, t.max_crashes, t.metadata, t.cancel_requested, CASE WHEN t.edges & 1 THEN t.seq END
    ) END
FROM json_each(?) AS wanted
CROSS JOIN sitq_tasks AS t ON t.seq = wanted.value
CROSS JOIN sitq_payloads AS p ON p.seq = t.seq
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The arguments of one `reserve`, with its instants as stored."""

    worker: str
    queues: Sequence[str] | None
    ids: Collection[TaskId] | None
    limit: int
    now: int
    lease_end: int


class _Search(NamedTuple):
    """Where one call looks. `queues` has those with something due, or the wanted ones; none that is paused."""

    wanted: Reservation
    queues: Sequence[str]
    paused: Collection[str]


def reserve(db: sqlite3.Connection, wanted: Reservation, rings: Rings) -> Reserved:
    # Most stores have none of these: one look at three empty tables instead of one for each question about them.
    [[is_bounded]] = db.execute(_IS_BOUNDED).fetchall()
    if is_bounded:
        limits.open_lines(db, wanted.now)
    paused = registry.paused(db) if is_bounded else set[str]()
    queues = (
        [row[0] for row in db.execute(_QUEUES)] if wanted.queues is None else dict.fromkeys(wanted.queues)
    )
    search = _Search(wanted, [queue for queue in queues if queue not in paused], paused)
    turns = _turns(db, search, wanted.limit)
    tasks: list[ReservedTask] = []
    goes_on = False
    if turns:
        # One number for the whole batch: it is new for each of its tasks, and no task gets it twice.
        [[fence]] = db.execute(_NEXT_FENCE).fetchall()
        taken = turns[: wanted.limit]
        plain = _take(db, _TAKE_PLAIN, fence, wanted, taken)
        if plain < len(taken):
            is_bounded = True
            taken, goes_on = _take_limited(db, search, fence, turns, plain, rings)
        tasks = _taken(db, fence, taken)
    if len(tasks) == wanted.limit:
        return Reserved(tasks)
    # Looked for after the taking, so that what was taken counts with the end of its lease.
    next_due = _next_bounded if is_bounded else _next_due
    return Reserved(tasks, moment(wanted.now if goes_on else next_due(db, search)))


def are_reserved(db: sqlite3.Connection, worker: str, reserved: Reserved) -> bool:
    """Whether a reservation with this answer took place. All of it did, if one of its tasks shows it."""
    if not reserved.tasks:
        return False
    first = reserved.tasks[0]
    sql = "SELECT 1 FROM sitq_tasks WHERE id = ? AND fence = ? AND worker = ?"
    return db.execute(sql, (first.id, first.fence, worker)).fetchone() is not None


def _turns(db: sqlite3.Connection, search: _Search, limit: int) -> list[Turn]:
    """What is due, in order: the best of each queue, or all of the chosen ones."""
    wanted = search.wanted
    if wanted.ids is None:
        turns = [
            row for queue in search.queues for row in db.execute(_DUE_IN_QUEUE, (queue, wanted.now, limit))
        ]
    else:
        turns = [
            (priority, due_at, seq)
            for priority, due_at, seq, queue in db.execute(
                _DUE_BY_ID, (json.dumps(list(wanted.ids)), wanted.now)
            )
            if queue not in search.paused and (wanted.queues is None or queue in wanted.queues)
        ]
    turns.sort()
    return turns


def _take(db: sqlite3.Connection, sql: str, fence: int, wanted: Reservation, turns: Collection[Turn]) -> int:
    seqs = json.dumps([seq for _, _, seq in turns])
    return db.execute(sql, (fence, wanted.worker, wanted.lease_end, wanted.now, seqs)).rowcount


def _take_limited(
    db: sqlite3.Connection, search: _Search, fence: int, turns: list[Turn], plain: int, rings: Rings
) -> tuple[list[Turn], bool]:
    """Take those, too, whose limits allow it, and put the others in line. The best without limits were taken before,
    `plain` of them.

    Returns all that was taken, and whether there may be more that was not looked at.
    """
    wanted = search.wanted
    best = turns[: wanted.limit]
    if wanted.ids is None:  # beyond these, others of their queues may come first
        turns = best
    gate = Gate(db, wanted.now)
    limited = limits.of_pending(db, [seq for _, _, seq in turns])
    taken = {turn for turn in best if turn[2] not in limited}
    if len(taken) != plain:  # or they would be handed out for ever, and never run
        raise DamagedError("a task is due that has limits and is neither pending nor running")
    while turns and len(taken) < wanted.limit and gate.held_up < _MOST_HELD_UP:
        others = [turn for turn in turns if turn not in taken]
        chosen = _let_in(gate, others, limited, wanted.limit - len(taken), to_the_end=wanted.ids is not None)
        _take(db, _TAKE, fence, wanted, chosen)
        taken.update(chosen)
        gate.write(rings)
        limits.open_lines(db, wanted.now)  # room that somebody did not use
        if wanted.ids is not None:
            return sorted(taken), False
        # What was taken may be due again at once, by a lease of no length.
        seqs = {seq for _, _, seq in taken}
        turns = [turn for turn in _turns(db, search, _LOOK + len(taken)) if turn[2] not in seqs][:_LOOK]
        limited = limits.of_pending(db, [seq for _, _, seq in turns])
    return sorted(taken), bool(turns)


def _let_in(
    gate: Gate, turns: Iterable[Turn], limited: Mapping[int, Limits], most: int, *, to_the_end: bool
) -> list[Turn]:
    """The first of these that may start, up to where somebody in a line may come before the next one."""
    chosen: list[Turn] = []
    for turn in turns:
        if len(chosen) == most or (gate.made_room and not to_the_end):
            break
        bounds = limited.get(turn[2])
        if bounds is None or gate.lets_in(turn, bounds):
            chosen.append(turn)
    return chosen


def _taken(db: sqlite3.Connection, fence: int, turns: Sequence[Turn]) -> list[ReservedTask]:
    found = db.execute(_TAKEN, (json.dumps([seq for _, _, seq in turns]),)).fetchall()
    rare = {row[0]: json.loads(row[-1]) for row in found if row[-1] is not None}
    dependents = [fields[-1] for fields in rare.values() if fields[-1] is not None]
    parents = edges.parents_of(db, dependents) if dependents else {}
    more = {
        task_id: (
            attempt, crashes, max_crashes,
            None if metadata is None else json.loads(metadata), cancelled != 0, parents.get(dependent, ()),
        )
        for task_id, (attempt, crashes, max_crashes, metadata, cancelled, dependent) in rare.items()
    }  # fmt: skip
    return [
        make(ReservedTask, (task_id, fence, name, queue, payload, *more.get(task_id, _USUAL)))
        for task_id, name, queue, payload, _ in found
    ]


def _next_due(db: sqlite3.Connection, search: _Search) -> int | None:
    due = [row[0] for queue in search.queues for row in db.execute(_NEXT_IN_QUEUE, (queue,))]
    return min((at for at in due if at is not None), default=None)


def _next_bounded(db: sqlite3.Connection, search: _Search) -> int | None:
    """As `_next_due` in a store with rates and lines."""
    at = _next_due(db, search)
    if at is not None and rates.may_bound(db, at):
        at = _next_start(db, search)
    opens_at = limits.next_opening(db, search.wanted.queues, search.paused)
    return min((at for at in (at, opens_at) if at is not None), default=None)


def _next_start(db: sqlite3.Connection, search: _Search) -> int:
    """As `min(due_at)`, but a task that is due before its rate allows it counts from then on."""
    soon = [
        row for queue in search.queues for row in db.execute(_SOON_IN_QUEUE, (queue, _EVER, _LOOKED_AHEAD))
    ]
    soon = sorted(soon)[:_LOOKED_AHEAD]
    bounds = limits.of_pending(db, [seq for _, seq in soon])
    found = _EVER
    for due_at, seq in soon:
        if found <= due_at:
            return found
        allowed_at = limits.allowed_at(db, bounds[seq], search.wanted.now) if seq in bounds else due_at
        found = min(found, max(due_at, allowed_at))
    return found if len(soon) < _LOOKED_AHEAD else min(found, soon[-1][0])
