# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers say about `TaskQueue`, `SyncTaskQueue`, their views and their handles.

Nothing here runs: mypy (strict) and pyright read it. Each line with an ignore is a mistake that both must reject,
because both report an ignore that is not needed.
"""

import sqlite3
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import aiosqlite

from sitq import (
    Call,
    Enqueuer,
    ProcessOptions,
    Progress,
    QueueStats,
    Result,
    RetryPolicy,
    Stats,
    Status,
    Streamed,
    SyncEnqueuer,
    SyncTaskHandle,
    SyncTaskQueue,
    SyncTransactionEnqueuer,
    TaskDetails,
    TaskHandle,
    TaskQueue,
    TaskRecord,
    TransactionEnqueuer,
    Worker,
    WorkerRecord,
    call,
    current_task,
    task,
)
from sitq.events import TaskFailed


def resize(key: str, width: int = 100, *, crop: bool = False) -> bytes:
    return b""


async def fetch(key: str, retries: int = 0) -> int:
    return 1


def nothing() -> None: ...


class OwnRunner:
    def __init__(self, concurrency: int) -> None: ...

    async def run(self, call: Call[Any]) -> Any: ...

    def close(self) -> None: ...


class NoRunner:
    def __init__(self, concurrency: int) -> None: ...

    def run(self, call: str) -> None: ...


@task
def plain(key: str) -> bytes:
    return b""


@task(queue="images")
async def coroutine(key: str) -> int:
    return 1


class Point:
    def __init__(self, x: int) -> None: ...

    def moved(self, by: int) -> "Point":
        return self


LATER = datetime.now(UTC)


# -- TaskQueue -------------------------------------------------------------------------------------


async def enqueue(queue: TaskQueue, anything: Any) -> None:
    assert_type(await queue.enqueue(resize, "a"), TaskHandle[bytes])
    assert_type(await queue.enqueue(resize, "a", 3, crop=True), TaskHandle[bytes])
    assert_type(await queue.enqueue(resize, key="a", width=3), TaskHandle[bytes])
    assert_type(await queue.enqueue(fetch, "a", retries=2), TaskHandle[int])
    assert_type(await queue.enqueue(nothing), TaskHandle[None])
    assert_type(await queue.enqueue(plain, "a"), TaskHandle[bytes])
    assert_type(await queue.enqueue(coroutine, "a"), TaskHandle[int])
    assert_type(await queue.enqueue(Point, 1), TaskHandle[Point])
    assert_type(await queue.enqueue(Point(1).moved, by=2), TaskHandle[Point])
    assert_type(await queue.enqueue(lambda: 1), TaskHandle[int])
    assert_type(await queue.enqueue(resize, "a", eta=LATER), TaskHandle[bytes])
    assert_type(await queue.enqueue(fetch, "a", eta=LATER), TaskHandle[int])
    assert_type(await queue.enqueue(plain, "a", eta=None), TaskHandle[bytes])
    assert_type(await queue.enqueue(coroutine, "a", eta=LATER), TaskHandle[int])
    print(await queue.enqueue(anything, 1, a=2))

    as_id: str = await queue.enqueue(resize, "a")
    print(as_id)


async def enqueue_mistakes(queue: TaskQueue) -> None:
    await queue.enqueue(resize)  # type: ignore[call-overload]
    await queue.enqueue(resize, 1)  # type: ignore[call-overload]
    await queue.enqueue(resize, "a", "b")  # type: ignore[call-overload]
    await queue.enqueue(resize, "a", height=1)  # type: ignore[call-arg, arg-type]
    await queue.enqueue(fetch, 1)  # type: ignore[call-overload]
    await queue.enqueue(plain, 1)  # type: ignore[call-overload]
    await queue.enqueue(coroutine)  # type: ignore[call-overload]
    await queue.enqueue(Point, "a")  # type: ignore[call-overload]
    await queue.enqueue("app.resize", "a")  # type: ignore[call-overload]
    await queue.enqueue(resize, "a", eta="tomorrow")  # type: ignore[call-arg, arg-type]
    await queue.enqueue(resize, "a", priority=1)  # type: ignore[call-arg, arg-type]
    wrong: TaskHandle[str] = await queue.enqueue(fetch, "a")  # type: ignore[call-overload]
    print(wrong)
    queue.enqueue(resize, "a").result()  # type: ignore[attr-defined]


async def within(queue: TaskQueue, plain_db: sqlite3.Connection, db: aiosqlite.Connection) -> None:
    assert_type(queue.within(db), TransactionEnqueuer)
    assert_type(await queue.within(db).enqueue(resize, "a", crop=True), TaskHandle[bytes])
    assert_type(await queue.within(plain_db).enqueue(fetch, "a"), TaskHandle[int])
    assert_type(await queue.within(db).enqueue_many([call(fetch, "a")]), list[TaskHandle[int]])
    assert_type(queue.within(db).options(delay=1), Enqueuer)
    assert_type(await queue.within(db).options(delay=1).enqueue(coroutine, "a"), TaskHandle[int])

    queue.within("app.db")  # type: ignore[arg-type]
    queue.within()  # type: ignore[call-arg]
    await queue.within(db).enqueue(resize, 1)  # type: ignore[call-overload]
    queue.within(db).options(prioritee=1)  # type: ignore[call-arg]


async def complete_in(plain_db: sqlite3.Connection, db: aiosqlite.Connection) -> None:
    current_task().complete_in(plain_db, "value")
    current_task().complete_in(plain_db)
    assert_type(await current_task().complete_in(db, "value"), None)
    await current_task().complete_in(db)

    await current_task().complete_in(plain_db)  # type: ignore[misc]
    current_task().complete_in(db)  # type: ignore[unused-coroutine]
    current_task().complete_in("app.db", 1)  # type: ignore[call-overload]


async def options(queue: TaskQueue) -> None:
    view = queue.options(
        eta=LATER,
        queue="images",
        priority=-1,
        id="mine",
        result_ttl=timedelta(days=1),
        metadata={"a": 1},
        context={"user": object()},
        max_crashes=1,
    )
    assert_type(view, Enqueuer)
    assert_type(await view.enqueue(resize, "a"), TaskHandle[bytes])
    assert_type(await view.enqueue(fetch, "a", retries=1), TaskHandle[int])
    assert_type(await view.enqueue(coroutine, "a"), TaskHandle[int])
    assert_type(await queue.options(delay=1.5).enqueue(plain, "a"), TaskHandle[bytes])
    assert_type(
        await queue.options(delay=timedelta(hours=1), result_ttl=None).enqueue(nothing), TaskHandle[None]
    )
    assert_type(await view.enqueue_many([call(fetch, "a")]), list[TaskHandle[int]])
    assert_type(queue.options(retry=RetryPolicy(), timeout=5, rate_limit="5/s", unique_key="a"), Enqueuer)
    assert_type(await queue.options(retry=3, debounce=1.5).enqueue(fetch, "a"), TaskHandle[int])


async def options_mistakes(queue: TaskQueue) -> None:
    queue.options(eta="2030-01-01")  # type: ignore[arg-type]
    queue.options(delay="1h")  # type: ignore[arg-type]
    queue.options(priority="high")  # type: ignore[arg-type]
    queue.options(prioritee=1)  # type: ignore[call-arg]
    queue.options(retry=1.5)  # type: ignore[arg-type]
    queue.options(retries=3)  # type: ignore[call-arg]
    queue.options(expires="tomorrow")  # type: ignore[arg-type]
    queue.options(unique_until="never")  # type: ignore[arg-type]
    queue.options(executor=5)  # type: ignore[arg-type]
    await queue.options().enqueue(resize, 1)  # type: ignore[call-overload]
    await queue.options().enqueue(fetch)  # type: ignore[call-overload]
    await queue.options().enqueue(resize, "a", eta=LATER)  # type: ignore[call-arg, arg-type]


async def batches(queue: TaskQueue) -> None:
    assert_type(await queue.enqueue_many([call(fetch, key) for key in "ab"]), list[TaskHandle[int]])
    assert_type(await queue.enqueue_many(call(resize, key) for key in "ab"), list[TaskHandle[bytes]])
    await queue.enqueue_many([resize])  # type: ignore[arg-type]
    await queue.enqueue_many(call(fetch, "a"))  # type: ignore[arg-type]


async def results(queue: TaskQueue, some_id: str) -> None:
    handle = await queue.enqueue(fetch, "a")
    assert_type(await handle.result(), int)
    assert_type(await handle.result(timeout=5), int)
    assert_type(await handle.result(timedelta(seconds=5)), int)
    assert_type(await handle.status(), Status)
    assert_type(await handle.cancel(), Status)
    assert_type(await handle.cancel(timeout=5), Status)
    assert_type(await queue.get_result(handle), Result[int])
    assert_type(await queue.get_result(handle, timeout=5), Result[int])
    assert_type((await queue.get_result(handle)).value, int | None)
    assert_type((await queue.get_result(handle)).unwrap(), int)
    assert_type(await queue.get_result(some_id, 5), Result[Any])
    assert_type(await queue.get_status(handle), Status)
    assert_type(await queue.get(handle), TaskDetails)
    assert_type((await queue.get(handle)).progress, Progress | None)
    assert_type(await queue.find(status=Status.PENDING, limit=5), list[TaskRecord])
    assert_type(await queue.find(status={Status.FAILED, Status.CANCELLED}, since=LATER), list[TaskRecord])
    assert_type(await queue.stats(), Stats)
    assert_type((await queue.stats()).queues, tuple[QueueStats, ...])
    assert_type(await queue.cancel(some_id), Status)
    assert_type(await queue.cancel(some_id, timeout=timedelta(seconds=5)), Status)
    await handle.result("soon")  # type: ignore[arg-type]
    await queue.get_result(5)  # type: ignore[call-overload]
    await queue.find(Status.PENDING)  # type: ignore[call-arg]
    await queue.find(since="today")  # type: ignore[arg-type]


async def steering(queue: TaskQueue, some_id: str) -> None:
    assert_type(await queue.requeue(some_id), list[str])
    assert_type(await queue.requeue([some_id]), list[str])
    assert_type(await queue.requeue(status=Status.FAILED, since=LATER), list[str])
    assert_type(await queue.discard(queue="mail"), int)
    await queue.pause("mail")
    await queue.resume("mail")
    assert_type(await queue.workers(), list[WorkerRecord])
    await queue.requeue(some_id, "mail")  # type: ignore[call-arg, arg-type]
    await queue.pause()  # type: ignore[call-arg]


async def streams(queue: TaskQueue, some_id: str) -> None:
    handle = await queue.enqueue(fetch, "a")
    async for entry in handle.events(after="1.2.running"):
        assert_type(entry, Streamed)
        assert_type(entry.cursor, str)
    async for entry in queue.events(some_id):
        assert_type(entry.at, datetime)
    list(handle.events())  # type: ignore[call-overload]


def handlers(queue: TaskQueue, sync: SyncTaskQueue) -> None:
    @queue.on(TaskFailed)
    def plain_handler(event: TaskFailed) -> None: ...

    @sync.on(TaskFailed)
    async def async_handler(event: TaskFailed) -> None: ...

    queue.on(TaskFailed)(lambda event: print(event.error))
    print(plain_handler, async_handler)

    @queue.on(TaskFailed)  # type: ignore[arg-type]
    def other(event: str) -> None: ...


def bounds() -> None:
    TaskQueue(max_pending=5)
    SyncTaskQueue(max_pending={"mail": 5})
    TaskQueue(max_pending="5")  # type: ignore[arg-type]
    TaskQueue(runners={"own": OwnRunner})
    SyncTaskQueue(runners={"own": OwnRunner})
    TaskQueue(runners={"own": OwnRunner(1)})  # type: ignore[dict-item]
    TaskQueue(runners={"own": NoRunner})  # type: ignore[dict-item]
    Worker(TaskQueue(), executor="process", processes=2)
    Worker(TaskQueue(), processes=ProcessOptions(children=2, memory_limit=2**30, grace=timedelta(seconds=1)))
    Worker(TaskQueue(), processes="2")  # type: ignore[arg-type]
    ProcessOptions(2)  # type: ignore[call-arg]
    Worker(TaskQueue(), queues={"mail": 3, "web": 1})
    Worker(TaskQueue(), queues=["mail", "web"], strict=True)
    Worker(TaskQueue(), queues={"mail": "3"})  # type: ignore[dict-item]


async def contexts() -> None:
    async with TaskQueue("app.db", max_payload=1) as queue:
        assert_type(queue, TaskQueue)
        async with Worker(queue, concurrency=5, lease=timedelta(seconds=5)) as worker:
            assert_type(worker, Worker)
            assert_type(await worker.process_task("a"), Result[Any])
    TaskQueue(5)  # type: ignore[arg-type]
    TaskQueue("app.db", 5)  # type: ignore[call-arg]
    Worker(SyncTaskQueue())  # type: ignore[arg-type]
    with TaskQueue():  # type: ignore[attr-defined]
        pass


# -- SyncTaskQueue ---------------------------------------------------------------------------------


def sync_enqueue(queue: SyncTaskQueue) -> None:
    assert_type(queue.enqueue(resize, "a", crop=True), SyncTaskHandle[bytes])
    assert_type(queue.enqueue(fetch, "a", retries=2), SyncTaskHandle[int])
    assert_type(queue.enqueue(plain, "a"), SyncTaskHandle[bytes])
    assert_type(queue.enqueue(coroutine, "a"), SyncTaskHandle[int])
    assert_type(queue.enqueue(Point, 1), SyncTaskHandle[Point])
    assert_type(queue.enqueue(nothing), SyncTaskHandle[None])
    assert_type(queue.enqueue(resize, "a", eta=LATER), SyncTaskHandle[bytes])
    assert_type(queue.enqueue(coroutine, "a", eta=LATER), SyncTaskHandle[int])
    assert_type(queue.options(delay=1), SyncEnqueuer)
    assert_type(queue.options(delay=1).enqueue(resize, "a"), SyncTaskHandle[bytes])
    assert_type(queue.options(delay=1).enqueue(fetch, "a"), SyncTaskHandle[int])
    assert_type(queue.options().enqueue_many([call(fetch, "a")]), list[SyncTaskHandle[int]])
    assert_type(queue.enqueue_many([call(resize, "a")]), list[SyncTaskHandle[bytes]])


def sync_within(queue: SyncTaskQueue, db: sqlite3.Connection, other: aiosqlite.Connection) -> None:
    assert_type(queue.within(db), SyncTransactionEnqueuer)
    assert_type(queue.within(db).enqueue(resize, "a"), SyncTaskHandle[bytes])
    assert_type(queue.within(db).enqueue_many([call(fetch, "a")]), list[SyncTaskHandle[int]])
    assert_type(queue.within(db).options(delay=1), SyncEnqueuer)
    assert_type(queue.within(db).options(delay=1).enqueue(fetch, "a"), SyncTaskHandle[int])

    queue.within(other)  # type: ignore[arg-type]
    queue.within(db).enqueue(resize, 1)  # type: ignore[call-overload]


def sync_results(queue: SyncTaskQueue, some_id: str) -> None:
    handle = queue.enqueue(fetch, "a")
    assert_type(handle.result(timeout=5), int)
    assert_type(handle.status(), Status)
    assert_type(handle.cancel(), Status)
    assert_type(queue.get_result(handle), Result[int])
    assert_type(queue.get_result(some_id, timeout=5), Result[Any])
    assert_type(queue.get_status(handle), Status)
    assert_type(queue.get(some_id), TaskDetails)
    assert_type(queue.find(queue="a"), list[TaskRecord])
    assert_type(queue.stats(), Stats)
    assert_type(queue.cancel(handle), Status)
    assert_type(handle.cancel(timeout=5), Status)
    assert_type(queue.requeue(handle), list[str])
    assert_type(queue.discard(status=Status.FAILED), int)
    assert_type(queue.workers(), list[WorkerRecord])
    queue.pause("mail")
    queue.resume("mail")
    for entry in handle.events():
        assert_type(entry, Streamed)


def sync_mistakes(queue: SyncTaskQueue) -> None:
    queue.enqueue(resize)  # type: ignore[call-overload]
    queue.enqueue(resize, 1)  # type: ignore[call-overload]
    queue.enqueue(fetch, "a", tries=1)  # type: ignore[call-arg]
    queue.enqueue(coroutine, 1)  # type: ignore[call-overload]
    queue.enqueue(resize, "a", eta="tomorrow")  # type: ignore[call-arg, arg-type]
    queue.options(eta="2030-01-01")  # type: ignore[arg-type]
    queue.options(prioritee=1)  # type: ignore[call-arg]
    queue.options(retry="often")  # type: ignore[arg-type]
    queue.options().enqueue(fetch)  # type: ignore[call-overload]
    queue.enqueue_many([resize])  # type: ignore[arg-type]
    wrong: Coroutine[Any, Any, Any] = queue.enqueue(resize, "a")  # type: ignore[assignment]
    print(wrong)


def sync_contexts() -> None:
    with SyncTaskQueue() as queue:
        assert_type(queue, SyncTaskQueue)
