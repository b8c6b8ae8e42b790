"""Handlers of events: called in the process where things happen, and never in the way of a task."""

import asyncio
import logging
from typing import Any

import pytest

from sitq import Status, TaskQueue, ValidationError, Worker, current_task
from sitq.backends.base import Backend
from sitq.events import (
    TaskCancelled,
    TaskEnqueued,
    TaskFailed,
    TaskLogged,
    TaskProgressed,
    TaskPublished,
    TaskRequeued,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
    WorkerStarted,
    WorkerStopped,
    WorkerStopping,
)
from tests.integration.support import Gate, drain
from tests.support import PATIENCE

gate: Gate


@pytest.fixture(autouse=True)
async def shared() -> None:
    global gate
    gate = Gate()


def add(a: int, b: int) -> int:
    return a + b


def fail() -> None:
    raise ValueError("oh")


def talk() -> None:
    task = current_task()
    task.progress(50, "halfway")
    task.log("a line")
    task.publish([1, 2])


async def wait_at_the_gate() -> None:
    await gate.pass_through()


def heard_by(queue: TaskQueue, *kinds: type[Any]) -> list[Any]:
    heard: list[Any] = []
    for kind in kinds:
        queue.on(kind)(heard.append)
    return heard


async def test_what_workers_do_reaches_the_handlers_of_their_queue(queue: TaskQueue) -> None:
    heard = heard_by(
        queue, TaskEnqueued, TaskStarted, TaskSucceeded, WorkerStarted, WorkerStopping, WorkerStopped
    )
    handle = await queue.enqueue(add, 1, 2)
    worker = Worker(queue, concurrency=3)
    await worker.run(until_idle=True)
    assert [type(event) for event in heard] == [
        TaskEnqueued,
        WorkerStarted,
        TaskStarted,
        TaskSucceeded,
        WorkerStopping,
        WorkerStopped,
    ]
    assert heard[0] == TaskEnqueued(handle, heard[0].task, "default")
    assert heard[1] == WorkerStarted(worker.id, "all", 3)
    assert (heard[3].task_id, heard[3].worker, heard[3].attempt) == (handle, worker.id, 1)


async def test_failures_retries_cancellations_and_new_runs_are_told(queue: TaskQueue) -> None:
    heard = heard_by(queue, TaskFailed, TaskRetried, TaskCancelled, TaskRequeued)
    bad = await queue.options(retry=1, retry_delay=None).enqueue(fail)
    async with Worker(queue):
        assert (await queue.get_result(bad, PATIENCE)).status is Status.FAILED
        stopped = await queue.enqueue(wait_at_the_gate)
        await gate.wait_reached()
        await stopped.cancel(timeout=PATIENCE)
    assert await queue.requeue(bad) == [bad]
    assert [(type(event), event.task_id) for event in heard] == [
        (TaskRetried, bad),
        (TaskFailed, bad),
        (TaskCancelled, stopped),
        (TaskRequeued, bad),
    ]
    assert (heard[1].error_type, heard[1].error) == ("ValueError", "oh")


async def test_what_a_task_says_is_told_in_its_process(queue: TaskQueue) -> None:
    heard = heard_by(queue, TaskProgressed, TaskLogged, TaskPublished)
    handle = await queue.enqueue(talk)
    await drain(queue)
    assert [(type(event), event.task_id, event.attempt) for event in heard] == [
        (TaskProgressed, handle, 1),
        (TaskLogged, handle, 1),
        (TaskPublished, handle, 1),
    ]
    assert (heard[0].percent, heard[0].note, heard[1].text, heard[2].value) == (
        50,
        "halfway",
        "a line",
        [1, 2],
    )


async def test_an_enqueue_that_stored_nothing_is_no_event(queue: TaskQueue) -> None:
    heard = heard_by(queue, TaskEnqueued)
    for _ in range(2):
        await queue.options(id="t1").enqueue(add, 1, 2)
        await queue.options(unique_key="k").enqueue(add, 1, 2)
    assert len(heard) == 2


async def test_a_decorated_function_stays_what_it_is(queue: TaskQueue) -> None:
    @queue.on(TaskSucceeded)
    async def handle(event: TaskSucceeded) -> str:
        return event.task_id

    assert await handle(TaskSucceeded("id", "t", "q", 1, "w", 0.0)) == "id"


async def test_a_handler_may_use_the_queue(queue: TaskQueue) -> None:
    followed: list[str] = []

    @queue.on(TaskSucceeded)
    async def follow(event: TaskSucceeded) -> None:
        if not followed:
            followed.append(await queue.options(queue="later").enqueue(add, 3, 4))

    await queue.enqueue(add, 1, 2)
    await drain(queue, queues=["default"])
    await queue.close()  # which waits for it
    await queue.open()
    assert [task.id for task in await queue.find(queue="later")] == followed != []


async def test_close_waits_for_handlers(backend: Backend) -> None:
    done: list[str] = []
    queue = TaskQueue(backend)

    @queue.on(TaskEnqueued)
    async def handle(event: TaskEnqueued) -> None:
        await gate.pass_through()
        done.append((await queue.get(event.task_id)).id)

    handle_of_task = await queue.enqueue(add, 1, 2)
    closing = asyncio.create_task(queue.close())
    await gate.wait_reached()
    assert not closing.done()
    gate.open()
    await closing
    assert done == [handle_of_task]


async def test_a_handler_may_close_the_queue(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.queue._SETTLE_TIMEOUT", 3600)
    queue, closed = TaskQueue(backend), asyncio.Event()

    @queue.on(TaskEnqueued)
    async def handle(event: TaskEnqueued) -> None:
        await queue.close()
        closed.set()

    await queue.enqueue(add, 1, 2)
    async with asyncio.timeout(PATIENCE):
        await closed.wait()


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_handler_that_raises_hurts_no_task(
    queue: TaskQueue, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(event: Any) -> None:
        raise SystemExit(f"plain {type(event).__name__}")

    async def later(event: Any) -> None:
        raise ValueError(f"async {type(event).__name__}")

    for each in (TaskEnqueued, TaskStarted, TaskSucceeded, WorkerStarted, WorkerStopped):
        queue.on(each)(plain if kind == "plain" else later)
    handle = await queue.enqueue(add, 1, 2)
    await drain(queue)
    assert await handle.result() == 3
    await queue.close()
    raised = {record.message for record in caplog.records if record.levelno == logging.ERROR}
    assert raised == {
        f"a handler of {name} raised"
        for name in ("TaskEnqueued", "TaskStarted", "TaskSucceeded", "WorkerStarted", "WorkerStopped")
    }


async def test_what_nobody_wants_is_not_made(queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def construct(kind: type[Any], *fields: Any) -> Any:
        made.append(kind.__name__)
        return tuple.__new__(kind, fields)

    each_task = (TaskEnqueued, TaskStarted, TaskProgressed, TaskLogged, TaskPublished)
    for kind in each_task:
        monkeypatch.setattr(kind, "__new__", construct)
    await queue.enqueue(talk)
    await Worker(queue).run(until_idle=True)
    assert made == []
    heard = heard_by(queue, *each_task)
    await queue.enqueue(talk)
    await Worker(queue).run(until_idle=True)
    assert made == [kind.__name__ for kind in each_task] == [type(event).__name__ for event in heard]


@pytest.mark.parametrize("kind", [str, None, "TaskFailed", object, Worker])
async def test_what_is_no_kind_of_event_is_refused(queue: TaskQueue, kind: Any) -> None:
    with pytest.raises(ValidationError, match=r"is no kind of event: take one from sitq\.events"):
        queue.on(kind)
