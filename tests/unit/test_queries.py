"""The hot statements go by the index that was made for them, however much is stored."""

import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.sqlite import SQLiteBackend, queries, statements
from sitq.backends.sqlite.statements import Reservation, Rings
from sitq.model import Held, Status, Succeeded, TaskQuery
from tests.support import HOUR, LEASE, FakeClock, new_task, new_tasks

LEVELS = 19


class Planner:
    """A connection that explains each statement before it runs it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.plans: list[tuple[str, list[str]]] = []

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._explain(sql, values)
        return self._db.execute(sql, values)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> sqlite3.Cursor:
        for row in rows:
            self._explain(sql, row)
        return self._db.executemany(sql, rows)

    def cursor(self) -> "Planner":
        return self

    def _explain(self, sql: str, values: Sequence[Any]) -> None:
        steps = [row[3] for row in self._db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        self.plans.append((" ".join(sql.split()), steps))

    @property
    def steps(self) -> list[str]:
        return [step for _, steps in self.plans for step in steps]

    def touching(self, table: str) -> list[str]:
        return [step for step in self.steps if re.match(rf"(SCAN|SEARCH) {table}\b", step)]


@pytest.fixture(params=["empty", "filled", "analyzed"])
async def backend(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SQLiteBackend]:
    """The plan must not depend on what the statistics say."""
    clock = FakeClock()
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock)
    await backend.open()
    if request.param != "empty":
        await backend.enqueue(new_tasks(500, due_at=clock.now() + HOUR, priority=-9))
        await backend.enqueue(new_tasks(500))
        reserved = await backend.reserve("w1", None, 300, LEASE)
        await backend.complete([Succeeded(task.held, b"") for task in reserved.tasks])
    if request.param == "analyzed":
        await backend._writer.run(lambda db: db.execute("ANALYZE").close())
    yield backend
    await backend.close()


async def plan(backend: SQLiteBackend, operation: Any) -> Planner:
    def explain(db: sqlite3.Connection) -> Planner:
        planner = Planner(db)
        operation(planner)
        return planner

    return await backend._writer.run(explain)


def no_scan_and_no_sort(planner: Planner, table: str = "sitq_tasks") -> bool:
    # A scan by the primary key in the order asked for is no search for something.
    return not any(
        step.startswith(f"SCAN {table}") or "TEMP B-TREE" in step or "AUTOMATIC" in step
        for step in planner.steps
    )


async def test_a_reservation_seeks_each_level_in_the_index_of_what_is_due(backend: SQLiteBackend) -> None:
    now = backend._now()
    wanted = Reservation("w2", ["default"], None, 10, now, now + 1)

    planner = await plan(backend, lambda db: statements.reserve(db, wanted))

    due = [steps for sql, steps in planner.plans if "UNION ALL" in sql and "LIMIT ?3" in sql]
    assert len(due) == 1
    seeks = [step for step in due[0] if "sitq_tasks" in step]
    assert len(seeks) == LEVELS
    assert all("USING INDEX sitq_due (queue=? AND priority=? AND due_at<?)" in seek for seek in seeks) or all(
        "USING COVERING INDEX sitq_due (queue=? AND priority=? AND due_at<?)" in seek for seek in seeks
    )
    assert no_scan_and_no_sort(planner)


async def test_the_next_due_task_is_one_seek_a_level(backend: SQLiteBackend) -> None:
    planner = await plan(backend, lambda db: statements._next_due(db, ["default"]))

    seeks = planner.touching("sitq_tasks")
    assert len(seeks) == LEVELS
    assert all("INDEX sitq_due (queue=? AND priority=?" in seek for seek in seeks)
    assert no_scan_and_no_sort(planner)


async def test_the_queues_are_found_by_hops_along_the_index(backend: SQLiteBackend) -> None:
    now = backend._now()
    wanted = Reservation("w2", None, None, 10, now, now + 1)

    planner = await plan(backend, lambda db: statements.reserve(db, wanted))

    [hops] = [steps for sql, steps in planner.plans if "RECURSIVE" in sql]
    touched = [step for step in hops if "sitq_tasks" in step]
    assert len(touched) == 2
    assert all("COVERING INDEX sitq_due" in step for step in touched)


@pytest.mark.parametrize("verb", ["complete", "heartbeat", "cancel"])
async def test_what_a_worker_tells_is_found_by_id_and_written_by_row(
    backend: SQLiteBackend, verb: str
) -> None:
    held = [Held("task-1", 1), Held("task-2", 1)]
    now = backend._now()
    operations = {
        "complete": lambda db: statements.complete(db, [Succeeded(one, b"") for one in held], now, Rings()),
        "heartbeat": lambda db: statements.heartbeat(db, held, now),
        "cancel": lambda db: statements.cancel(db, [one.id for one in held], now, Rings()),
    }

    planner = await plan(backend, operations[verb])

    assert all(
        "sqlite_autoindex_sitq_tasks_1 (id=?)" in step or "INTEGER PRIMARY KEY (rowid=?)" in step
        for step in planner.touching("sitq_tasks")
    )
    assert planner.touching("sitq_tasks")
    assert no_scan_and_no_sort(planner)


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
async def test_what_went_wrong_is_found_by_an_index_of_its_own(
    backend: SQLiteBackend, status: Status
) -> None:
    query = TaskQuery(statuses=[status], before=10_000)

    planner = await plan(backend, lambda db: queries.find(db, query))

    assert planner.touching("t") == [f"SEARCH t USING INDEX sitq_{status} (seq<?)"]
    assert no_scan_and_no_sort(planner, "t")


@pytest.mark.parametrize("statuses", [[Status.PENDING], [Status.RUNNING], [Status.PENDING, Status.RUNNING]])
async def test_few_unfinished_tasks_are_found_without_reading_the_finished_ones(
    backend: SQLiteBackend, statuses: list[Status], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = TaskQuery(statuses=statuses)

    planner = await plan(backend, lambda db: queries.find(db, query))
    assert planner.touching("t") == ["SCAN t USING INDEX sitq_due"]

    # Of many the newest come first along the rows, without a sort.
    monkeypatch.setattr(queries, "_MAX_SORTED", -1)
    planner = await plan(backend, lambda db: queries.find(db, query))
    assert planner.touching("t") == ["SCAN t"]
    assert not any("TEMP B-TREE" in step for step in planner.steps)


async def test_a_page_of_everything_goes_along_the_rows(backend: SQLiteBackend) -> None:
    planner = await plan(backend, lambda db: queries.find(db, TaskQuery(with_bytes=True)))

    assert not any("TEMP B-TREE" in step for step in planner.steps)
    assert all("INTEGER PRIMARY KEY" in step for step in planner.steps if " p " in step or " r " in step)


async def test_one_task_is_found_by_its_id(backend: SQLiteBackend) -> None:
    planner = await plan(backend, lambda db: queries.find(db, TaskQuery(ids=["task-1"], with_bytes=True)))

    assert planner.touching("t") == ["SEARCH t USING INDEX sqlite_autoindex_sitq_tasks_1 (id=?)"]


async def test_pruning_goes_by_the_index_of_expiry(backend: SQLiteBackend) -> None:
    later = backend._now() + timedelta(days=30) // timedelta(microseconds=1)

    planner = await plan(backend, lambda db: statements.prune(db, later, 10))

    assert "sitq_expiry (expires_at<?)" in planner.steps[0]
    assert no_scan_and_no_sort(planner)


async def test_a_finished_task_is_not_in_the_index_of_what_is_due(backend: SQLiteBackend) -> None:
    await backend.enqueue([new_task("ends")])
    await backend.cancel(["ends"])

    def due(db: sqlite3.Connection) -> list[Any]:
        sql = "SELECT id FROM sitq_tasks INDEXED BY sitq_due WHERE due_at IS NOT NULL AND id = 'ends'"
        return db.execute(sql).fetchall()

    assert await backend._writer.run(due) == []
