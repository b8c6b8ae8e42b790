"""The hot statements go by the index that was made for them, however much is stored."""

import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.sqlite import (
    SQLiteBackend,
    capacity,
    enqueue,
    limits,
    notes,
    queries,
    rates,
    registry,
    reports,
    reserve,
    upkeep,
)
from sitq.backends.sqlite.reports import Pulse
from sitq.backends.sqlite.reserve import Reservation
from sitq.backends.sqlite.rings import Rings
from sitq.model import Failed, Held, NewNote, NewTask, NoteKind, Retried, Status, Succeeded, TaskQuery, Unique
from tests.support import HOUR, LEASE, MINUTE, FakeClock, bounded, new_task, new_tasks, paced, reserved_ids

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
        await backend.enqueue([bounded(queue="limited") for _ in range(100)])
        await backend.enqueue([paced(queue="limited") for _ in range(100)])
        await backend.enqueue([new_task(unique=Unique(f"{number}")) for number in range(100)])
        held = [task.held for task in (await backend.reserve("w1", ["limited"], 10, LEASE)).tasks]
        await backend.heartbeat(
            "w1", held, LEASE, notes=[NewNote(one, NoteKind.LOG, b"") for one in held * 50]
        )
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


def no_scan_and_no_sort(planner: Planner, table: str = "sitq_") -> bool:
    # A scan by the primary key in the order asked for is no search for something, nor is one that ends at the first
    # row. What is paused are names, and few of them.
    return not any(
        step.startswith(f"SCAN {table}") or "TEMP B-TREE" in step or "AUTOMATIC" in step
        for sql, steps in planner.plans
        for step in steps
        if not sql.startswith("SELECT EXISTS") and step != "SCAN sitq_paused"
    )


def wanted(backend: SQLiteBackend, queues: list[str] | None = None, limit: int = 10) -> Reservation:
    now = backend._now()
    return Reservation("w2", queues, None, limit, now, now + 1)


async def test_a_reservation_seeks_each_level_in_the_index_of_what_is_due(backend: SQLiteBackend) -> None:
    planner = await plan(backend, lambda db: reserve.reserve(db, wanted(backend, ["default"]), Rings()))

    due = [steps for sql, steps in planner.plans if "UNION ALL" in sql and sql.endswith("LIMIT ?3")]
    assert len(due) == 1
    seeks = [step for step in due[0] if "sitq_tasks" in step]
    assert len(seeks) == LEVELS
    assert all("USING INDEX sitq_due (queue=? AND priority=? AND due_at<?)" in seek for seek in seeks) or all(
        "USING COVERING INDEX sitq_due (queue=? AND priority=? AND due_at<?)" in seek for seek in seeks
    )
    assert no_scan_and_no_sort(planner)


async def test_the_next_due_task_is_one_seek_a_level(backend: SQLiteBackend) -> None:
    search = reserve._Search(wanted(backend), ["default"], set())

    planner = await plan(backend, lambda db: reserve._next_due(db, search))

    seeks = planner.touching("sitq_tasks")
    assert len(seeks) == LEVELS
    assert all("INDEX sitq_due (queue=? AND priority=?" in seek for seek in seeks)
    assert no_scan_and_no_sort(planner)


async def test_the_next_start_in_a_store_with_rates_is_found_by_indexes(backend: SQLiteBackend) -> None:
    search = reserve._Search(wanted(backend), ["default", "limited"], set())

    planner = await plan(
        backend, lambda db: (reserve._next_start(db, search), reserve._next_bounded(db, search))
    )

    assert no_scan_and_no_sort(planner)
    assert planner.touching("sitq_lines") == ["SEARCH sitq_lines USING INDEX sitq_opening (opens_at>?)"]


async def test_when_the_lines_of_a_queue_open_is_one_seek_however_many_others_have(
    backend: SQLiteBackend,
) -> None:
    planner = await plan(backend, lambda db: limits.next_opening(db, ["limited", "paused"], {"paused"}))

    assert planner.touching("sitq_lines") == [
        "SEARCH sitq_lines USING COVERING INDEX sitq_lines_of_queue (queue=? AND opens_at>?)"
    ]


async def test_the_queues_are_found_by_hops_along_the_index(backend: SQLiteBackend) -> None:
    planner = await plan(backend, lambda db: reserve.reserve(db, wanted(backend), Rings()))

    [hops] = [steps for sql, steps in planner.plans if "RECURSIVE" in sql]
    touched = [step for step in hops if "sitq_tasks" in step]
    assert len(touched) == 2
    assert all("COVERING INDEX sitq_due" in step for step in touched)


@pytest.mark.parametrize("verb", ["complete", "retry", "heartbeat", "cancel", "requeue", "prune"])
async def test_what_concerns_some_tasks_is_found_by_id_and_written_by_row(
    backend: SQLiteBackend, verb: str
) -> None:
    ids = ["task-1", "task-2", "bounded-1", "paced-1"]
    await backend.enqueue([new_task(one) for one in ids[:2]] + [bounded("bounded-1"), paced("paced-1")])
    held = [Held(one, 1) for one in ids]
    now, rings = backend._now(), Rings()
    new_notes = [NewNote(one, NoteKind.LOG, b"line") for one in held]
    operations: dict[str, Callable[[Any], Any]] = {
        "complete": lambda db: reports.complete(
            db, [Succeeded(one, b"") for one in held], new_notes, now, rings
        ),
        "retry": lambda db: reports.complete(
            db, [Retried(one, datetime.now().astimezone(), b"") for one in held], [], now, rings
        ),
        "heartbeat": lambda db: reports.heartbeat(
            db, Pulse("w1", held, new_notes, None, now, now + 1), rings
        ),
        "cancel": lambda db: upkeep.cancel(db, ids, now, rings),
        "requeue": lambda db: upkeep.requeue(db, ids, now, rings),
        "prune": lambda db: db.execute(upkeep._CHOSEN, (now, "[]")),
    }

    planner = await plan(backend, operations[verb])

    assert all(
        "sqlite_autoindex_sitq_tasks_1 (id=?)" in step or "INTEGER PRIMARY KEY (rowid=?)" in step
        for step in planner.touching("sitq_tasks")
    )
    assert planner.touching("sitq_tasks")
    assert no_scan_and_no_sort(planner)


# -- Limits, keys and notes ------------------------------------------------------------------------


async def test_a_reservation_with_limits_goes_by_indexes(backend: SQLiteBackend) -> None:
    await backend.enqueue([bounded(key=f"{n}") for n in range(5)] + [paced(key=f"{n}") for n in range(5)])

    planner = await plan(backend, lambda db: reserve.reserve(db, wanted(backend, limit=10_000), Rings()))

    assert any("sitq_runs (concurrency_key=? AND runs=?)" in step for step in planner.touching("sitq_limits"))
    assert any("sitq_starts_at (rate=? AND at<?)" in step for step in planner.touching("sitq_starts"))
    assert no_scan_and_no_sort(planner)


async def test_who_is_let_in_is_found_by_the_index_of_lines(backend: SQLiteBackend) -> None:
    now = backend._now()

    def let_in(db: Any) -> None:
        [[line]] = db.execute(limits._LINE, ("rate", "key", "queue", 1, 1, now)).fetchall()
        limits.let_in(db, {"key": 1}, Rings())
        limits._open_now(db, {"key"}, now, Rings())
        limits.open_lines(db, now)
        limits._free(db, line, 1)

    planner = await plan(backend, let_in)

    assert set(planner.touching("sitq_limits")) == {
        "SEARCH sitq_limits USING COVERING INDEX sitq_runs (concurrency_key=? AND runs=?)",
        "SEARCH sitq_limits USING COVERING INDEX sitq_held_up (line=?)",
        "SEARCH sitq_limits USING INTEGER PRIMARY KEY (rowid=?)",
    }
    assert no_scan_and_no_sort(planner)


async def test_the_room_of_a_rate_is_two_seeks_and_a_start_one_more(backend: SQLiteBackend) -> None:
    now = backend._now()

    def pace(db: Any) -> None:
        for _ in range(2):
            rates.room(db, "key", 1, 1_000_000, now)
            rates.start(db, "key", 1_000_000, now)
        rates.room(db, "key", 2, 1_000_000, now)

    planner = await plan(backend, pace)

    assert set(planner.touching("sitq_starts")) == {
        "SEARCH sitq_starts USING COVERING INDEX sitq_starts_at (rate=? AND at>?)",
        "SEARCH sitq_starts USING COVERING INDEX sitq_starts_at (rate=? AND at<?)",
        "SEARCH sitq_starts USING PRIMARY KEY (rate=? AND number>?)",
        "SEARCH sitq_starts USING PRIMARY KEY (rate=? AND number=?)",
    }
    assert no_scan_and_no_sort(planner)


async def test_the_holder_of_a_key_is_found_by_the_index_that_keeps_two_from_it(
    backend: SQLiteBackend,
) -> None:
    now = backend._now()
    second = new_task(unique=Unique("7", replace=True))

    planner = await plan(
        backend, lambda db: enqueue.enqueue_carefully(db, [second, second], {}, now, Rings())
    )

    assert "SEARCH sitq_tasks USING INDEX sitq_unique (unique_key=?)" in planner.touching("sitq_tasks")
    assert no_scan_and_no_sort(planner)


async def test_the_pending_tasks_of_a_queue_are_counted_along_the_index_of_what_is_due(
    backend: SQLiteBackend,
) -> None:
    planner = await plan(backend, lambda db: capacity.is_over(db, "default", 10))

    assert planner.touching("sitq_tasks")[0] == "SEARCH sitq_tasks USING COVERING INDEX sitq_due (queue=?)"
    assert all("INDEX sitq_due (queue=?)" in step for step in planner.touching("sitq_tasks"))


async def test_as_long_as_there_is_room_nobody_is_counted(backend: SQLiteBackend) -> None:
    await backend.enqueue(new_tasks(20, queue="mail"), max_pending={"mail": 30})
    await backend.enqueue(new_tasks(5, queue="other"))

    def count(most: int) -> Callable[[Any], Any]:
        return lambda db: capacity.is_over(db, "mail", most)

    assert (await plan(backend, count(25))).touching("sitq_tasks") == []
    assert (await plan(backend, count(24))).touching("sitq_tasks") != []
    assert (await plan(backend, count(20))).touching("sitq_tasks") == []  # from the count before


async def test_notes_are_read_from_a_position_on_and_trimmed_by_their_index(backend: SQLiteBackend) -> None:
    entry = notes.Entry(1, NoteKind.LOG, 1, 1, b"")
    planner = await plan(backend, lambda db: (notes.insert(db, [entry]), notes.read(db, "task-1", 5, 10)))

    assert set(planner.touching("sitq_notes")) == {
        "SEARCH sitq_notes USING INDEX sitq_notes_of_task (seq=? AND kind=? AND position<?)",
        "SEARCH sitq_notes USING COVERING INDEX sitq_notes_of_task (seq=? AND kind=?)",
        "SEARCH sitq_notes USING INDEX sitq_notes_of_task (seq=? AND kind=? AND position>?)",
    }


async def test_documents_are_a_range_of_names(backend: SQLiteBackend) -> None:
    planner = await plan(backend, lambda db: registry.load(db, "schedule/"))

    assert planner.steps == ["SEARCH sitq_documents USING PRIMARY KEY (name>? AND name<?)"]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("", None),
        ("a", "b"),
        ("a/", "a0"),
        ("\N{LATIN SMALL LETTER Z WITH CARON}", "\u017f"),
        ("\ud7ff", "\ue000"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("a\0", "a\1"),
    ],
    ids=ascii,
)
def test_the_end_of_a_range_is_the_least_text_beyond_its_prefix(prefix: str, end: str | None) -> None:
    assert registry._after(prefix) == end


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
    assert planner.touching("t") == ["SEARCH t USING INTEGER PRIMARY KEY (rowid=?)"]
    assert not any("TEMP B-TREE" in step for step in planner.steps)

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

    planner = await plan(backend, lambda db: upkeep.prune(db, later, 10))

    assert "sitq_expiry (expires_at<?)" in planner.steps[0]
    assert no_scan_and_no_sort(planner, "sitq_tasks")
    assert "sitq_rates_over (over_at<?)" in " ".join(planner.touching("sitq_rates"))


async def test_a_finished_task_is_not_in_the_index_of_what_is_due(backend: SQLiteBackend) -> None:
    await backend.enqueue([new_task("ends")])
    await backend.cancel(["ends"])

    def due(db: sqlite3.Connection) -> list[Any]:
        sql = "SELECT id FROM sitq_tasks INDEXED BY sitq_due WHERE due_at IS NOT NULL AND id = 'ends'"
        return db.execute(sql).fetchall()

    assert await backend._writer.run(due) == []


# -- How much work it is ---------------------------------------------------------------------------


async def work(backend: SQLiteBackend, operation: Callable[[sqlite3.Connection], Any]) -> int:
    """How many instructions of SQLite's virtual machine an operation takes: no clock, the same on every machine."""

    def count(db: sqlite3.Connection) -> int:
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        db.set_progress_handler(step, 1)
        try:
            operation(db)
        finally:
            db.set_progress_handler(None, 1)
        return steps

    return await backend._writer.run(count)


async def settle(backend: SQLiteBackend, clock: FakeClock) -> None:
    """Reserve until all that may start has started, and all others stand where they stay."""
    while True:
        found = await backend.reserve("w1", None, 10_000, 10 * HOUR)
        if found.next_due_at is None or found.next_due_at > clock.now():
            return


STORED = 5_000
CROWDS: dict[str, Callable[[FakeClock], list[NewTask]]] = {
    "waiting for an end": lambda clock: [bounded() for _ in range(STORED)],
    "waiting for their rate": lambda clock: [paced(period=HOUR) for _ in range(STORED)],
    "far in the future": lambda clock: new_tasks(STORED, due_at=clock.now() + HOUR, priority=-9),
    "in the future with a rate": lambda clock: [paced(due_at=clock.now() + HOUR) for _ in range(STORED)],
    "of as many keys": lambda clock: [bounded(key=f"{number}") for number in range(STORED)],
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS.keys())
async def test_a_reservation_is_as_much_work_however_many_stand_by(
    tmp_path: Path, crowd: Callable[[FakeClock], list[NewTask]]
) -> None:
    clock = FakeClock()
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock)
    await backend.open()
    # One of each runs, so that the store is no simpler before.
    await backend.enqueue([bounded(), paced(period=HOUR), bounded(), paced(period=HOUR)])
    assert len(await reserved_ids(backend, lease=10 * HOUR)) == 2
    await backend.enqueue(new_tasks(10))
    alone = await work(backend, lambda db: reserve.reserve(db, wanted(backend, limit=5), Rings()))

    await backend.enqueue(crowd(clock))
    await settle(backend, clock)
    clock.advance(MINUTE)
    await backend.enqueue(new_tasks(10))

    crowded = await work(backend, lambda db: reserve.reserve(db, wanted(backend, limit=5), Rings()))
    assert crowded < 1.5 * alone
    await backend.close()


async def test_the_end_of_a_run_is_as_much_work_however_many_wait_for_it(backend: SQLiteBackend) -> None:
    await backend.enqueue([bounded("first", key="crowd"), *(bounded(key="crowd") for _ in range(20))])
    found = await backend.reserve("w1", None, 10_000, LEASE)
    [first] = [task.held for task in found.tasks if task.id == "first"]
    now = backend._now()
    few = await work(backend, lambda db: reports.complete(db, [Failed(first, b"")], [], now, Rings()))
    await backend.enqueue([bounded(key="crowd") for _ in range(STORED)])
    [second] = [task.held for task in (await backend.reserve("w1", None, 10_000, LEASE)).tasks]
    await settle(backend, FakeClock())

    many = await work(backend, lambda db: reports.complete(db, [Failed(second, b"")], [], now, Rings()))

    assert many < 1.5 * few


async def test_a_task_without_limits_touches_no_table_of_them(backend: SQLiteBackend) -> None:
    now = backend._now()
    held: list[Held] = []

    def live(db: Any) -> None:
        enqueue.enqueue(db, [[new_task(queue="plain")], new_tasks(3, queue="plain")], now, Rings())
        held.extend(task.held for task in reserve.reserve(db, wanted(backend, ["plain"], 4), Rings()).tasks)
        reports.complete(db, [Succeeded(one, b"") for one in held], [], now, Rings())

    planner = await plan(backend, live)

    assert len(held) == 4
    texts = [
        sql for sql, _ in planner.plans if "sitq_limits" in sql or "sitq_starts" in sql or "sitq_notes" in sql
    ]
    assert texts == []
