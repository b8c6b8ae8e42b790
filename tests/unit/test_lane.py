"""The database thread: group commit, failed operations, unknown outcomes, several loops, start and stop."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from sitq import BackendConnectionError, BackendError, BackendTimeoutError, StorageFullError
from sitq.backends.sqlite import SQLiteBackend, lane
from sitq.backends.sqlite.lane import Lane
from sitq.model import Retried, Status, Succeeded
from tests.support import LEASE, PATIENCE, everything, new_task, new_tasks, record, reserve_one


class Traced:
    """A lane on a file of its own, and every statement that its connections ran."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statements: list[str] = []
        self.connections: list[sqlite3.Connection] = []
        self.lane = Lane(self.connect, transact=True)

    def connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0.05)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE IF NOT EXISTS notes (value UNIQUE)")
        db.set_trace_callback(self.statements.append)
        self.connections.append(db)
        return db

    def count(self, statement: str) -> int:
        return self.statements.count(statement)

    def stored(self) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as db:
            return [row[0] for row in db.execute("SELECT value FROM notes ORDER BY rowid")]


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[Traced]:
    traced = Traced(tmp_path / "lane.db")
    await traced.lane.start()
    yield traced
    await traced.lane.stop()


def add(value: Any) -> Callable[[sqlite3.Connection], Any]:
    def operation(db: sqlite3.Connection) -> Any:
        db.execute("INSERT INTO notes VALUES (?)", (value,))
        return value

    return operation


# -- The one private touch -------------------------------------------------------------------------


async def test_the_queue_of_aiosqlite_takes_functions_without_a_future() -> None:
    """What `Lane._send` rests on. If this fails after an update of aiosqlite, look there."""
    connection = aiosqlite.Connection(lambda: sqlite3.connect(":memory:", check_same_thread=False), 64)
    await connection
    ran = threading.Event()
    where: list[int] = []
    connection._tx.put_nowait((None, lambda: (where.append(threading.get_ident()), ran.set())))
    assert await asyncio.to_thread(ran.wait, PATIENCE)
    assert where == [connection._thread.ident]
    await connection.close()
    await asyncio.to_thread(connection._thread.join, PATIENCE)
    assert not connection._thread.is_alive()


# -- Group commit ----------------------------------------------------------------------------------


async def test_what_is_asked_in_one_turn_is_one_transaction(traced: Traced) -> None:
    assert await asyncio.gather(*(traced.lane.run(add(number)) for number in range(100))) == list(range(100))
    assert traced.count("BEGIN IMMEDIATE") == traced.count("COMMIT") == 1
    assert traced.stored() == list(range(100))


async def test_a_lone_caller_is_one_transaction(traced: Traced) -> None:
    for number in range(3):
        await traced.lane.run(add(number))
    assert traced.count("COMMIT") == 3


async def test_a_group_is_bounded(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "MAX_GROUP", 10)
    await asyncio.gather(*(traced.lane.run(add(number)) for number in range(95)))
    assert traced.count("COMMIT") == 10


async def test_one_bad_operation_fails_alone(traced: Traced) -> None:
    await traced.lane.run(add("taken"))
    calls = [add(1), add("taken"), add(2), lambda db: 1 / 0, add(3)]
    answers = await asyncio.gather(*map(traced.lane.run, calls), return_exceptions=True)
    assert [answers[index] for index in (0, 2, 4)] == [1, 2, 3]
    assert isinstance(answers[1], BackendError)
    assert isinstance(answers[1].__cause__, sqlite3.IntegrityError)
    assert isinstance(answers[3], ZeroDivisionError)
    assert traced.stored() == ["taken", 1, 2, 3]


async def test_a_bad_operation_leaves_no_half_of_itself(traced: Traced) -> None:
    def half(db: sqlite3.Connection) -> None:
        add("half")(db)
        raise ValueError("and then")

    with pytest.raises(ValueError, match="and then"):
        await traced.lane.run(half)
    assert traced.stored() == []
    assert not traced.connections[0].in_transaction


async def test_a_cancelled_caller_abandons_the_wait_and_no_transaction(traced: Traced) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        entered.set()
        assert leave.wait(PATIENCE)
        add("slow")(db)

    caller = asyncio.create_task(traced.lane.run(slow))
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    caller.cancel()
    waiting = asyncio.create_task(traced.lane.run(add("never wanted")))
    await asyncio.sleep(0)
    waiting.cancel()
    leave.set()
    await asyncio.wait([caller, waiting])
    assert caller.cancelled()
    assert waiting.cancelled()
    assert await traced.lane.run(add("after")) == "after"
    assert traced.stored() == ["slow", "after"]


async def test_a_failure_after_the_commit_is_not_a_failed_transaction(tmp_path: Path) -> None:
    def fail(db: sqlite3.Connection) -> None:
        raise UnicodeEncodeError("utf-8", "x", 0, 1, "a bug in the doorbell")

    traced = Traced(tmp_path / "lane.db")
    traced.lane = Lane(traced.connect, transact=True, after_commit=fail)
    await traced.lane.start()
    assert await asyncio.gather(traced.lane.run(add(1)), traced.lane.run(add(2))) == [1, 2]
    assert traced.stored() == [1, 2]
    await traced.lane.stop()


# -- A commit whose outcome is unknown -------------------------------------------------------------


def failing_commit(
    monkeypatch: pytest.MonkeyPatch, *, lands: bool, times: int = 1, code: int = sqlite3.SQLITE_IOERR
) -> None:
    """As a disk that fails during a commit: the mark is in the log or it is not, and nobody is told which."""
    real, left = lane.commit, [times]

    def commit(db: sqlite3.Connection) -> None:
        if left[0]:
            left[0] -= 1
            if lands:
                real(db)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = code
            raise error
        real(db)

    monkeypatch.setattr(lane, "commit", commit)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "tasks.db", busy_timeout=0.05)
    await backend.open()
    yield backend
    await backend.close()


LANDS = pytest.mark.parametrize("lands", [False, True], ids=["before", "after"])


@LANDS
async def test_an_enqueue_whose_commit_fails_is_neither_lost_nor_doubled(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, lands: bool
) -> None:
    failing_commit(monkeypatch, lands=lands)
    answers = await backend.enqueue([new_task("a"), new_task("b")])
    assert [answer.id for answer in answers] == ["a", "b"]
    assert [answer.created for answer in answers] == [True, True]
    assert sorted(task.id for task in await everything(backend)) == ["a", "b"]


@LANDS
async def test_a_reserve_whose_commit_fails_hands_out_each_task_once(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, lands: bool
) -> None:
    await backend.enqueue([new_task("a"), new_task("b")])
    failing_commit(monkeypatch, lands=lands)
    tasks, _ = await backend.reserve("w", None, 10, LEASE)
    assert sorted((task.id, task.attempt, task.crashes) for task in tasks) == [("a", 1, 0), ("b", 1, 0)]
    # What was handed out is what is stored: its outcomes count.
    assert (await backend.complete([Succeeded(task.held, b"1") for task in tasks])).accepted == 2


@LANDS
@pytest.mark.parametrize("make", [lambda held: Succeeded(held, b"1"), "retried"])
async def test_a_complete_whose_commit_fails_is_accepted(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, lands: bool, make: Any
) -> None:
    await backend.enqueue([new_task("a")])
    task = await reserve_one(backend)
    outcome = Retried(task.held, backend._clock.now(), b"{}") if make == "retried" else make(task.held)
    failing_commit(monkeypatch, lands=lands)
    assert await backend.complete([outcome]) == (1, ())
    stored = await record(backend, "a")
    assert stored.status is (Status.PENDING if make == "retried" else Status.SUCCESS)
    assert stored.attempt == 1
    assert (await backend.stats()).stale_outcomes == 0


@LANDS
async def test_a_commit_that_fails_again_is_unknown_to_everybody_in_it(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, lands: bool
) -> None:
    failing_commit(monkeypatch, lands=lands, times=2)
    answers = await asyncio.gather(
        *(backend.enqueue([task]) for task in new_tasks(3)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [type(answers[0])] * 3
    assert isinstance(answers[0], BackendError)
    assert not isinstance(answers[0], StorageFullError | BackendTimeoutError)
    assert "unknown" in str(answers[0])
    assert len(await everything(backend)) in ((3,) if lands else (0,))
    await backend.enqueue([new_task("after")])  # with a new handle the storage serves again
    assert (await record(backend, "after")).status is Status.PENDING


async def test_the_handle_is_closed_and_opened_anew(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_commit(monkeypatch, lands=False)
    assert await traced.lane.run(add(1)) == 1
    assert len(traced.connections) == 2
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        traced.connections[0].execute("SELECT 1")
    await traced.lane.stop()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        traced.connections[1].execute("SELECT 1")
    assert traced.stored() == [1]


async def test_a_full_disk_is_known_to_have_taken_nothing(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_commit(monkeypatch, lands=False, code=sqlite3.SQLITE_FULL)
    with pytest.raises(StorageFullError, match="nothing was written"):
        await backend.enqueue([new_task("a")])
    assert await everything(backend) == []
    await backend.enqueue([new_task("a")])


async def test_a_database_that_may_not_grow_is_full(backend: SQLiteBackend) -> None:
    def limit(db: sqlite3.Connection) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 4}")

    await backend._writer.run(limit)
    with pytest.raises(StorageFullError):
        await backend.enqueue([new_task("big", payload=bytes(1_000_000))])
    assert await everything(backend) == []
    await backend.enqueue([new_task("small")])
    assert (await record(backend, "small")).status is Status.PENDING


# -- Another process has the write lock ------------------------------------------------------------


async def test_a_foreign_transaction_makes_a_timeout_and_nothing_is_written(
    backend: SQLiteBackend, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        answers = await asyncio.gather(
            *(backend.enqueue([task]) for task in new_tasks(50)), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {BackendTimeoutError}
        assert await everything(backend) == []  # reading goes on
        foreign.execute("ROLLBACK")
    await backend.enqueue([new_task("after")])
    assert [task.id for task in await everything(backend)] == ["after"]


# -- Several loops ---------------------------------------------------------------------------------


async def test_another_loop_is_served_while_the_first_one_is_blocked(traced: Traced) -> None:
    answered = threading.Event()

    def other_loop() -> None:
        assert asyncio.run(traced.lane.run(add("from the other loop"))) == "from the other loop"
        answered.set()

    # The promise of this loop to send a drain stays open while it is blocked.
    waiting = asyncio.ensure_future(traced.lane.run(add("from here")))
    await asyncio.sleep(0)
    thread = threading.Thread(target=other_loop)
    thread.start()
    assert answered.wait(PATIENCE), "nobody ran the operation"
    assert await waiting == "from here"
    thread.join()


async def test_many_loops_at_once(traced: Traced) -> None:
    def work(number: int) -> None:
        async def main() -> None:
            for turn in range(20):
                await asyncio.gather(
                    *(traced.lane.run(add((number, turn, each).__repr__())) for each in range(5))
                )

        asyncio.run(main())

    await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(4)))
    assert len(traced.stored()) == 400


# -- Open and closed -------------------------------------------------------------------------------


async def test_before_the_start_and_after_the_stop_it_says_so(tmp_path: Path) -> None:
    traced = Traced(tmp_path / "lane.db")
    with pytest.raises(BackendConnectionError, match="not open"):
        await traced.lane.run(add(1))
    await traced.lane.start()
    await traced.lane.stop()
    await traced.lane.stop()
    with pytest.raises(BackendConnectionError, match="not open"):
        await traced.lane.run(add(1))


async def test_stop_finishes_what_was_handed_over(tmp_path: Path) -> None:
    traced = Traced(tmp_path / "lane.db")
    await traced.lane.start()
    waiting = [asyncio.ensure_future(traced.lane.run(add(number))) for number in range(20)]
    await asyncio.sleep(0)
    await traced.lane.stop()
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*waiting) == list(range(20))


async def test_a_connection_that_cannot_be_made_leaves_no_thread(tmp_path: Path) -> None:
    def refuse() -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    broken = Lane(refuse, transact=True)
    with pytest.raises(sqlite3.OperationalError):
        await broken.start()
    await asyncio.to_thread(broken._thread._thread.join, PATIENCE)
    assert not broken._thread._thread.is_alive()


# -- A handle that is no good ----------------------------------------------------------------------


async def test_a_connection_that_cannot_write_is_replaced(tmp_path: Path) -> None:
    """SQLite opens a file for reading alone if it cannot be opened for writing at that moment, and says nothing."""
    path = tmp_path / "lane.db"
    modes = iter(["rwc", "ro", "rw"])

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.as_uri()}?mode={next(modes)}", uri=True, isolation_level=None, check_same_thread=False
        )

    connect().executescript("PRAGMA journal_mode = WAL; CREATE TABLE notes (value)").connection.close()
    writer = Lane(connect, transact=True)
    await writer.start()

    with pytest.raises(BackendConnectionError, match="cannot be written"):
        await writer.run(add("first"))
    await writer.run(add("second"))

    await writer.stop()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT value FROM notes").fetchall() == [("second",)]


async def test_a_file_that_opens_for_reading_alone_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.close()
    whole = sqlite3.connect

    def read_only(database: Any, **options: Any) -> sqlite3.Connection:
        if database == ":memory:":
            return whole(database, **options)
        return whole(f"{path.as_uri()}?mode=ro", uri=True, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", read_only)
        with pytest.raises(BackendConnectionError, match="cannot be written"):
            await backend.open()
    await backend.open()
    await backend.enqueue([new_task()])
    await backend.close()
