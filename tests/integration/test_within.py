"""Queue, worker and application on one file: tasks and business rows are committed together, at both ends of a task."""

import asyncio
import contextvars
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import aiosqlite
import pytest

from sitq import (
    BackendTimeoutError,
    BackendUnsupportedError,
    QueueClosedError,
    QueueFullError,
    ResultExpiredError,
    Retry,
    RetryPolicy,
    Snooze,
    Status,
    SyncTaskQueue,
    TaskError,
    TaskFailedError,
    TaskQueue,
    TaskSerializationError,
    TaskStaleError,
    ValidationError,
    Worker,
    call,
    current_task,
    task,
)
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.events import (
    ErrorAfterCompletion,
    Event,
    OutcomeRefused,
    StorageFailed,
    TaskEnqueued,
    TaskFailed,
    TaskLogged,
    TaskLost,
    TaskProgressed,
    TaskPublished,
    TaskRetried,
    TaskSucceeded,
)
from tests.application import KINDS, Application, Kind, application
from tests.integration.support import Gate, drain, recorded, run_python, spied_queue, start_python
from tests.support import PATIENCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def shop(path: Path) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(SQLiteBackend(path, durability="fast")) as queue:
        yield queue


@pytest.fixture(params=KINDS)
async def app(request: pytest.FixtureRequest, shop: TaskQueue, path: Path) -> AsyncIterator[Application]:
    async with application(path, cast("Kind", request.param)) as app:
        yield app


gate: Gate
crossed: threading.Event


@pytest.fixture(autouse=True)
def fresh() -> None:
    global gate, crossed
    gate, crossed = Gate(), threading.Event()


def add(a: int, b: int) -> int:
    return a + b


@task(queue="mail", priority=2)
async def mail(to: str) -> str:
    return f"sent to {to}"


# -- enqueue ---------------------------------------------------------------------------------------


async def test_tasks_and_rows_are_committed_together(shop: TaskQueue, app: Application) -> None:
    await app.order(1)
    one = await shop.within(app.connection).enqueue(add, 1, b=2)
    many = await shop.within(app.connection).enqueue_many([call(add, 3, 4), call(mail, "ada")])
    view = shop.within(app.connection).options(metadata={"order": 1}, id="chosen", delay=3600)
    late = await view.enqueue(add, 5, 6)
    assert await shop.find() == []
    await app.commit()

    await drain(shop)
    assert [await handle.result(PATIENCE) for handle in (one, *many)] == [3, 7, "sent to ada"]
    found = await shop.get(late)
    assert (found.id, found.metadata, found.status) == ("chosen", {"order": 1}, Status.PENDING)
    assert (await shop.get(many[1])).queue == "mail"
    assert await app.orders() == [1]


async def test_a_rollback_leaves_no_trace(shop: TaskQueue, app: Application) -> None:
    await app.order(1)
    handle = await shop.within(app.connection).options(unique_key="order-1").enqueue(add, 1, 2)
    await app.rollback()

    assert await shop.find() == []
    with pytest.raises(ResultExpiredError, match="transaction in which it was enqueued was not committed"):
        await handle.result(PATIENCE)
    assert await shop.options(unique_key="order-1").enqueue(add, 1, 2) != handle


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_that_sleeps_starts_it_after_the_commit(
    shop: TaskQueue, path: Path, kind: Kind
) -> None:
    worker = Worker(shop, poll_interval=3600)
    recorder = recorded(worker)
    async with application(path, kind) as app, worker:
        await (await shop.enqueue(add, 0, 0)).result(PATIENCE)  # it waits for a ring from here on
        handle = await shop.within(app.connection).enqueue(add, 1, 2)
        await asyncio.sleep(0.05)
        assert len(recorder.of(TaskSucceeded)) == 1
        await app.commit()
        assert await handle.result(PATIENCE) == 3


WORKER = """
import asyncio, sys
from sitq import TaskQueue, Worker
from sitq.events import TaskSucceeded

async def main():
    queue = TaskQueue(sys.argv[1])
    ended = asyncio.Event()
    queue.on(TaskSucceeded)(lambda event: (print(event.task_id, flush=True), ended.set()))
    async with queue, Worker(queue, poll_interval=3600):
        await asyncio.to_thread(sys.stdin.readline)
        await ended.wait()

asyncio.run(main())
"""


async def test_a_worker_in_another_process_starts_it_after_the_commit(shop: TaskQueue, path: Path) -> None:
    process = start_python(WORKER, path)
    assert process.stdout is not None
    before = await shop.enqueue(add, 1, 1)
    assert (await asyncio.to_thread(process.stdout.readline)).strip() == before

    async with application(path, "aiosqlite") as app:
        handle = await shop.within(app.connection).enqueue(add, 1, 2)
        await app.commit()
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == handle
    _, err = await asyncio.to_thread(process.communicate, "\n", PATIENCE)
    assert process.returncode == 0, err


async def test_a_cancelled_batch_is_there_whole_or_not_at_all(shop: TaskQueue, path: Path) -> None:
    async with application(path, "aiosqlite") as app:
        for number in range(20):
            enqueueing = asyncio.create_task(shop.within(app.connection).enqueue_many([call(add, 1, 1)] * 50))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            enqueueing.cancel()
            await asyncio.wait([enqueueing])
            await app.commit()
            assert len(await shop.find(limit=10_000)) % 50 == 0


async def test_bad_input_leaves_the_transaction_alone(shop: TaskQueue, app: Application) -> None:
    view = shop.within(app.connection)
    await app.order(1)
    with pytest.raises(ValidationError, match=r"does not fit|unexpected|argument"):
        await view.enqueue(cast("Any", add), 1)
    with pytest.raises(TaskSerializationError):
        await view.enqueue(cast("Any", add), threading.Lock(), 1)
    with pytest.raises(ValidationError, match="priority"):
        view.options(priority=99)
    with pytest.raises(ValidationError, match="for 2 tasks"):
        await view.options(id="one").enqueue_many([call(add, 1, 1)] * 2)
    assert app.connection.in_transaction
    await app.commit()
    assert await app.orders() == [1]
    assert await shop.find() == []
    assert await view.enqueue_many([]) == []
    assert not app.connection.in_transaction, "nothing to write, nothing begun"


async def test_max_pending_counts_inside_as_well(path: Path) -> None:
    async with TaskQueue(path, max_pending=2) as queue, application(path, "aiosqlite") as app:
        view = queue.within(app.connection)
        await view.enqueue_many([call(add, 1, 1)] * 2)
        with pytest.raises(QueueFullError):
            await view.enqueue(add, 1, 1)
        await app.commit()
        assert len(await queue.find()) == 2


async def test_no_event_tells_of_what_may_be_rolled_back(shop: TaskQueue, app: Application) -> None:
    heard: list[TaskEnqueued] = []
    shop.on(TaskEnqueued)(heard.append)
    await shop.within(app.connection).enqueue(add, 1, 1)
    await app.commit()
    assert heard == []


async def test_a_plain_enqueue_beside_an_open_transaction_says_what_is_in_the_way(path: Path) -> None:
    async with (
        TaskQueue(SQLiteBackend(path, busy_timeout=0.05)) as queue,
        application(path, "sqlite3") as app,
    ):
        await app.order(1)
        with pytest.raises(BackendTimeoutError, match="Keep transactions on this file short"):
            await queue.enqueue(add, 1, 1)
        await queue.within(app.connection).enqueue(add, 1, 1)
        await app.commit()


async def test_storages_that_cannot_say_so() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        async with TaskQueue(MemoryBackend()) as queue:
            with pytest.raises(BackendUnsupportedError, match=r"MemoryBackend cannot .* a SQLite file can"):
                queue.within(db)
        async with TaskQueue(":memory:") as queue:
            with pytest.raises(ValidationError, match=r"in memory, .*\s*give the queue a file"):
                queue.within(db)


async def test_a_queue_that_is_closed(shop: TaskQueue, app: Application) -> None:
    view = shop.within(app.connection)
    await view.enqueue(add, 1, 1)
    await app.rollback()
    await shop.close()
    with pytest.raises(QueueClosedError, match="open it before your transaction begins"):
        await view.enqueue(add, 1, 1)
    await shop.open()
    await view.enqueue(add, 1, 1)
    await app.rollback()


def test_without_a_loop(path: Path) -> None:
    with SyncTaskQueue(path) as queue, closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE orders (number INTEGER)")
        with db:
            db.execute("INSERT INTO orders VALUES (1)")
            handle = queue.within(db).enqueue(add, 1, b=2)
            [other] = queue.within(db).enqueue_many([call(add, 2, 2)])
            queue.within(db).options(queue="mail").enqueue(add, 3, 3)
            assert queue.find() == []
        assert (handle.status(), other.status()) == (Status.PENDING, Status.PENDING)
        queue.within(db).enqueue(add, 9, 9)
        db.rollback()
        assert len(queue.find()) == 3
        view = queue.within(db)
        with pytest.raises(ValidationError, match="which needs an event loop"):
            queue.within(cast("Any", aiosqlite.connect(path)))
    with closing(sqlite3.connect(path)) as db, pytest.raises(QueueClosedError, match="not open"):
        view.enqueue(add, 1, 1)


# -- complete_in -----------------------------------------------------------------------------------


def on_a_thread(path: str, number: int, then: str = "commit") -> str:
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO orders VALUES (?)", (number,))
        current_task().complete_in(db, {"order": number})
        end(db, then)
    return "not this"


async def on_the_loop(path: str, number: int, then: str = "commit") -> str:
    async with aiosqlite.connect(path) as db:
        await db.execute("INSERT INTO orders VALUES (?)", (number,))
        await current_task().complete_in(db, {"order": number})
        await db._execute(contextvars.copy_context().run, end, db._conn, then)
    return "not this"


async def on_the_loop_with_sqlite3(path: str, number: int, then: str = "commit") -> str:
    return on_a_thread(path, number, then)


def end(db: sqlite3.Connection, then: str) -> None:
    match then:
        case "commit":
            db.commit()
        case "roll back and raise":
            db.rollback()
            raise LookupError("rolled back")
        case "commit and raise":
            db.commit()
            raise LookupError("too late")
        case "commit and snooze":
            db.commit()
            raise Snooze(3600)
        case "commit and retry":
            db.commit()
            raise Retry(3600)
        case "commit and return a lock":
            db.commit()
        case "forget":
            pass
        case "roll back and complete again":
            db.rollback()
            db.execute("INSERT INTO orders VALUES (-1)")
            current_task().complete_in(db, {"order": -1})
            db.commit()
        case "complete twice":
            db.commit()
            db.execute("INSERT INTO orders VALUES (-1)")
            with pytest.raises(TaskStaleError, match=r"does not hold task .* roll your transaction back"):
                current_task().complete_in(db, {"order": -1})
            db.rollback()


FUNCTIONS = [on_a_thread, on_the_loop, on_the_loop_with_sqlite3]


async def orders(path: Path) -> list[int]:
    async with application(path, "sqlite3") as app:
        return await app.orders()


@pytest.fixture
async def ready(shop: TaskQueue, path: Path) -> TaskQueue:
    await orders(path)
    return shop


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_the_row_and_the_success_are_committed_together(
    ready: TaskQueue, path: Path, function: Any
) -> None:
    handle = await ready.enqueue(function, str(path), 7)
    events = await drain(ready)

    assert await handle.result(PATIENCE) == {"order": 7}
    assert await orders(path) == [7]
    assert len(events.of(TaskSucceeded)) == 1
    assert not events.of(OutcomeRefused)
    assert (await ready.stats()).stale_outcomes == 0


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("then", ["commit and raise", "commit and retry"])
async def test_a_success_that_was_committed_stands(
    ready: TaskQueue, path: Path, function: Any, then: str
) -> None:
    handle = await ready.options(retry=3).enqueue(function, str(path), 7, then)
    events = await drain(ready)

    result = await ready.get_result(handle)
    assert (result.status, result.value, result.attempts) == (Status.SUCCESS, {"order": 7}, 1)
    assert await orders(path) == [7]
    [told] = events.of(ErrorAfterCompletion)
    assert told.task_id == handle
    assert told.error_type == ("LookupError" if then == "commit and raise" else "sitq.verbs.Retry")
    assert not [*events.of(TaskFailed), *events.of(TaskRetried), *events.of(OutcomeRefused)]


async def test_a_snooze_after_the_commit_puts_nothing_off(ready: TaskQueue, path: Path) -> None:
    handle = await ready.enqueue(on_a_thread, str(path), 7, "commit and snooze")
    await drain(ready)
    assert await handle.result(PATIENCE) == {"order": 7}


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_what_was_rolled_back_is_judged_as_ever(ready: TaskQueue, path: Path, function: Any) -> None:
    handle = await ready.enqueue(function, str(path), 7, "roll back and raise")
    await drain(ready)

    with pytest.raises(TaskFailedError, match="LookupError: rolled back"):
        await handle.result(PATIENCE)
    assert await orders(path) == []


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_a_commit_that_was_forgotten_is_a_failure(ready: TaskQueue, path: Path, function: Any) -> None:
    handle = await ready.enqueue(function, str(path), 7, "forget")
    await drain(ready)

    with pytest.raises(TaskFailedError, match="its transaction was not committed: commit it"):
        await handle.result(PATIENCE)
    assert await orders(path) == []


async def test_the_policy_decides_over_a_commit_that_was_forgotten(ready: TaskQueue, path: Path) -> None:
    policy = RetryPolicy(max_attempts=2, base=0, jitter="none", on=(TaskError,))
    handle = await ready.options(retry=policy).enqueue(forgets_once, str(path))
    await drain(ready)

    assert await handle.result(PATIENCE) == {"order": 2}
    assert await orders(path) == [2]


def forgets_once(path: str) -> str:
    attempt = current_task().attempt
    return on_a_thread(path, attempt, "forget" if attempt == 1 else "commit")


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_a_transaction_may_be_begun_again(ready: TaskQueue, path: Path, function: Any) -> None:
    handle = await ready.enqueue(function, str(path), 7, "roll back and complete again")
    await drain(ready)

    assert await handle.result(PATIENCE) == {"order": -1}
    assert await orders(path) == [-1]


@pytest.mark.parametrize("function", [on_a_thread, on_the_loop_with_sqlite3])
async def test_a_task_completes_once(ready: TaskQueue, path: Path, function: Any) -> None:
    handle = await ready.enqueue(function, str(path), 7, "complete twice")
    events = await drain(ready)

    assert await handle.result(PATIENCE) == {"order": 7}
    assert await orders(path) == [7]
    assert not events.of(ErrorAfterCompletion)


def returns_a_lock(path: str) -> Any:
    on_a_thread(path, 7)
    return threading.Lock()


async def test_what_it_returns_after_it_does_not_matter(ready: TaskQueue, path: Path) -> None:
    handle = await ready.enqueue(returns_a_lock, str(path))
    events = await drain(ready)
    assert await handle.result(PATIENCE) == {"order": 7}
    assert not events.of(ErrorAfterCompletion)


async def goes_on(path: str) -> None:
    await on_the_loop(path, 7)
    current_task().progress(50)
    await gate.pass_through()


async def test_a_run_goes_on_after_its_commit(ready: TaskQueue, path: Path) -> None:
    """Its lease cannot be renewed any more, but it has not lost it."""
    worker = Worker(ready)
    events = recorded(worker)
    async with worker:
        handle = await ready.enqueue(goes_on, str(path))
        await gate.wait_reached()
        assert await handle.result(PATIENCE) == {"order": 7}
        spy = worker._services._heartbeat  # type: ignore[union-attr]
        for _ in range(3):
            await spy.renew_once()
        gate.open()
        await events.wait_for(TaskSucceeded)
    assert not events.of(TaskLost)
    assert (await ready.stats()).stale_outcomes == 0


async def is_robbed(path: str) -> None:
    async with aiosqlite.connect(path) as db:
        await gate.pass_through()
        await db.execute("INSERT INTO orders VALUES (1)")
        await current_task().complete_in(db, "robbed")
        await db.commit()


async def test_who_lost_the_task_writes_nothing(ready: TaskQueue, path: Path) -> None:
    handle = await ready.enqueue(is_robbed, str(path))
    worker = Worker(ready, concurrency=1)
    events = recorded(worker)
    async with worker:
        await gate.wait_reached()
        [record] = await ready.find()
        async with application(path, "sqlite3") as app:
            # As if the lease had run out and another worker had taken it.
            await app.execute("UPDATE sitq_tasks SET fence = fence + 100 WHERE id = ?", str(handle))
            await app.commit()
        gate.open()
        failed = await events.wait_for(TaskFailed)
        await events.wait_for(OutcomeRefused)
    assert (record.id, failed.error_type) == (handle, "sitq.errors.TaskStaleError")
    assert await orders(path) == []


def says_much(path: str, then: str) -> None:
    current = current_task()
    for number in range(3):
        current.log(f"line {number}")
    current.publish("value")
    current.progress(100, "done")
    on_a_thread(path, 7, then)


@pytest.mark.parametrize("then", ["commit", "forget", "roll back and complete again"])
async def test_nothing_said_before_is_lost_or_said_twice(ready: TaskQueue, path: Path, then: str) -> None:
    handle = await ready.enqueue(says_much, str(path), then)
    await drain(ready)

    told = [entry.event async for entry in ready.events(handle)]
    assert [one.text for one in told if isinstance(one, TaskLogged)] == ["line 0", "line 1", "line 2"]
    assert [one.value for one in told if isinstance(one, TaskPublished)] == ["value"]
    assert [one.percent for one in told if isinstance(one, TaskProgressed)] == [100]


def in_a_fresh_thread(path: str) -> None:
    current = current_task()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with closing(sqlite3.connect(path)) as db:
                current.complete_in(db, "elsewhere")
                db.commit()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not raised


async def test_a_thread_of_the_task_may_do_it(ready: TaskQueue, path: Path) -> None:
    handle = await ready.enqueue(in_a_fresh_thread, str(path))
    await drain(ready)
    assert await handle.result(PATIENCE) == "elsewhere"


def wrong(path: str, what: str) -> str:
    current = current_task()
    with closing(sqlite3.connect(path)) as db:
        if what == "value":
            with pytest.raises(TaskSerializationError):
                current.complete_in(db, threading.Lock())
        else:
            with (
                closing(sqlite3.connect(":memory:")) as other,
                pytest.raises(ValidationError, match="connection is to"),
            ):
                current.complete_in(other, 1)
        assert not db.in_transaction
    return "as ever"


@pytest.mark.parametrize("what", ["value", "connection"])
async def test_a_call_that_is_refused_changes_nothing(ready: TaskQueue, path: Path, what: str) -> None:
    handle = await ready.enqueue(wrong, str(path), what)
    await drain(ready)
    assert await handle.result(PATIENCE) == "as ever"


async def test_outside_of_a_worker() -> None:
    from sitq.context import CurrentTask

    with (
        closing(sqlite3.connect(":memory:")) as db,
        pytest.raises(TaskError, match="outside the process of a worker"),
    ):
        CurrentTask("id", "name", "queue", 1).complete_in(db, 1)


def in_memory() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        current_task().complete_in(db, 1)


async def test_a_storage_without_a_file_fails_the_task_and_says_why() -> None:
    async with TaskQueue(MemoryBackend()) as queue:
        handle = await queue.enqueue(in_memory)
        await drain(queue)
        with pytest.raises(TaskFailedError, match=r"BackendUnsupportedError: .*a SQLite file can"):
            await handle.result(PATIENCE)


async def test_it_looks_until_the_storage_answers(path: Path) -> None:
    async with TaskQueue(path) as plain:
        handle = await plain.enqueue(on_a_thread, str(path), 7, "commit and raise")
    await orders(path)
    queue, spy = spied_queue(SQLiteBackend(path))
    failures = 2

    async def fail(*args: Any, **kwargs: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BackendTimeoutError("away")

    spy.before["find"] = fail
    events = await drain(queue)
    assert (await queue.get_result(handle)).value == {"order": 7}
    assert [event.action for event in events.of(StorageFailed)] == ["look for an outcome"] * 2
    await queue.close()


async def test_the_event_is_one_that_handlers_hear(ready: TaskQueue, path: Path) -> None:
    heard: list[Event] = []
    ready.on(ErrorAfterCompletion)(heard.append)
    await ready.enqueue(on_a_thread, str(path), 7, "commit and raise")
    await drain(ready)
    [event] = heard
    assert isinstance(event, ErrorAfterCompletion)
    assert (event.error, event.attempt) == ("too late", 1)


# -- SIGKILL ---------------------------------------------------------------------------------------

TORTURE = """
import asyncio, os, random, signal, sqlite3, sys, time
from sitq import SyncTaskQueue, TaskQueue, Worker, call, current_task
from sitq.backends.sqlite import SQLiteBackend

PATH, TASKS, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def maybe_die(where):
    if random.random() < 0.1:
        with open(PATH + ".kills", "a") as kills:
            kills.write(where + "\\n")
        os.kill(os.getpid(), signal.SIGKILL)

def book(number):
    current = current_task()
    with open(PATH + ".runs", "a") as runs:
        runs.write(f"{number}\\n")
    db = sqlite3.connect(PATH, timeout=30)
    maybe_die("before")
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO bookings VALUES (?, ?)", (number, current.attempt))
    maybe_die("inside")
    current.complete_in(db, current.attempt)
    maybe_die("completed")
    db.commit()
    with open(PATH + ".runs", "a") as runs:
        runs.write(f"{number} committed\\n")
    maybe_die("committed")
    db.close()

async def work(path):
    queue = TaskQueue(SQLiteBackend(path, durability="fast", busy_timeout=30))
    async with queue:
        await Worker(queue, lease=0.2, concurrency=3).run(until_idle=True)

def prepare():
    with SyncTaskQueue(PATH) as queue:
        db = sqlite3.connect(PATH)
        db.execute("CREATE TABLE bookings (number INTEGER, attempt INTEGER)")
        with db:
            queue.within(db).options(max_crashes=1000, result_ttl=None).enqueue_many(
                [call(book, number) for number in range(TASKS)]
            )
        db.close()

def left():
    db = sqlite3.connect(PATH)
    [[number]] = db.execute("SELECT count(*) FROM sitq_tasks WHERE due_at IS NOT NULL").fetchall()
    db.close()
    return number

prepare()
random.seed(SEED)
while left():
    child = os.fork()
    if child == 0:
        random.seed()
        asyncio.run(work(PATH))
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.05)

async def check():
    async with TaskQueue(PATH) as queue:
        tasks = await queue.find(limit=10_000)
        values = [(await queue.get_result(task.id)).value for task in tasks]
        stale = (await queue.stats()).stale_outcomes
        return {task.status for task in tasks}, values, stale

statuses, values, stale = asyncio.run(check())
db = sqlite3.connect(PATH)
rows = db.execute("SELECT number, attempt FROM bookings ORDER BY number").fetchall()
assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
assert {str(status) for status in statuses} == {"success"}, statuses
assert [number for number, _ in rows] == list(range(TASKS)), rows
assert sorted(values) == sorted(attempt for _, attempt in rows), (values, rows)
kills = open(PATH + ".kills").read().split()
runs = open(PATH + ".runs").read().splitlines()
for number in range(TASKS):
    mine = [line for line in runs if line.split()[0] == str(number)]
    assert f"{number} committed" not in mine[:-1], mine  # nothing runs again that was committed
print(len(kills), len(runs), *(kills.count(where) for where in ("before", "inside", "completed", "committed")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")
def test_the_effect_is_there_once_however_often_the_worker_is_killed(path: Path) -> None:
    done = run_python(TORTURE, path, 40, 1, timeout=100)
    assert done.returncode == 0, done.stderr
    kills, runs, *places = map(int, done.stdout.split())
    assert kills >= 5
    assert runs > 40
    assert sum(place > 0 for place in places) >= 2
