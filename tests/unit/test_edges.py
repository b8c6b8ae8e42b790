"""What edges cost in SQLite: nothing for plain tasks, and for the others what they are many. Counted, not timed."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.sqlite import SQLiteBackend, edges, enqueue, queries, reports, reserve, upkeep
from sitq.backends.sqlite.reserve import Reservation
from sitq.backends.sqlite.rings import Rings
from sitq.model import FINISHED, Edge, NewTask, Status, Succeeded, TaskId, TaskQuery
from tests.support import LEASE, FakeClock, new_task, new_tasks
from tests.unit.test_queries import no_scan_and_no_sort, plan, work


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=FakeClock())
    await backend.open()
    yield backend
    await backend.close()


def child(task_id: TaskId, *parents: TaskId, **fields: Any) -> NewTask:
    return new_task(task_id, edges=tuple(map(Edge, parents)), **fields)


def chain(prefix: str, number: int) -> list[NewTask]:
    names = [f"{prefix}{each}" for each in range(number)]
    return [new_task(names[0]), *(child(name, before) for before, name in pairwise(names))]


def fan_in(prefix: str, number: int) -> list[NewTask]:
    names = [f"{prefix}{each}" for each in range(number)]
    return [*map(new_task, names), child(f"{prefix}all", *names)]


# -- A plain task does not pay ---------------------------------------------------------------------


class Counted:
    """A connection that writes down its statements."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.statements: list[str] = []

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        self.statements.append(sql)
        return self._db.execute(sql, values)

    def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
        self.statements.append(sql)
        return self._db.executemany(sql, rows)


async def test_plain_tasks_touch_no_table_of_edges(backend: SQLiteBackend) -> None:
    await backend.enqueue(fan_in("other", 10))
    now, rings = backend._now(), Rings()

    def life(db: Any) -> list[str]:
        counted: Any = Counted(db)
        enqueue.enqueue(counted, [new_tasks(5, queue="plain")], now, rings)
        wanted = Reservation("w1", ["plain"], None, 5, now, now + 1)
        reserved = reserve.reserve(counted, wanted, rings)
        assert len(reserved.tasks) == 5
        done, _ = reports.complete(
            counted, [Succeeded(task.held, b"") for task in reserved.tasks], [], now, rings
        )
        assert done.accepted == 5
        return list(counted.statements)

    statements = await backend._writer.run(life)

    assert not [sql for sql in statements if "sitq_edges" in sql or "sitq_dependents" in sql]
    assert (
        len([sql for sql in statements if sql.startswith("\nUPDATE sitq_tasks SET\n    status = 'success'")])
        == 1
    )


# -- Linear cost -----------------------------------------------------------------------------------


async def steps_of(
    backend: SQLiteBackend, prepare: Callable[[str, int], list[NewTask]], verb: Callable[[Any, str, int], Any]
) -> list[int]:
    """How much work a verb is after preparing a hundred tasks, and after preparing eight times as many."""
    found: list[int] = []
    for prefix, number in (("few", 100), ("many", 800)):
        await backend.enqueue(prepare(prefix, number))

        def do(db: sqlite3.Connection, prefix: str = prefix, number: int = number) -> None:
            verb(db, prefix, number)

        found.append(await work(backend, do))
    return found


def is_linear(steps: list[int]) -> bool:
    few, many = steps
    return many < 8 * few * 1.3


@pytest.mark.parametrize("shape", [chain, fan_in])
async def test_to_store_is_linear(backend: SQLiteBackend, shape: Callable[[str, int], list[NewTask]]) -> None:
    def store(db: Any, prefix: str, number: int) -> None:
        enqueue.enqueue_carefully(db, shape(prefix, number), {}, backend._now(), Rings())

    assert is_linear(await steps_of(backend, lambda *_: [], store))


async def test_the_end_of_one_parent_costs_the_same_however_many_there_are(backend: SQLiteBackend) -> None:
    def one(db: Any, prefix: str, _: int) -> None:
        [[seq]] = db.execute("SELECT seq FROM sitq_tasks WHERE id = ?", (f"{prefix}5",)).fetchall()
        edges.end(db, [(seq, Status.SUCCESS)], backend._now(), Rings())

    few, many = await steps_of(backend, fan_in, one)

    assert many < few * 1.2


async def test_to_end_all_parents_one_by_one_is_linear(backend: SQLiteBackend) -> None:
    def each(db: Any, prefix: str, number: int) -> None:
        for index in range(number):
            [[seq]] = db.execute("SELECT seq FROM sitq_tasks WHERE id = ?", (f"{prefix}{index}",)).fetchall()
            edges.end(db, [(seq, Status.SUCCESS)], backend._now(), Rings())

    assert is_linear(await steps_of(backend, fan_in, each))
    assert len(await backend.find(TaskQuery(statuses=[Status.WAITING]))) == 0


async def test_to_cancel_a_chain_is_linear(backend: SQLiteBackend) -> None:
    assert is_linear(
        await steps_of(
            backend, chain, lambda db, prefix, _: upkeep.cancel(db, [f"{prefix}0"], backend._now(), Rings())
        )
    )
    assert len(await backend.find(TaskQuery(statuses=[Status.CANCELLED], limit=1_000))) == 900


async def test_to_requeue_and_to_prune_a_chain_is_linear(backend: SQLiteBackend) -> None:
    def cancelled(db: Any, prefix: str, number: int) -> None:
        ids = [f"{prefix}{each}" for each in range(number)]
        now, rings = backend._now(), Rings()
        upkeep.cancel(db, ids[:1], now, rings)
        assert len(upkeep.requeue(db, ids, now, rings)) == number
        upkeep.cancel(db, ids[:1], now, rings)
        assert upkeep.prune(db, now, number, ids) == number

    assert is_linear(await steps_of(backend, chain, cancelled))


async def test_to_prune_what_has_expired_is_linear(backend: SQLiteBackend) -> None:
    later = backend._now() + timedelta(days=8) // timedelta(microseconds=1)

    def expired(db: Any, prefix: str, number: int) -> None:
        upkeep.cancel(db, [f"{prefix}0"], backend._now(), Rings())
        pruned = 0
        while pruned < number:
            pruned += upkeep.prune(db, later, 50)

    assert is_linear(await steps_of(backend, chain, expired))


# -- By which index --------------------------------------------------------------------------------


@pytest.mark.parametrize("analyzed", [False, True])
async def test_all_of_it_goes_by_index(backend: SQLiteBackend, analyzed: bool) -> None:
    await backend.enqueue([*fan_in("a", 200), *chain("b", 200), *new_tasks(500)])
    if analyzed:
        await backend._writer.run(lambda db: db.execute("ANALYZE").close())
    now, rings = backend._now(), Rings()
    behind = child("c", "a1", "a2")
    operations: list[Callable[[Any], Any]] = [
        lambda db: enqueue.enqueue_carefully(db, [behind], {}, now, rings),
        lambda db: upkeep.cancel(db, ["b0"], now, rings),
        lambda db: upkeep.requeue(db, ["b0", "b1"], now, rings),
        lambda db: upkeep._delete(db, [seq for seq in edges.needed(db, [202, 203]) if seq < 0]),
        lambda db: edges.parents_of(db, [201]),
        lambda db: edges.is_open(db, 201),
        lambda db: edges.need_no_more(db, [201]),
    ]
    for operation in operations:
        planner = await plan(backend, operation)
        assert no_scan_and_no_sort(planner), planner.plans
        assert not planner.touching("(e|d|t)") or all(
            "SEARCH" in step for step in planner.touching("(e|d|t)")
        )


async def test_few_that_wait_are_found_by_their_own_index(backend: SQLiteBackend) -> None:
    await backend.enqueue([*new_tasks(100), *fan_in("a", 3)])

    planner = await plan(backend, lambda db: queries.find(db, TaskQuery(statuses=[Status.WAITING])))

    assert any("sitq_waiting" in step for step in planner.steps)
    assert planner.touching("t") == ["SEARCH t USING INTEGER PRIMARY KEY (rowid=?)"]


async def test_what_is_gone_leaves_nothing_behind(backend: SQLiteBackend) -> None:
    await backend.enqueue([*chain("a", 5), new_task("x", edges=(Edge("a0", FINISHED),))])
    await backend.cancel(["a0"])
    [task] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.complete([Succeeded(task.held, b"")])
    await backend.prune(10, ids=["x", *(f"a{number}" for number in range(5))])

    def left(db: sqlite3.Connection) -> list[Any]:
        tables = ("sitq_tasks", "sitq_payloads", "sitq_edges", "sitq_dependents", "sitq_notes")
        return [row for table in tables for row in db.execute(f"SELECT * FROM {table}")]

    assert await backend._writer.run(left) == []
