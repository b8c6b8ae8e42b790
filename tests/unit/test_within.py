"""Which connections of an application can be written through, and what becomes of its transaction in each case."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import aiosqlite
import pytest

from sitq import (
    BackendConnectionError,
    BackendSchemaError,
    BackendTimeoutError,
    StorageFullError,
    TaskQueue,
    ValidationError,
)
from sitq.backends.base import finished
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import NewTask, TaskId
from tests.application import KINDS, Application, Kind, application
from tests.support import PATIENCE, FakeClock, everything, found_ids, new_task, new_tasks, record
from tests.unit import processes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path, clock=FakeClock(), durability="fast", busy_timeout=0.05)
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture(params=KINDS)
async def app(
    request: pytest.FixtureRequest, backend: SQLiteBackend, path: Path
) -> AsyncIterator[Application]:
    async with application(path, cast("Kind", request.param), timeout=0.05) as app:
        yield app


@pytest.fixture
def db(backend: SQLiteBackend, path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=0.05)) as db:
        db.execute("CREATE TABLE orders (number INTEGER)")
        yield db


def enqueue(backend: SQLiteBackend, db: sqlite3.Connection, *tasks: NewTask) -> list[TaskId]:
    return [one.id for one in finished(backend.within(db).enqueue(tasks or [new_task("a")]))]


def begin(db: sqlite3.Connection) -> None:
    db.execute("BEGIN")


# -- What is no connection to write through --------------------------------------------------------


@pytest.mark.parametrize("given", [None, "tasks.db", object()], ids=["none", "path", "object"])
async def test_something_else_is_refused_by_its_kind(backend: SQLiteBackend, given: object) -> None:
    with pytest.raises(ValidationError, match=f"connection is a {type(given).__name__}: give an open"):
        backend.within(given)


async def test_a_connection_to_another_file(backend: SQLiteBackend, tmp_path: Path, path: Path) -> None:
    for other in (tmp_path / "other.db", ":memory:"):
        with closing(sqlite3.connect(other)) as db:
            begin(db)
            with pytest.raises(
                ValidationError, match=r"connection is to .*(other.db|memory), and the queue is in"
            ) as e:
                enqueue(backend, db)
            assert str(path) in str(e.value)
            assert db.in_transaction


async def test_the_file_attached_to_another_one(backend: SQLiteBackend, path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("ATTACH ? AS tasks", (str(path),))
        with pytest.raises(ValidationError, match="attached as 'tasks': it must be the main database"):
            enqueue(backend, db)
        assert not db.in_transaction


async def test_another_file_attached_to_it_is_no_matter(
    backend: SQLiteBackend, db: sqlite3.Connection, tmp_path: Path
) -> None:
    """Whatever its tables, and those in `temp`, are called."""
    db.execute("ATTACH ? AS other", (str(tmp_path / "other.db"),))
    db.execute("CREATE TABLE other.sitq_tasks (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    db.execute("CREATE TEMP TABLE numbers (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    db.execute("INSERT INTO numbers DEFAULT VALUES")
    db.commit()
    await backend.enqueue(new_tasks(3))
    enqueue(backend, db, new_task("a"), new_task("b"))
    db.commit()

    assert [task.seq for task in await everything(backend)] == [5, 4, 3, 2, 1]


async def test_the_file_under_another_path(
    backend: SQLiteBackend, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = ["tasks.db", "link.db", "folder/tasks.db", f"file:{path}?mode=rw"]
    for name in names:
        with closing(sqlite3.connect(name, uri=True)) as db:
            enqueue(backend, db, new_task(name))
            db.commit()

    assert await found_ids(backend) == names[::-1]


async def test_a_second_hard_link_is_not_the_file(backend: SQLiteBackend, path: Path, tmp_path: Path) -> None:
    """SQLite keeps a log beside each name; two of them ruin the file."""
    os.link(path, tmp_path / "second.db")
    with (
        closing(sqlite3.connect(tmp_path / "second.db")) as db,
        pytest.raises(ValidationError, match=r"second\.db"),
    ):
        enqueue(backend, db)


async def test_a_closed_connection(backend: SQLiteBackend, path: Path) -> None:
    async with application(path, "sqlite3") as plain, application(path, "aiosqlite") as other:
        insides = [backend.within(app.connection) for app in (plain, other)]
    for inside in insides:
        with pytest.raises(ValidationError, match="connection is closed: give an open one"):
            await inside.enqueue([new_task()])


async def test_an_aiosqlite_connection_that_was_not_awaited(backend: SQLiteBackend, path: Path) -> None:
    with pytest.raises(ValidationError, match="connection is closed"):
        await backend.within(aiosqlite.connect(path)).enqueue([new_task()])


async def test_a_connection_of_another_thread(backend: SQLiteBackend, db: sqlite3.Connection) -> None:
    with pytest.raises(ValidationError, match=r"connection cannot be used here: .*thread"):
        await asyncio.to_thread(enqueue, backend, db)
    assert not db.in_transaction
    assert enqueue(backend, db) == ["a"]


async def test_a_connection_that_threads_share(backend: SQLiteBackend, path: Path) -> None:
    with closing(sqlite3.connect(path, check_same_thread=False)) as db:
        assert await asyncio.to_thread(enqueue, backend, db) == ["a"]
        db.commit()
    assert await found_ids(backend) == ["a"]


@pytest.mark.parametrize("how", ["file", "pragma"])
async def test_a_connection_for_reading(backend: SQLiteBackend, path: Path, how: str) -> None:
    name = f"file:{path}?mode=ro" if how == "file" else str(path)
    with closing(sqlite3.connect(name, uri=True)) as db:
        if how == "pragma":
            db.execute("PRAGMA query_only = 1")
        begin(db)
        with pytest.raises(ValidationError, match=r"connection is for reading only .*: open it for writing"):
            enqueue(backend, db)
        assert db.in_transaction


async def test_a_queue_that_is_not_open(path: Path) -> None:
    backend = SQLiteBackend(path)
    with closing(sqlite3.connect(path)) as db:
        inside = backend.within(db)
        with pytest.raises(BackendConnectionError, match="not open"):
            await inside.enqueue([new_task()])
        await backend.open()
        await inside.enqueue([new_task("a")])
        db.commit()
        await backend.close()
        with pytest.raises(BackendConnectionError, match="not open"):
            await inside.enqueue([new_task()])


async def test_a_transaction_that_is_older_than_the_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE orders (number INTEGER)")
        begin(db)
        db.execute("SELECT * FROM orders").fetchall()
        backend = SQLiteBackend(path)
        await backend.open()
        with pytest.raises(
            (ValidationError, BackendTimeoutError), match=r"open the queue first|Roll back and repeat"
        ):
            enqueue(backend, db)
        db.rollback()
        assert enqueue(backend, db) == ["a"]
        db.rollback()
        await backend.close()


async def test_a_file_without_tables(tmp_path: Path, path: Path) -> None:
    """The queue's file was replaced behind its back."""
    backend = SQLiteBackend(path)
    await backend.open()
    for name in ("tasks.db", "tasks.db-wal", "tasks.db-shm"):
        (tmp_path / name).unlink()
    with closing(sqlite3.connect(path)) as db, pytest.raises(ValidationError, match="open the queue first"):
        enqueue(backend, db)
    await backend.close()


async def test_tables_of_another_version(backend: SQLiteBackend, db: sqlite3.Connection) -> None:
    db.execute("UPDATE sitq_meta SET value = 99 WHERE key = 'schema_version'")
    with pytest.raises(BackendSchemaError, match="schema 99"):
        enqueue(backend, db)
    db.rollback()


async def test_a_converter_that_changes_what_is_read(backend: SQLiteBackend, path: Path) -> None:
    sqlite3.register_converter("INTEGER", lambda data: f"<{data!r}>")
    try:
        connected = closing(sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES))
        with connected as db, pytest.raises(ValidationError, match="detect_types"):
            enqueue(backend, db)
    finally:
        sqlite3.converters.pop("INTEGER")  # type: ignore[attr-defined]


# -- How the transaction is controlled -------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"isolation_level": None}, {"autocommit": True}], ids=["level", "autocommit"]
)
async def test_a_connection_that_commits_each_statement(
    backend: SQLiteBackend, path: Path, options: dict[str, Any]
) -> None:
    with closing(sqlite3.connect(path, **options)) as db:
        with pytest.raises(ValidationError, match=r"no open transaction .*: execute BEGIN IMMEDIATE before"):
            enqueue(backend, db)
        assert not db.in_transaction
        assert await everything(backend) == []

        db.execute("BEGIN")
        enqueue(backend, db)
        assert db.in_transaction
        assert await everything(backend) == []
        db.execute("COMMIT")
    assert await found_ids(backend) == ["a"]


@pytest.mark.parametrize(
    "options",
    [{}, {"isolation_level": "IMMEDIATE"}, {"isolation_level": "EXCLUSIVE"}, {"autocommit": False}],
    ids=["deferred", "immediate", "exclusive", "pep 249"],
)
async def test_a_connection_that_begins_by_itself(
    backend: SQLiteBackend, path: Path, options: dict[str, Any]
) -> None:
    with closing(sqlite3.connect(path, **options)) as db:
        enqueue(backend, db, new_task("a"))
        assert db.in_transaction
        db.rollback()
        enqueue(backend, db, new_task("b"))
        enqueue(backend, db, new_task("c"))
        db.commit()
        enqueue(backend, db, new_task("d"))
    assert await found_ids(backend) == ["c", "b"]


async def test_what_was_begun_for_a_call_that_fails_is_ended_with_it(
    backend: SQLiteBackend, db: sqlite3.Connection
) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011
        enqueue(backend, db, new_task(name=cast("str", object())))
    assert not db.in_transaction


async def test_the_context_manager_of_a_connection(backend: SQLiteBackend, db: sqlite3.Connection) -> None:
    with pytest.raises(ZeroDivisionError), db:  # noqa: PT012
        enqueue(backend, db, new_task("a"))
        raise ZeroDivisionError
    with db:
        enqueue(backend, db, new_task("b"))
    assert await found_ids(backend) == ["b"]


# -- What the application has set stays, and does not matter ---------------------------------------


class Rows(sqlite3.Connection):
    """A connection that is not of the plain class."""


@pytest.mark.parametrize(
    "row_factory", [sqlite3.Row, lambda cursor, row: {"n": len(row)}, lambda cursor, row: 1 // 0]
)
@pytest.mark.parametrize("text_factory", [bytes, lambda data: "?"])
async def test_rows_and_texts_as_the_application_wants_them(
    app: Application, backend: SQLiteBackend, row_factory: Any, text_factory: Any
) -> None:
    app.connection.row_factory, app.connection.text_factory = row_factory, text_factory
    inside = backend.within(app.connection)
    for _ in range(2):
        await inside.enqueue([new_task("a"), *new_tasks(2)], max_pending={"default": 5})
    with pytest.raises(Exception):  # noqa: B017, PT011
        await inside.enqueue([new_task(name=cast("str", object()))])

    assert (app.connection.row_factory, app.connection.text_factory) == (row_factory, text_factory)
    await app.commit()
    assert len(await everything(backend)) == 5


@pytest.mark.parametrize(
    "pragma", ["foreign_keys", "recursive_triggers", "case_sensitive_like", "cell_size_check"]
)
async def test_a_connection_with_switches(backend: SQLiteBackend, path: Path, pragma: str) -> None:
    with closing(sqlite3.connect(path, factory=Rows, cached_statements=0)) as db:
        db.execute(f"PRAGMA {pragma} = 1")
        enqueue(backend, db, new_task("a"), new_task("b"))
        db.commit()
    assert await found_ids(backend) == ["b", "a"]


async def test_a_foreign_key_that_is_deferred_is_checked_by_the_commit(
    backend: SQLiteBackend, db: sqlite3.Connection
) -> None:
    db.execute("PRAGMA foreign_keys = 1")
    db.execute("CREATE TABLE parts (number INTEGER PRIMARY KEY)")
    db.execute("CREATE TABLE uses (part INTEGER REFERENCES parts DEFERRABLE INITIALLY DEFERRED)")
    db.execute("INSERT INTO uses VALUES (1)")
    enqueue(backend, db)
    with pytest.raises(sqlite3.IntegrityError):
        db.commit()
    db.execute("INSERT INTO parts VALUES (1)")
    db.commit()
    assert await found_ids(backend) == ["a"]


async def test_an_unfinished_select_goes_on(backend: SQLiteBackend, db: sqlite3.Connection) -> None:
    db.executemany("INSERT INTO orders VALUES (?)", [(number,) for number in range(1000)])
    db.commit()
    db.row_factory = sqlite3.Row
    reading = db.execute("SELECT number FROM orders ORDER BY number")
    assert reading.fetchone()["number"] == 0
    enqueue(backend, db)
    assert [row["number"] for row in reading] == list(range(1, 1000))
    db.commit()
    assert await found_ids(backend) == ["a"]


async def test_an_unfinished_select_survives_a_call_that_fails(
    backend: SQLiteBackend, db: sqlite3.Connection
) -> None:
    db.executemany("INSERT INTO orders VALUES (?)", [(number,) for number in range(1000)])
    reading = db.execute("SELECT number FROM orders ORDER BY rowid")
    reading.fetchone()
    with pytest.raises(Exception):  # noqa: B017, PT011
        enqueue(backend, db, new_task("a"), new_task(name=cast("str", object())))
    assert len(reading.fetchall()) == 999
    db.commit()
    assert await everything(backend) == []


async def test_an_unfinished_insert_is_refused(backend: SQLiteBackend, db: sqlite3.Connection) -> None:
    begin(db)
    writing = db.execute("INSERT INTO orders VALUES (1), (2) RETURNING number")
    try:
        enqueue(backend, db)
    except ValidationError as error:
        assert "not finished" in str(error)  # noqa: PT017  # some versions of SQLite allow it
    assert len(writing.fetchall()) == 2
    assert db.in_transaction
    enqueue(backend, db)
    db.commit()
    assert await found_ids(backend) == ["a"]


# -- Locks -----------------------------------------------------------------------------------------


async def test_a_transaction_that_has_read_what_was_overwritten(
    backend: SQLiteBackend, app: Application
) -> None:
    await app.execute("BEGIN")
    assert await app.orders() == []
    await backend.enqueue([new_task("in between")])

    with pytest.raises(
        BackendTimeoutError, match=r"has read, and somebody else has written .* BEGIN IMMEDIATE"
    ):
        await backend.within(app.connection).enqueue([new_task("a")])

    assert app.connection.in_transaction
    assert await app.execute("SELECT id FROM sitq_tasks") == [], "it sees what it saw"
    await app.rollback()
    await backend.within(app.connection).enqueue([new_task("a")])
    await app.commit()
    assert await found_ids(backend) == ["a", "in between"]


async def test_a_transaction_that_has_not_read_waits_for_its_turn(backend: SQLiteBackend, path: Path) -> None:
    """Reading first would fix what it sees, and a write by somebody else could no longer be waited for."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with closing(other), closing(sqlite3.connect(path, timeout=PATIENCE)) as db:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE sitq_meta SET value = value + 1 WHERE key = 'stale_outcomes'")
        begin(db)
        threading.Timer(0.2, other.execute, ["COMMIT"]).start()
        enqueue(backend, db, *new_tasks(2))
        db.commit()
    assert len(await everything(backend)) == 2


async def test_a_lock_that_somebody_else_keeps(backend: SQLiteBackend, app: Application, path: Path) -> None:
    await app.execute("BEGIN")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendTimeoutError, match=r"timeout of your connection .*wrote nothing"):
            await backend.within(app.connection).enqueue([new_task()])
    assert app.connection.in_transaction
    await app.order(1)
    await app.commit()
    assert await everything(backend) == []


async def test_a_disk_that_is_full(backend: SQLiteBackend, db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO orders VALUES (1)")
    [[pages]] = db.execute("PRAGMA page_count").fetchall()
    db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StorageFullError):
        enqueue(backend, db, new_task(payload=b"x" * 1_000_000))
    if db.in_transaction:
        assert db.execute("SELECT number FROM orders").fetchall() == [(1,)]
    db.rollback()
    assert await everything(backend) == []


async def test_an_interrupt_that_ends_the_transaction_is_told(
    backend: SQLiteBackend, db: sqlite3.Connection
) -> None:
    """SQLite rolls all of it back then, the rows of the application included."""
    begin(db)
    db.execute("INSERT INTO orders VALUES (1)")
    db.set_progress_handler(lambda: 1, 1)
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            enqueue(backend, db)
    finally:
        db.set_progress_handler(None, 0)
    told = "rolled back the whole transaction" in "".join(getattr(caught.value, "__notes__", ()))
    assert told is not db.in_transaction


# -- Who leaves ------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_leaves_no_half_of_a_batch(backend: SQLiteBackend, path: Path) -> None:
    async with application(path, "aiosqlite") as app:
        inside = backend.within(app.connection)
        held_up, entered = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            assert held_up.wait(PATIENCE)

        app.connection._tx.put_nowait((None, hold))
        await asyncio.to_thread(entered.wait, PATIENCE)
        waiting = asyncio.create_task(inside.enqueue(new_tasks(3)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        held_up.set()
        await app.order(1)
        await app.commit()

        assert waiting.cancelled()
        assert await everything(backend) == [], "nobody waited for it when it was its turn"

        began = threading.Event()
        await app.connection.create_function("arrive", 0, began.set)
        await app.execute(
            "CREATE TEMP TRIGGER slow AFTER INSERT ON main.sitq_payloads BEGIN SELECT arrive(); END"
        )
        running = asyncio.create_task(inside.enqueue(new_tasks(100)))
        await asyncio.to_thread(began.wait, PATIENCE)
        running.cancel()
        await asyncio.wait([running])
        await app.commit()

    assert len(await everything(backend)) == 100


async def test_a_commit_that_is_handed_over_later_comes_later(backend: SQLiteBackend, path: Path) -> None:
    async with application(path, "aiosqlite") as app:
        await asyncio.gather(backend.within(app.connection).enqueue([new_task("a")]), app.commit())

    assert await found_ids(backend) == ["a"]


# -- The private touch on aiosqlite ----------------------------------------------------------------


async def test_aiosqlite_runs_a_function_on_the_thread_of_its_connection(path: Path) -> None:
    async with aiosqlite.connect(path) as connection:
        ran: list[Any] = []

        def run() -> str:
            ran.append((threading.current_thread(), connection._conn.in_transaction))
            return "value"

        assert await connection._execute(run) == "value"
        with pytest.raises(ZeroDivisionError):
            await connection._execute(lambda: 1 // 0)
    [(thread, in_transaction)] = ran
    assert thread is not threading.current_thread()
    assert in_transaction is False
    with pytest.raises(ValueError, match=r"^Connection closed$"):
        await connection._execute(run)
    with pytest.raises(ValueError, match=r"^no active connection$"):
        _ = connection._conn


# -- Fork ------------------------------------------------------------------------------------------

FORK = """
import asyncio, os, sqlite3, sys
from sitq import BackendConnectionError, SyncTaskQueue, TaskQueue

with SyncTaskQueue(sys.argv[1]) as queue:
    child = os.fork()
    if child == 0:
        db = sqlite3.connect(sys.argv[1])
        try:
            queue.within(db).enqueue(print)
        except BackendConnectionError as error:
            os._exit(0 if "fork" in str(error) and not db.in_transaction else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    db = sqlite3.connect(sys.argv[1])
    queue.within(db).enqueue(print)
    db.commit()
    db.close()
    print(len(queue.find()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_is_refused(path: Path) -> None:
    assert processes.run(FORK, path) == "1\n"


# -- TaskQueue -------------------------------------------------------------------------------------


async def test_a_queue_does_not_open_itself_in_the_middle_of_a_transaction(path: Path) -> None:
    queue = TaskQueue(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE orders (number INTEGER)")
        begin(db)
        with pytest.raises(Exception, match="open it before your transaction begins"):
            await queue.within(db).enqueue(print)
        assert db.in_transaction


async def test_what_is_unset_again_while_it_runs_stays_as_it_was_set(
    backend: SQLiteBackend, path: Path
) -> None:
    """An aiosqlite connection takes a row factory from any thread, at any time."""
    async with application(path, "aiosqlite") as app:

        def change() -> None:
            app.connection.row_factory = sqlite3.Row

        await app.connection.create_function("change", 0, change)
        await app.execute("CREATE TEMP TRIGGER t AFTER INSERT ON main.sitq_tasks BEGIN SELECT change(); END")
        await backend.within(app.connection).enqueue([new_task("a")])
        assert app.connection.row_factory is sqlite3.Row
        await app.commit()
    assert (await record(backend, "a")).id == "a"
