"""What seldom happens to the SQLite backend, one by one: errors of every kind, callers that leave, calls that meet."""

import asyncio
import logging
import os
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sitq import BackendConnectionError, BackendError, BackendTimeoutError, StorageFullError, ValidationError
from sitq.backends.sqlite import SQLiteBackend, files, lane, schema
from sitq.backends.sqlite.errors import translated
from sitq.backends.sqlite.lane import Job, Lane
from sitq.backends.sqlite.watch import is_free
from sitq.model import QueueTopic
from tests.support import LEASE, PATIENCE, FakeClock, found_ids, new_task

# -- Errors, as SQLite itself makes them -----------------------------------------------------------


def fresh(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    db.execute("CREATE TABLE IF NOT EXISTS t (value UNIQUE)")
    return db


def cannot_open(path: Path) -> None:
    sqlite3.connect(path / "nowhere" / "tasks.db").close()


def not_a_database(path: Path) -> None:
    path.write_bytes(b"no database " * 100)
    with closing(sqlite3.connect(path)) as db:
        db.execute("SELECT * FROM t")


def read_only(path: Path) -> None:
    fresh(path).close()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.execute("INSERT INTO t VALUES (1)")


def full(path: Path) -> None:
    with closing(fresh(path)) as db:
        db.execute("PRAGMA max_page_count = 1")
        db.execute("INSERT INTO t VALUES (zeroblob(100000))")


def busy(path: Path) -> None:
    with closing(fresh(path)) as one, closing(fresh(path)) as other:
        one.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")


def unreadable(path: Path) -> None:
    with closing(fresh(path)) as db:
        break_disk(path)
        db.execute("SELECT * FROM t")


def break_disk(path: Path) -> None:
    """Let every read of this open file fail: a folder takes its place, which nobody can read from."""
    mine = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if leads_to(fd, path)]
    folder = os.open(path.parent, os.O_RDONLY)
    for descriptor in mine:
        os.dup2(folder, descriptor)
    os.close(folder)


def leads_to(descriptor: Path, path: Path) -> bool:
    try:
        return descriptor.readlink() == path.resolve()
    except FileNotFoundError:  # that of the listing itself
        return False


def against_a_rule(path: Path) -> None:
    with closing(fresh(path)) as db:
        db.execute("INSERT INTO t VALUES (1), (1)")


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are found in /proc")
@pytest.mark.parametrize(
    ("fails", "kind", "words"),
    [
        (cannot_open, BackendConnectionError, "cannot be opened .* its folder exists"),
        (not_a_database, BackendConnectionError, "is damaged or is not a SQLite database"),
        (read_only, BackendConnectionError, "cannot be written .* permissions"),
        (full, StorageFullError, "no space left .* nothing was written"),
        (busy, BackendTimeoutError, "held the write lock .* nothing was written"),
        (unreadable, BackendError, "the disk reported an error .* is unknown"),
        (against_a_rule, BackendError, "^SQLite failed: UNIQUE"),
    ],
    ids=lambda value: value.__name__ if callable(value) and not isinstance(value, type) else "",
)
def test_an_error_of_sqlite_says_what_to_do(
    tmp_path: Path, fails: Callable[[Path], None], kind: type[BackendError], words: str
) -> None:
    with pytest.raises(sqlite3.Error) as caught:
        fails(tmp_path / "tasks.db")
    made = translated(caught.value)
    assert type(made) is kind
    assert made.__cause__ is caught.value
    with pytest.raises(kind, match=words):
        raise made


def test_what_is_not_of_sqlite_stays_as_it_is() -> None:
    for error in (KeyError("x"), StorageFullError("ours already"), KeyboardInterrupt()):
        assert translated(error) is error


# -- Opening ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"durability": "some"}, "durability is 'some'; choose 'full'"),
        ({"busy_timeout": -1}, "busy_timeout is -1; give seconds, 0 or more"),
        ({"busy_timeout": "5"}, "busy_timeout is '5'; give seconds"),
    ],
    ids=["durability", "negative", "text"],
)
def test_a_wrong_setting_is_refused_at_once(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SQLiteBackend("tasks.db", **given)


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system answers others than root, who may write everywhere."""
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(BackendConnectionError, match=f"cannot write in {tmp_path} as"):
        files.prepare(tmp_path / "tasks.db", allow_network_fs=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_link_to_nowhere_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.symlink_to(tmp_path / "nowhere" / "tasks.db")
    with pytest.raises(BackendConnectionError, match=r"cannot open .*tasks\.db for writing .*owner and mode"):
        files.prepare(path, allow_network_fs=False)
    assert not path.exists()


@contextmanager
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Holds the database thread up in the middle of an opening."""
    entered, leave = threading.Event(), threading.Event()
    migrate = schema.migrate

    def slow(db: sqlite3.Connection) -> None:
        entered.set()
        assert leave.wait(PATIENCE)
        migrate(db)

    monkeypatch.setattr(schema, "migrate", slow)
    try:
        yield entered, leave
    finally:
        leave.set()
        monkeypatch.undo()


async def test_who_leaves_while_it_opens_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db")
    before = set(threading.enumerate())
    with gate(monkeypatch) as (entered, leave):
        opening = asyncio.create_task(backend.open())
        assert await asyncio.to_thread(entered.wait, PATIENCE)
        opening.cancel()
        await asyncio.sleep(0)  # it has been told, and goes on all the same
        assert not opening.done()
        leave.set()
        await asyncio.wait([opening])
    assert opening.cancelled()
    left = {thread for thread in threading.enumerate() if thread.name != "sitq-exit"} - before
    for thread in left:
        if not thread.name.startswith("asyncio"):
            await asyncio.to_thread(thread.join, PATIENCE)
            assert not thread.is_alive()
    with pytest.raises(BackendConnectionError, match="not open"):
        await backend.stats()
    await backend.open()
    await backend.enqueue([new_task("a")])
    await backend.close()


async def test_a_migration_that_sqlite_itself_rolls_back_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1); INSERT OR ROLLBACK INTO t VALUES (1)"
    monkeypatch.setitem(schema.MIGRATIONS, 1, script)
    with pytest.raises(BackendError, match="UNIQUE"):
        await SQLiteBackend(tmp_path / "tasks.db").open()
    monkeypatch.undo()
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == []


# -- Calls -----------------------------------------------------------------------------------------


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=FakeClock(), busy_timeout=PATIENCE)
    await backend.open()
    yield backend
    await backend.close()


def listed(path: Path) -> list[tuple[int, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT queues, tasks, cancels FROM sitq_listeners").fetchall()


async def test_who_leaves_before_it_is_on_the_list_announces_itself_again(
    backend: SQLiteBackend, tmp_path: Path
) -> None:
    """What others were told is not known then: the next one that listens must not rely on it."""
    entered, leave = threading.Event(), threading.Event()

    def hold(db: sqlite3.Connection) -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    holding = asyncio.create_task(backend._writer.aside(hold))
    assert await asyncio.to_thread(entered.wait, PATIENCE)

    async def listen() -> None:
        async with backend.listen([QueueTopic("mail")]):
            raise AssertionError("it cannot be on the list yet")

    leaving = asyncio.create_task(listen())
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    leave.set()
    await holding
    assert listed(tmp_path / "tasks.db") == []
    async with backend.listen([QueueTopic("mail")]):
        assert listed(tmp_path / "tasks.db") == [(1, 0, 0)]


async def test_a_list_of_listeners_that_cannot_be_read_costs_a_ring_and_no_task(
    backend: SQLiteBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db:
        db.execute("DROP TABLE sitq_listeners")
    with caplog.at_level(logging.DEBUG, "sitq.sqlite"):
        [answer] = await backend.enqueue([new_task("a")])
    assert answer.created
    assert await found_ids(backend) == ["a"]
    assert "could not ring the other processes; they will poll" in caplog.text


async def test_a_reservation_of_nothing_whose_commit_fails_is_one_of_nothing(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, failures = lane.commit, [1]

    def fail_once(db: sqlite3.Connection) -> None:
        commit(db)
        if failures:
            failures.clear()
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

    monkeypatch.setattr(lane, "commit", fail_once)
    assert (await backend.reserve("w", None, 10, LEASE)).tasks == []
    assert not failures
    await backend.enqueue([new_task("a")])
    assert [task.id for task in (await backend.reserve("w", None, 10, LEASE)).tasks] == ["a"]


# -- The database thread ---------------------------------------------------------------------------


@pytest.fixture
async def notes(tmp_path: Path) -> AsyncIterator[tuple[Lane, list[sqlite3.Connection], list[str]]]:
    """A lane on a file of its own, its connections, and their statements."""
    connections: list[sqlite3.Connection] = []
    statements: list[str] = []

    def connect() -> sqlite3.Connection:
        db = sqlite3.connect(tmp_path / "lane.db", isolation_level=None, check_same_thread=False)
        db.execute("CREATE TABLE IF NOT EXISTS notes (value UNIQUE)")
        db.set_trace_callback(statements.append)
        connections.append(db)
        return db

    made = Lane(connect, transact=True)
    await made.start()
    yield made, connections, statements
    await made.stop()


def write(value: object) -> Callable[[sqlite3.Connection], object]:
    def operation(db: sqlite3.Connection) -> object:
        db.execute("INSERT INTO notes VALUES (?)", (value,))
        return value

    return operation


def stored(tmp_path: Path) -> list[object]:
    with closing(sqlite3.connect(tmp_path / "lane.db")) as db:
        return [row[0] for row in db.execute("SELECT value FROM notes ORDER BY rowid")]


async def test_a_call_that_nobody_waits_for_any_more_is_no_transaction(
    notes: tuple[Lane, list[sqlite3.Connection], list[str]],
) -> None:
    made, _, statements = notes
    entered, leave = threading.Event(), threading.Event()

    def hold(db: sqlite3.Connection) -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    holding = asyncio.create_task(made.aside(hold))
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    waiting = asyncio.create_task(made.run(write("never wanted")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # its drain is in the queue of the thread
    waiting.cancel()
    await asyncio.wait([waiting])
    leave.set()
    await holding
    await made.aside(lambda db: None)  # behind the drain
    assert not [statement for statement in statements if statement.startswith("BEGIN")]
    assert not made._jobs


async def test_a_transaction_that_cannot_be_rolled_back_ends_with_its_connection(
    notes: tuple[Lane, list[sqlite3.Connection], list[str]], tmp_path: Path
) -> None:
    made, connections, _ = notes

    def forbid(action: int, what: str | None, *_: object) -> int:
        refused = action == sqlite3.SQLITE_TRANSACTION and what == "ROLLBACK"
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    def fail(db: sqlite3.Connection) -> None:
        write("half")(db)
        db.set_authorizer(forbid)
        raise ValueError("and then")

    with pytest.raises(ValueError, match="and then"):
        await made.run(fail)
    assert len(connections) == 1
    assert connections[0].in_transaction
    assert await made.run(write("next")) == "next"
    assert len(connections) == 2
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connections[0].execute("SELECT 1")
    assert stored(tmp_path) == ["next"]


async def test_a_call_that_the_last_drain_takes_is_answered(
    notes: tuple[Lane, list[sqlite3.Connection], list[str]], tmp_path: Path
) -> None:
    """It handed over, and the lane stopped in another thread before it could ask whether it is still open."""
    made, _, _ = notes

    class StopsThen(deque[Job]):
        def append(self, job: Job) -> None:
            super().append(job)
            thread = threading.Thread(target=lambda: asyncio.run(made.stop()))
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()

    made._jobs = StopsThen()
    async with asyncio.timeout(PATIENCE):
        assert await made.run(write("last")) == "last"
    assert stored(tmp_path) == ["last"]
    with pytest.raises(BackendConnectionError, match="not open"):
        await made.run(write("too late"))


# -- Connections of the application ----------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are found in /proc")
def test_a_look_at_the_write_lock_that_fails_is_no_answer(tmp_path: Path) -> None:
    """It is neither free nor taken, and the connection waits as long as before."""
    path = tmp_path / "tasks.db"
    fresh(path).close()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=7)) as db:
        assert is_free(db)
        break_disk(path)
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
            is_free(db)
        assert db.execute("PRAGMA busy_timeout").fetchone() == (7000,)
        assert not db.in_transaction


@pytest.mark.skipif(sys.platform == "win32", reason="an open file can be deleted")
async def test_a_connection_whose_file_is_gone_is_not_to_the_queue(
    backend: SQLiteBackend, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE orders (number INTEGER)")
        (tmp_path / "other.db").unlink()
        with pytest.raises(ValidationError, match=r"connection is to .*other\.db, and the queue is in"):
            await backend.within(db).enqueue([new_task("a")])
    assert await found_ids(backend) == []


async def test_a_text_factory_that_is_set_while_it_runs_stays(backend: SQLiteBackend, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)) as db:

        def change() -> None:
            db.text_factory = bytes

        db.create_function("change", 0, change)
        db.execute("CREATE TEMP TRIGGER t AFTER INSERT ON main.sitq_tasks BEGIN SELECT change(); END")
        db.execute("BEGIN IMMEDIATE")
        await backend.within(db).enqueue([new_task("a")])
        db.execute("COMMIT")
        assert db.text_factory is bytes
        assert db.execute("SELECT id FROM sitq_tasks").fetchall() == [(b"a",)]
    assert await found_ids(backend) == ["a"]
