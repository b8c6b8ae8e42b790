"""A store with every kind of row in it, and how somebody else writes into it what sitq never would."""

import random
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from sitq import ErrorInfo, TaskQueue
from sitq.backends.sqlite import SQLiteBackend
from sitq.failure import encode_error
from sitq.model import (
    Concurrency,
    Edge,
    Failed,
    Held,
    NewNote,
    NewTask,
    NoteKind,
    Rate,
    Retried,
    Unique,
    Until,
    WorkerInfo,
)
from sitq.schedule import make_schedule
from sitq.schedules import save_schedules

LEASE: Final = timedelta(seconds=30)
GOOD: Final = 5
"""So many tasks have nothing to do with what is damaged, and have to run."""
NOTE: Final = b'{"percent": 5, "note": ""}'


def work(number: int) -> int:
    return number + 1


class Damage(NamedTuple):
    """What was written. `shared` says that it is not of one task, so that others may suffer from it."""

    sql: str
    values: tuple[Any, ...]
    loose: bool
    shared: bool


async def prepare(path: Path) -> None:
    """Write a store: hostile-to-be tasks of each kind, and good ones."""
    backend = SQLiteBackend(path, durability="fast")
    async with TaskQueue(backend) as queue:
        await queue.enqueue(work, 1)
        [first] = await queue.find(limit=1)
        record = await backend.get_result(first.id)
        assert record is not None
        await _fill(backend, record.payload or b"")
        repeated = NewTask(id="", name="work", payload=b"")
        schedule = make_schedule("nightly", every=3600)
        await save_schedules(backend, [(schedule, repeated)], datetime.now(UTC))
        for number in range(GOOD):
            await queue.options(id=f"good-{number}").enqueue(work, number)


async def _fill(backend: SQLiteBackend, payload: bytes) -> None:
    now = datetime.now(UTC)

    def task(name: str, **fields: Any) -> NewTask:
        return NewTask(
            **{"id": f"bad-{name}", "name": "work", "payload": payload, "metadata": {"a": 1}, **fields}
        )

    ends = [task(name) for name in ("held", "failed", "retried", "done")]
    await backend.enqueue(ends)
    reserved = (await backend.reserve("w1", None, 10, LEASE, ids=[one.id for one in ends])).tasks
    held = {one.id: one.held for one in reserved}
    error = encode_error(ErrorInfo("ValueError", "no"))
    await backend.heartbeat(
        "w1", [], LEASE, notes=[NewNote(held["bad-held"], NoteKind.PROGRESS, NOTE)], info=info(now)
    )
    await backend.complete([Failed(held["bad-failed"], error), Retried(held["bad-retried"], now, error)])
    await backend.mark_success(held["bad-done"], b"")
    await backend.enqueue(
        [
            task("plain"),
            task("late", due_at=now + LEASE),
            task("parent"),
            task("child", edges=(Edge("bad-parent"), Edge("bad-done"))),
            task("grandchild", edges=(Edge("bad-child"),)),
            task("key", unique=Unique("key", Until.END)),
            task("until", unique=Unique("until", now + LEASE)),
            *[task(f"bounded-{n}", concurrency=Concurrency("c", 1)) for n in range(3)],
            *[task(f"paced-{n}", rate=Rate("r", 1, LEASE)) for n in range(3)],
        ]
    )
    # One of each key has started, the others stand in line.
    await backend.reserve(
        "w2", None, 10, LEASE, ids=["bad-bounded-0", "bad-bounded-1", "bad-paced-0", "bad-paced-1"]
    )
    await backend.set_paused("elsewhere", True)


def info(now: datetime) -> WorkerInfo:
    return WorkerInfo(host="here", pid=1, started_at=now, concurrency=1)


def current(path: Path, task_id: str) -> Held:
    """The newest reservation of a task, as its worker knows it."""
    with closing(sqlite3.connect(path)) as db:
        row = db.execute("SELECT fence FROM sitq_tasks WHERE id = ?", (task_id,)).fetchone()
    return Held(task_id, row[0] if row and isinstance(row[0], int) else 0)


# -- What a hostile writer does --------------------------------------------------------------------

NUMBERS: Final = (0, 1, -1, 2, 7, 2**31, 10**15, -(10**15), 10**17 * 3, -(10**17), 2**62, 2**63 - 1, -(2**63))
TEXTS: Final = (
    "", "x", "running", "pending", "success", "failed", "waiting", "cancelled", "start", "instant", "passed", "default",
    "5", "NaN", "Infinity", "null", "{", "[]", "[1, 2]", '"x"', '{"a": NaN}', '{"a": 1, "a": 2}', "\x00", "a\x00b",
    "\U0001f4a3", "[" * 100_000, "9" * 5_000, '{"host": 1}', "{}", "bad-child", "good-1",
)  # fmt: skip
BLOBS: Final = (b"", b"\xff", b"sq\x02", b"null", b"{}", b"\x00" * 9)
REALS: Final = (0.5, -0.0, 1e300, float("inf"), float("-inf"))
SHARED: Final = frozenset(
    ["sitq_meta", "sitq_listeners", "sitq_counts", "sitq_paused", "sitq_lines", "sitq_rates", "sitq_starts"]
)
BY_TASK: Final = ("sitq_payloads", "sitq_limits", "sitq_dependents")


def draw(rng: random.Random, path: Path) -> Damage:
    """One write of somebody who does not know what he does, or knows it too well."""
    loose = rng.random() < 0.5
    with closing(sqlite3.connect(path)) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = rng.choice(["sitq_tasks"] * 12 + sorted(name for name in tables if name.startswith("sitq_")))
        columns = [(row[1], row[2]) for row in db.execute(f"PRAGMA table_info({table})")]
    column, kind = rng.choice(columns)
    where, shared = "true", table in SHARED
    if table == "sitq_tasks":
        where = "id LIKE 'bad-%'"
    elif table in BY_TASK or table in ("sitq_notes", "sitq_edges"):
        key = "child" if table == "sitq_edges" else "seq"
        where = f"{key} IN (SELECT seq FROM sitq_tasks WHERE id LIKE 'bad-%')"
    if rng.random() < 0.1:
        return Damage(f"DELETE FROM {table} WHERE {where}", (), loose, shared)
    value, values = _value(rng, kind, loose)
    one = f" AND {_key(table)} = (SELECT {_key(table)} FROM {table} WHERE {where} ORDER BY random() LIMIT 1)"
    some = where if rng.random() < 0.3 else where + one
    return Damage(f"UPDATE OR IGNORE {table} SET {column} = {value} WHERE {some}", values, loose, shared)


def _key(table: str) -> str:
    return {
        "sitq_tasks": "seq",
        "sitq_notes": "position",
        "sitq_edges": "parent_id",
        "sitq_workers": "number",
    }.get(table, "1")


def _value(rng: random.Random, kind: str, loose: bool) -> tuple[str, tuple[Any, ...]]:
    fitting = {"INTEGER": NUMBERS, "TEXT": TEXTS, "BLOB": BLOBS}[kind]
    pick = rng.random()
    if kind == "TEXT" and pick < 0.15:
        return "CAST(x'ff61fe' AS TEXT)", ()
    if not loose or pick < 0.4:
        return "?", (rng.choice([*fitting, None]),)
    return "?", (rng.choice([*NUMBERS, *TEXTS, *BLOBS, *REALS, None]),)


def inflict(damage: Damage, path: Path) -> None:
    """Write it. Loosely: into tables that take everything, as another program or another version may have made them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        if damage.loose:
            db.execute("PRAGMA writable_schema = ON")
            for word, instead in ((" STRICT,", " "), (" STRICT", ""), (" NOT NULL", "")):
                sql = "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name LIKE 'sitq%'"
                db.execute(sql, (word, instead))
            db.execute("PRAGMA writable_schema = RESET")
        try:
            db.execute(damage.sql, damage.values)
        except sqlite3.IntegrityError:
            pass  # it is refused: then the store is as it was


def copied(source: Path, folder: Path, number: int) -> Path:
    path = folder / f"{number}.db"
    shutil.copy(source, path)
    return path
