"""What the database thread promises about locks, durability, loops that block and processes that fork."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from sitq import BackendConnectionError, BackendError, BackendTimeoutError, StorageFullError
from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.sqlite import lane as lane_module
from sitq.backends.sqlite.files import WriteLock
from sitq.backends.sqlite.lane import Lane
from sitq.errors import QueueFullError
from sitq.model import Enqueued, Failed, NewNote, NoteKind, QueueTopic, Status, Succeeded, Unique
from tests.support import LEASE, PATIENCE, FakeClock, everything, new_task, new_tasks, record, running
from tests.unit import processes

NORMAL, FULL = 1, 2


class File:
    """A database with one table, and the record of what was done to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statements: list[str] = []
        with closing(self.connect()) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE notes (text TEXT PRIMARY KEY)")
        self.statements.clear()

    def connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=0.05, isolation_level=None, check_same_thread=False)
        db.set_trace_callback(self.statements.append)
        return db

    def notes(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as db:
            return [row[0] for row in db.execute("SELECT text FROM notes ORDER BY rowid")]


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "notes.db")


@pytest.fixture
async def lane(file: File) -> AsyncIterator[Lane]:
    lane = Lane(file.connect, transact=True)
    await lane.start()
    yield lane
    await lane.stop()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def backend(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock, busy_timeout=0.05)
    await backend.open()
    yield backend
    await backend.close()


def write(text: str) -> Callable[[sqlite3.Connection], str]:
    def operation(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO notes VALUES (?)", (text,))
        return text

    return operation


class Gate:
    """An operation that stops on the database thread until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> None:
        self.entered.set()
        assert self.release.wait(PATIENCE)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, PATIENCE)


@asynccontextmanager
async def held_up(lane: Lane) -> AsyncIterator[None]:
    """Keep the database thread busy, so that what is handed over meanwhile waits."""
    gate = Gate()
    holder = asyncio.create_task(lane.run(gate))
    await gate.reached()
    try:
        yield
    finally:
        gate.release.set()
        await holder


async def turn() -> None:
    """Let every task that is ready run once."""
    await asyncio.sleep(0)


def disk_error(code: int = sqlite3.SQLITE_IOERR_FSYNC) -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


# -- The private touch on aiosqlite ----------------------------------------------------------------


async def test_aiosqlite_runs_items_without_a_future_in_order_on_the_thread_of_the_connection() -> None:
    threads: list[threading.Thread] = []
    order: list[int] = []

    def connector() -> sqlite3.Connection:
        threads.append(threading.current_thread())
        return sqlite3.connect(":memory:", check_same_thread=False)

    connection = await aiosqlite.Connection(connector, iter_chunk_size=64)
    for number in range(50):
        connection._tx.put_nowait((None, lambda number=number: order.append(number)))
    connection._tx.put_nowait((None, lambda: threads.append(threading.current_thread())))
    await connection.close()

    assert order == list(range(50))
    assert threads[0] is threads[1] is not threading.current_thread()


async def test_an_item_that_raises_does_not_end_the_thread_of_aiosqlite() -> None:
    connection = await aiosqlite.connect(":memory:")
    ran = threading.Event()
    connection._tx.put_nowait((None, lambda: 1 // 0))
    connection._tx.put_nowait((None, ran.set))
    await connection.close()

    assert ran.is_set()


# -- Groups ----------------------------------------------------------------------------------------


async def test_callers_that_come_while_the_thread_is_busy_share_the_next_commit(
    lane: Lane, file: File
) -> None:
    async with held_up(lane):
        callers = []
        for number in range(20):  # a turn each
            callers.append(asyncio.create_task(lane.run(write(str(number)))))
            await turn()
    await asyncio.gather(*callers)

    assert file.notes() == [str(number) for number in range(20)]
    assert file.statements.count("COMMIT") == 2


async def test_a_lane_for_reading_opens_no_transactions(file: File) -> None:
    lane = Lane(file.connect, transact=False)
    await lane.start()
    assert await lane.run(lambda db: db.execute("SELECT 1").fetchone()) == (1,)
    with pytest.raises(BackendError):
        await lane.run(lambda db: db.execute("SELECT * FROM missing"))
    assert await lane.run(lambda db: db.in_transaction) is False
    await lane.stop()

    assert not any("BEGIN" in statement for statement in file.statements)


async def test_a_busy_file_is_waited_for_once_and_not_once_a_caller(lane: Lane, file: File) -> None:
    with closing(sqlite3.connect(file.path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        answers = await asyncio.gather(
            *(lane.run(write(str(number))) for number in range(20)), return_exceptions=True
        )

    assert [type(answer) for answer in answers] == [BackendTimeoutError] * 20
    assert file.statements.count("BEGIN IMMEDIATE") == 1


async def test_what_fits_is_stored_beside_what_does_not(backend: SQLiteBackend) -> None:
    def limit(db: sqlite3.Connection) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 5}")

    await backend._writer.run(limit)

    small, big = await asyncio.gather(
        backend.enqueue([new_task("small")]),
        backend.enqueue([new_task("big", payload=b"x" * 1_000_000)]),
        return_exceptions=True,
    )

    assert isinstance(big, StorageFullError)
    assert not isinstance(small, BaseException)
    assert [task.id for task in await everything(backend)] == ["small"]


async def test_a_neighbour_that_leaves_in_flight_changes_nothing_for_the_others(
    lane: Lane, file: File
) -> None:
    gate = Gate()
    stays = asyncio.create_task(lane.run(write("stays")))
    leaves = asyncio.create_task(lane.run(gate))
    await gate.reached()
    leaves.cancel()
    gate.release.set()

    assert await stays == "stays"
    assert file.notes() == ["stays"]


# -- The side lock ---------------------------------------------------------------------------------


async def test_every_change_is_made_under_the_side_lock(tmp_path: Path, clock: FakeClock) -> None:
    """SQLite before 3.51.3 may corrupt a file if a commit meets a checkpoint; the lock keeps them apart."""
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock)
    await backend.open()
    reading = ("SELECT", "PRAGMA", "WITH")
    inside: list[str] = []
    outside: list[str] = []

    def trace(statement: str) -> None:
        if not statement.strip().upper().startswith(reading):
            (inside if backend._lock._taken else outside).append(statement)

    await backend._writer.run(lambda db: db.set_trace_callback(trace))
    await backend._writer.run(add_dead_listener)
    held = await running(backend)
    for _ in range(3):  # a port is known to be dead by the answer to an earlier datagram
        await backend.enqueue([new_task()])
    await backend.heartbeat("w1", [held], LEASE)
    await backend.complete([Succeeded(held, b"")])
    async with backend.listen([QueueTopic()]):
        pass
    await backend.prune(10)
    assert await backend._writer.run(dead_listeners) == 0
    await backend.close()

    assert outside == []
    assert any("DELETE FROM sitq_listeners" in statement for statement in inside)
    assert inside.count("COMMIT") >= 9


DEAD_PORT = 1  # nobody listens at a port of the system


def add_dead_listener(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO sitq_listeners VALUES (?, 'token', 1, 1, 1, ?)", (DEAD_PORT, 2**60))


def dead_listeners(db: sqlite3.Connection) -> int:
    count: int = db.execute("SELECT count(*) FROM sitq_listeners WHERE port = ?", (DEAD_PORT,)).fetchone()[0]
    return count


async def test_the_side_lock_is_held_while_a_commit_is_repeated(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = WriteLock(backend._lock._path)
    got: list[bool] = []

    def probe(db: sqlite3.Connection) -> None:
        with other.held():
            got.append(other._taken)
        if len(got) == 1:
            raise disk_error()
        db.execute("COMMIT")

    monkeypatch.setattr(lane_module, "commit", probe)
    await backend.enqueue([new_task()])
    other.close()

    assert got == [False, False]


# -- Commits that fail -----------------------------------------------------------------------------


async def test_a_disk_that_stays_broken_is_asked_twice_a_group_and_not_twice_a_caller(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await running(backend)
    attempts: list[None] = []

    def broken(db: sqlite3.Connection) -> None:
        attempts.append(None)
        raise disk_error()

    monkeypatch.setattr(lane_module, "commit", broken)
    tasks = new_tasks(5)
    answers = await asyncio.gather(
        *(backend.enqueue([task]) for task in tasks),
        backend.complete([Succeeded(held, b"value")]),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [BackendError] * 6
    assert all("unknown" in str(answer) for answer in answers)
    assert len({id(answer) for answer in answers}) == 6, "each caller raises an exception of its own"
    assert len(attempts) == 2

    monkeypatch.undo()
    await asyncio.gather(*(backend.enqueue([task]) for task in tasks))
    assert (await backend.complete([Succeeded(held, b"value")])).accepted == 1
    assert len(await everything(backend)) == 6


async def test_a_full_queue_is_an_answer_and_undoes_nothing_of_the_others(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[None] = []

    def count(db: sqlite3.Connection) -> None:
        commits.append(None)
        db.execute("COMMIT")

    monkeypatch.setattr(lane_module, "commit", count)
    answers = await asyncio.gather(
        *(backend.enqueue([new_task()], max_pending={"default": 3}) for _ in range(6)),
        return_exceptions=True,
    )

    assert [isinstance(answer, QueueFullError) for answer in answers] == [False] * 3 + [True] * 3
    assert len(await everything(backend)) == 3
    assert len(commits) == 1


async def test_what_may_have_been_written_is_never_called_unwritten(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first commit took place; then another program holds the file, so that the second look cannot be had."""
    with closing(sqlite3.connect(backend.path, isolation_level=None, check_same_thread=False)) as foreign:

        def fail_and_get_in_the_way(db: sqlite3.Connection) -> None:
            db.execute("COMMIT")
            foreign.execute("BEGIN IMMEDIATE")
            raise disk_error()

        monkeypatch.setattr(lane_module, "commit", fail_and_get_in_the_way)
        with pytest.raises(BackendError, match="unknown") as caught:
            await backend.enqueue([new_task("a")])
        foreign.execute("ROLLBACK")

    assert not isinstance(caught.value, BackendTimeoutError | StorageFullError)
    assert (await record(backend, "a")).status is Status.PENDING


@pytest.mark.parametrize("took_place", [True, False], ids=["took place", "did not"])
async def test_an_answer_that_a_second_run_would_not_give_is_kept_if_the_first_one_took_place(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, took_place: bool
) -> None:
    failing = False

    def fails_once(db: sqlite3.Connection) -> None:
        nonlocal failing
        if failing:
            failing = False
            if took_place:
                db.execute("COMMIT")
            raise disk_error()
        db.execute("COMMIT")

    async def cut_off[T](call: Awaitable[T]) -> T:
        nonlocal failing
        failing = True
        answer = await call
        assert not failing
        return answer

    monkeypatch.setattr(lane_module, "commit", fails_once)
    unique = Unique("key")
    stored = await cut_off(backend.enqueue([new_task("a", unique=unique)], max_pending={"default": 1}))
    assert stored == [Enqueued("a", created=True)]
    with pytest.raises(QueueFullError):
        await cut_off(backend.enqueue([new_task("b")], max_pending={"default": 1}))
    held = await running(backend, new_task("c"))
    note = NewNote(held, NoteKind.LOG, b"line")
    await cut_off(backend.heartbeat("w1", [held], LEASE, notes=[note, note]))
    assert len(await backend.notes("c")) == 2
    await cut_off(backend.complete([], notes=[note]))
    assert len(await backend.notes("c")) == 3
    assert (await cut_off(backend.complete([Failed(held, b"error")], notes=[note]))).accepted == 1
    assert len(await backend.notes("c")) == 4
    assert await cut_off(backend.requeue(["c"])) == ["c"]
    assert [note.kind for note in await backend.notes("c", after=4)] == [NoteKind.REQUEUED]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY], ids=["full", "busy"])
async def test_a_commit_that_was_refused_is_a_known_outcome(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    handle = await backend._writer.run(lambda db: db)

    def refuse(db: sqlite3.Connection) -> None:
        raise disk_error(code)

    monkeypatch.setattr(lane_module, "commit", refuse)
    with pytest.raises((StorageFullError, BackendTimeoutError), match="nothing was written"):
        await backend.enqueue([new_task("a")])
    monkeypatch.undo()

    assert await everything(backend) == []
    assert await backend._writer.run(lambda db: db) is handle


# -- Loops -----------------------------------------------------------------------------------------


def elsewhere(make: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine to its end on an event loop in another thread, while this thread is blocked."""
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await make())

    thread = threading.Thread(target=lambda: asyncio.run(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the other loop waits for the one that is blocked"
    return answers[0]


async def test_a_heartbeat_from_another_loop_is_served_while_this_one_is_blocked(
    backend: SQLiteBackend,
) -> None:
    held = await running(backend)

    beat = elsewhere(lambda: backend.heartbeat("w1", [held], LEASE))

    assert beat.lost == frozenset()


async def test_a_loop_that_promised_to_hand_over_and_then_blocks_holds_up_nobody(
    lane: Lane, file: File
) -> None:
    caller = asyncio.create_task(lane.run(write("mine")))
    # Behind the first step of the caller and before the callback with which it hands over.
    asyncio.get_running_loop().call_soon(lambda: elsewhere(lambda: lane.run(write("theirs"))))

    assert await caller == "mine"
    assert file.notes() == ["mine", "theirs"]


async def test_a_loop_that_was_closed_with_a_call_open_hurts_nobody(lane: Lane, file: File) -> None:
    gate = Gate()

    async def leave() -> None:
        call = asyncio.ensure_future(lane.run(gate))
        await gate.reached()
        call.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(leave()))
    thread.start()
    await asyncio.to_thread(thread.join, PATIENCE)
    gate.release.set()

    assert await lane.run(write("next")) == "next"


async def test_a_call_that_meets_a_stop_in_another_thread_is_answered(file: File) -> None:
    """It was let in, then the lane stopped, then it hands over: nobody would run it any more."""
    lane = Lane(file.connect, transact=True)
    await lane.start()
    here = asyncio.get_running_loop()
    outcome: list[BaseException | str] = []

    class Slow(asyncio.SelectorEventLoop):
        armed = False

        def create_future(self) -> asyncio.Future[Any]:
            if self.armed:
                self.armed = False
                asyncio.run_coroutine_threadsafe(lane.stop(), here).result(PATIENCE)
            return super().create_future()

    def other() -> None:
        loop = Slow()

        async def call() -> None:
            loop.armed = True
            try:
                async with asyncio.timeout(PATIENCE):
                    outcome.append(await lane.run(write("a")))
            except BaseException as error:
                outcome.append(error)

        loop.run_until_complete(call())
        loop.close()

    thread = threading.Thread(target=other)
    thread.start()
    await asyncio.to_thread(thread.join, 2 * PATIENCE)

    assert isinstance(outcome[0], BackendConnectionError)
    assert file.notes() == []


# -- Closing ---------------------------------------------------------------------------------------


async def test_closing_succeeds_and_ends_its_threads_while_another_program_holds_the_file(
    backend: SQLiteBackend,
) -> None:
    async with backend.listen([QueueTopic()]):
        pass
    threads = [backend._writer._thread._thread, backend._reader._thread._thread]
    with closing(sqlite3.connect(backend.path, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        await backend.close()

    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
    assert [thread.is_alive() for thread in threads] == [False, False]
    with pytest.raises(BackendConnectionError, match="not open"):
        await backend.stats()


# -- Fork ------------------------------------------------------------------------------------------

FORK = """
import asyncio, json, os, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendConnectionError
from sitq.model import NewTask, QueueTopic, TaskQuery

def task(name):
    return NewTask(id=name, name="work", payload=b"payload")

async def attempt(make):
    try:
        await make()
    except BackendConnectionError as error:
        return str(error)
    return "went through"

async def listen(backend):
    async with backend.listen([QueueTopic()]):
        pass

async def child(backend):
    return {
        "enqueue": await attempt(lambda: backend.enqueue([task("child")])),
        "find": await attempt(lambda: backend.find(TaskQuery())),
        "close": await attempt(backend.close),
    }

backend = SQLiteBackend(sys.argv[1])
other = SQLiteBackend(sys.argv[1])
with asyncio.Runner() as runner:
    runner.run(backend.open())
    runner.run(other.open())
    runner.run(listen(backend))
    runner.run(backend.enqueue([task("before")]))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, json.dumps(asyncio.run(child(backend))).encode())
        os._exit(0)
    os.close(write)
    said = json.loads(os.read(read, 100_000))
    _, status = os.waitpid(pid, 0)
    runner.run(backend.enqueue([task("after")]))

    async def rung():
        async with backend.listen([QueueTopic()]) as signal:
            await other.enqueue([task("rings")])
            return await signal.wait(10)

    said["rung after the child closed"] = runner.run(rung())
    said["status"] = status
    said["ids"] = [one.id for one in runner.run(backend.find(TaskQuery()))]
    runner.run(backend.close())
    runner.run(other.close())
print(json.dumps(said))
"""


def test_a_forked_child_is_refused_and_its_parent_goes_on(tmp_path: Path) -> None:
    said = json.loads(processes.run(FORK, tmp_path / "tasks.db"))

    assert "fork" in said["enqueue"]
    assert "fork" in said["find"]
    assert "Open a new TaskQueue" in said["enqueue"]
    assert said["close"] == "went through"
    assert said["status"] == 0
    assert said["ids"] == ["rings", "after", "before"]
    assert said["rung after the child closed"] is True
    with closing(sqlite3.connect(tmp_path / "tasks.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# -- Durability ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("durability", "acknowledged"), [("full", FULL), ("fast", NORMAL)])
async def test_what_is_acknowledged_is_synced_and_a_reservation_is_not(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    durability: Any,
    acknowledged: int,
) -> None:
    levels: list[int] = []

    def watched(db: sqlite3.Connection) -> None:
        levels.append(db.execute("PRAGMA synchronous").fetchone()[0])
        db.execute("COMMIT")

    backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock, durability=durability)
    await backend.open()
    monkeypatch.setattr(lane_module, "commit", watched)

    async def level(call: Awaitable[Any]) -> int:
        levels.clear()
        await call
        [seen] = levels
        return seen

    assert await level(backend.enqueue([new_task("a"), new_task("b")])) == acknowledged
    assert await level(backend.reserve("w1", None, 1, LEASE, ids=["b"])) == NORMAL
    [task] = (await backend.reserve("w1", None, 1, LEASE, ids=["a"])).tasks
    assert await level(backend.heartbeat("w1", [task.held], LEASE)) == NORMAL
    assert await level(backend.complete([Succeeded(task.held, b"")])) == acknowledged
    assert await level(backend.cancel(["b"])) == acknowledged
    assert await level(backend.requeue(["b"])) == acknowledged
    assert await level(backend.set_paused("mail", True)) == acknowledged
    assert await level(backend.save({"name": b"document"})) == acknowledged
    assert await level(backend.prune(1)) == NORMAL
    # One that wants it is enough for its group.
    together = asyncio.gather(backend.reserve("w1", None, 1, LEASE), backend.enqueue([new_task("c")]))
    assert await level(together) == acknowledged
    await backend.close()


async def test_a_reopened_handle_syncs_as_the_one_before(
    backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []

    def fails_once(db: sqlite3.Connection) -> None:
        levels.append(db.execute("PRAGMA synchronous").fetchone()[0])
        if len(levels) == 1:
            raise disk_error()
        db.execute("COMMIT")

    monkeypatch.setattr(lane_module, "commit", fails_once)
    await backend.enqueue([new_task()])
    await backend.reserve("w1", None, 1, LEASE)

    assert levels == [FULL, FULL, NORMAL]
