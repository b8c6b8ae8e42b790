"""Who waits for whom: plain functions of a connection, run inside a transaction that somebody else ends.

Each edge knows whether it holds its child up, and whoever ends a parent, or gives it a new run, writes that down. So
whether a child may go is one seek in the index of the edges that hold, however many parents it has. A task knows by
its column `edges` whether it has any, so that plain tasks cost nothing here.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from sitq.backends.base import join
from sitq.backends.sqlite import capacity, rows
from sitq.backends.sqlite.rings import Rings
from sitq.errors import ParentNotFoundError
from sitq.model import Edge, Status, TaskId

HAS_PARENTS: Final = 1
HAS_CHILDREN: Final = 2

MET: Final = None
OPEN: Final = 1
REFUSED: Final = 2

_BITS: Final = {Status.SUCCESS: 1, Status.FAILED: 2, Status.CANCELLED: 4}

# -- Storing and reading ---------------------------------------------------------------------------

_PARENTS: Final = """
SELECT t.id, t.seq, t.status, t.edges, d.cancelled_by
FROM sitq_tasks AS t LEFT JOIN sitq_dependents AS d ON d.seq = t.seq AND t.edges IS NOT NULL
WHERE t.id IN (SELECT value FROM json_each(?))
"""
_INSERT: Final = """
INSERT INTO sitq_edges (child, position, parent, parent_id, accepts, holds) VALUES (?, ?, ?, ?, ?, ?)
"""
_LINK: Final = """
UPDATE sitq_tasks SET edges = coalesce(edges, 0) | 2
WHERE seq IN (SELECT value FROM json_each(?)) AND coalesce(edges, 0) & 2 = 0
"""
_BEHIND: Final = "UPDATE sitq_tasks SET status = 'waiting', due_at = NULL WHERE seq = ?"
_OF: Final = """
SELECT child, parent_id FROM sitq_edges WHERE child IN (SELECT value FROM json_each(?)) ORDER BY child, position
"""


class Parent(NamedTuple):
    id: TaskId
    seq: int
    status: str
    edges: int | None
    cancelled_by: TaskId | None


class Placed(NamedTuple):
    """The edges of a new task by the ids that its parents really have, those parents, and what they make of it."""

    edges: Sequence[Edge]
    parents: Mapping[TaskId, Parent]
    status: Status
    cancelled_by: TaskId | None = None


def place(db: sqlite3.Connection, edges: Sequence[Edge], names: Mapping[TaskId, TaskId]) -> Placed:
    """Find the parents of a new task.

    Args:
        names: Who stands for a task of the same batch that was not stored.

    Raises:
        ParentNotFoundError: One of them is not stored.
    """
    wanted = {edge.parent: names.get(edge.parent, edge.parent) for edge in edges}
    found = {row[0]: Parent._make(row) for row in db.execute(_PARENTS, (json.dumps([*wanted.values()]),))}
    for asked, name in wanted.items():
        if name not in found:
            raise ParentNotFoundError(asked)
    joined = join(edges, wanted)
    for name, accepts in joined:
        parent = found[name]
        if _hold(parent.status, accepts) == REFUSED:
            return Placed(joined, found, Status.CANCELLED, parent.cancelled_by or parent.id)
    waits = any(not Status(parent.status).finished for parent in found.values())
    return Placed(joined, found, Status.WAITING if waits else Status.PENDING)


def store(db: sqlite3.Connection, seq: int, placed: Placed, due_at: int, now: int) -> None:
    """Write down the edges of a task that was stored as pending, and what they make of it."""
    edges, parents, status, cancelled_by = placed
    db.executemany(
        _INSERT,
        [
            (seq, position, parents[name].seq, name, _mask(accepts), _hold(parents[name].status, accepts))
            for position, (name, accepts) in enumerate(edges)
        ],
    )
    unlinked = [one.seq for one in parents.values() if not (one.edges or 0) & HAS_CHILDREN]
    if unlinked:
        db.execute(_LINK, (json.dumps(unlinked),))
    waits = status is Status.WAITING
    db.execute(
        "INSERT INTO sitq_dependents (seq, due_at, cancelled_by) VALUES (?, ?, ?)",
        (seq, due_at if waits else None, cancelled_by),
    )
    db.execute("UPDATE sitq_tasks SET edges = ? WHERE seq = ?", (HAS_PARENTS, seq))
    if waits:
        db.execute(_BEHIND, (seq,))
    elif status is Status.CANCELLED:
        rows.cancel(db, [seq], now)


def parents_of(db: sqlite3.Connection, seqs: Collection[int]) -> dict[int, tuple[TaskId, ...]]:
    """The ids of the parents of each of these, in the order of their edges; those that are gone, too."""
    found = db.execute(_OF, (json.dumps(list(seqs)),))
    return {child: tuple(row[1] for row in edges) for child, edges in groupby(found, itemgetter(0))}


def _mask(accepts: Iterable[Status]) -> int:
    return sum(_BITS[status] for status in accepts if status in _BITS)


def _hold(status: str, accepts: Collection[Status]) -> int | None:
    if not Status(status).finished:
        return OPEN
    return MET if status in accepts else REFUSED


# -- When a parent ends ----------------------------------------------------------------------------

_SETTLE: Final = """
UPDATE sitq_edges SET holds = CASE WHEN accepts & ? THEN NULL ELSE 2 END
WHERE parent IN (SELECT value FROM json_each(?))
"""
_HOLDS: Final = (
    "SELECT max(holds) FROM sitq_edges INDEXED BY sitq_holding WHERE child = ? AND holds IS NOT NULL"
)
_WHO_WAITED: Final = f"""
SELECT t.seq, t.id, t.queue, t.edges, ({_HOLDS.replace("?", "t.seq")})
FROM sitq_tasks AS t
WHERE t.status = 'waiting' AND t.seq IN (
    SELECT child FROM sitq_edges INDEXED BY sitq_children WHERE parent IN (SELECT value FROM json_each(?))
)
"""
_RELEASE: Final = """
UPDATE sitq_tasks SET
    status = 'pending', due_at = max(?, (SELECT due_at FROM sitq_dependents AS d WHERE d.seq = sitq_tasks.seq))
WHERE seq IN (SELECT value FROM json_each(?))
"""
_LET_GO: Final = "UPDATE sitq_dependents SET due_at = NULL WHERE seq IN (SELECT value FROM json_each(?))"
_BLAME: Final = """
UPDATE sitq_dependents SET due_at = NULL, cancelled_by = (
    SELECT coalesce(p.cancelled_by, e.parent_id)
    FROM sitq_edges AS e INDEXED BY sitq_holding LEFT JOIN sitq_dependents AS p ON p.seq = e.parent
    WHERE e.child = sitq_dependents.seq AND e.holds = 2 ORDER BY e.position LIMIT 1
)
WHERE seq IN (SELECT value FROM json_each(?))
"""


class _Child(NamedTuple):
    seq: int
    id: TaskId
    queue: str
    edges: int
    holds: int | None


def end(db: sqlite3.Connection, ended: Sequence[tuple[int, Status]], now: int, rings: Rings) -> None:
    """These have ended: release or cancel those who waited for them, and so on, nearest first."""
    wave = list(ended)
    while wave:
        for status in {status for _, status in wave}:
            db.execute(_SETTLE, (_BITS[status], json.dumps([seq for seq, each in wave if each is status])))
        seqs = json.dumps([seq for seq, _ in wave])
        children = [_Child._make(row) for row in db.execute(_WHO_WAITED, (seqs,)).fetchall()]
        _release(db, [child for child in children if child.holds is None], now, rings)
        cancelled = [child for child in children if child.holds == REFUSED]
        if cancelled:
            db.execute(_BLAME, (json.dumps([child.seq for child in cancelled]),))
            rows.cancel(db, [child.seq for child in cancelled], now)
            rings.tasks.extend(child.id for child in cancelled)
        wave = [(child.seq, Status.CANCELLED) for child in cancelled if child.edges & HAS_CHILDREN]


def _release(db: sqlite3.Connection, children: Sequence[_Child], now: int, rings: Rings) -> None:
    if not children:
        return
    seqs = json.dumps([child.seq for child in children])
    db.execute(_RELEASE, (now, seqs))
    db.execute(_LET_GO, (seqs,))
    capacity.grow(db, len(children))
    rings.queues.update(child.queue for child in children)


def forgo(db: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """These wait no longer, since they have ended."""
    if seqs:
        db.execute(_LET_GO, (json.dumps(seqs),))


# -- When one becomes pending again ----------------------------------------------------------------


_IS_OPEN: Final = """
SELECT 1 FROM sitq_edges INDEXED BY sitq_holding WHERE child = ? AND holds = 1 LIMIT 1
"""


def holds(db: sqlite3.Connection, seq: int) -> int | None:
    """What the parents of a task make of it: `MET`, `OPEN` or `REFUSED`."""
    [[held]] = db.execute(_HOLDS, (seq,)).fetchall()
    return None if held is None else int(held)


def is_open(db: sqlite3.Connection, seq: int) -> bool:
    """Whether a parent of the task has not finished."""
    return db.execute(_IS_OPEN, (seq,)).fetchone() is not None


def put_behind(db: sqlite3.Connection, seq: int, due_at: int) -> None:
    """A task that was made pending waits for its parents instead."""
    db.execute(_BEHIND, (seq,))
    db.execute("UPDATE sitq_dependents SET due_at = ? WHERE seq = ?", (due_at, seq))


def reopen(db: sqlite3.Connection, seq: int, edges: int) -> None:
    """A task that had ended gets a new run."""
    if edges & HAS_PARENTS:
        db.execute("UPDATE sitq_dependents SET cancelled_by = NULL WHERE seq = ?", (seq,))
    if edges & HAS_CHILDREN:
        db.execute("UPDATE sitq_edges SET holds = 1 WHERE parent = ?", (seq,))


# -- Who is still needed ---------------------------------------------------------------------------

_NEEDED_BY: Final = """
SELECT e.parent, e.child FROM sitq_edges AS e INDEXED BY sitq_children JOIN sitq_tasks AS t ON t.seq = e.child
WHERE e.parent IN (SELECT value FROM json_each(?)) AND t.status <> 'success'
"""
# Out of the way of later calls: beyond all instants, wherever a damaged one lies.
_LATER: Final = 2**62
_KEEP: Final = f"""
UPDATE sitq_tasks SET expires_at = max(expires_at, 0) + {_LATER} WHERE seq IN (SELECT value FROM json_each(?))
"""
_GIVE_BACK: Final = f"""
UPDATE sitq_tasks SET expires_at = expires_at - {_LATER}
WHERE expires_at >= {_LATER} AND seq IN (
    SELECT parent FROM sitq_edges WHERE child IN (SELECT value FROM json_each(?))
)
"""


def needed(db: sqlite3.Connection, candidates: Sequence[int]) -> set[int]:
    """Those of these finished tasks on which one depends that has not succeeded and that stays.

    Args:
        candidates: The newest first, so that children come before their parents. Those that are not needed go.
    """
    children: dict[int, list[int]] = {}
    for parent, child in db.execute(_NEEDED_BY, (json.dumps(list(candidates)),)):
        children.setdefault(parent, []).append(child)
    going: set[int] = set()
    for seq in candidates:
        if going.issuperset(children.get(seq, ())):
            going.add(seq)
    return {seq for seq in candidates if seq not in going}


def keep(db: sqlite3.Connection, seqs: Collection[int]) -> None:
    """These have expired and are needed: their time comes when what depends on them has succeeded or is gone."""
    db.execute(_KEEP, (json.dumps(list(seqs)),))


def need_no_more(db: sqlite3.Connection, children: Sequence[int]) -> bool:
    """These have succeeded, or will be gone: the time of parents that was put off counts again. False if none was."""
    return db.execute(_GIVE_BACK, (json.dumps(children),)).rowcount > 0
