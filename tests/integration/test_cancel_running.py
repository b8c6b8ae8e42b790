"""Cancelling what runs: it arrives at once and without a heartbeat, whoever asks, and whatever ends first counts.

Leases here are an hour: a heartbeat by time would come long after a test has lost its patience.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sitq import (
    Status,
    TaskCancelledError,
    TaskQueue,
    TaskTimeoutError,
    ValidationError,
    Worker,
    current_task,
)
from sitq.backends.base import Backend
from sitq.events import TaskCancelled, TaskLogged, TaskStarted
from tests.integration.support import Gate, Recorder, end_group, recorded, spied_queue, start_python
from tests.support import PATIENCE

LEASE = 3600.0

gate: Gate
held_up = threading.Event()


@pytest.fixture(autouse=True)
async def shared() -> AsyncIterator[None]:
    global gate
    gate = Gate()
    held_up.clear()
    yield
    held_up.set()


@asynccontextmanager
async def working(queue: TaskQueue, **options: Any) -> AsyncIterator[Recorder]:
    worker = Worker(queue, lease=LEASE, shutdown_timeout=0, **options)
    recorder = recorded(worker)
    async with worker:
        yield recorder


async def coroutine() -> None:
    await asyncio.Event().wait()


def cooperative() -> str:
    while not current_task().cancelled:
        held_up.wait(0.001)
    return "what it had"


def deaf() -> str:
    held_up.wait()
    return "done all the same"


async def saves() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "saved"
    return "never"


async def cleans_up() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await gate.pass_through()


# -- What is cancelled ------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [coroutine, cooperative])
async def test_what_listens_is_stopped_at_once(queue: TaskQueue, work: Callable[[], Any]) -> None:
    async with working(queue) as recorder:
        handle = await queue.enqueue(work)
        await recorder.wait_for(TaskStarted)
        assert await handle.cancel(timeout=PATIENCE) is Status.CANCELLED
        cancelled = await recorder.wait_for(TaskCancelled)
    assert cancelled.task_id == handle
    record = await queue.get(handle)
    assert record.cancel_requested
    assert record.finished_at is not None
    with pytest.raises(TaskCancelledError):
        await handle.result(timeout=PATIENCE)


async def test_a_thread_that_does_not_ask_goes_on_and_its_value_counts(queue: TaskQueue) -> None:
    async with working(queue) as recorder:
        handle = await queue.enqueue(deaf)
        await recorder.wait_for(TaskStarted)
        with pytest.raises(TaskTimeoutError, match="is still running"):
            await handle.cancel(timeout=0.05)
        held_up.set()
        assert await handle.result(timeout=PATIENCE) == "done all the same"
    assert recorder.of(TaskCancelled) == []


async def test_what_ends_first_counts(queue: TaskQueue) -> None:
    async with working(queue) as recorder:
        handle = await queue.enqueue(saves)
        await recorder.wait_for(TaskStarted)
        assert await handle.cancel(timeout=PATIENCE) is Status.SUCCESS
        assert await handle.cancel() is Status.SUCCESS
        assert await handle.result() == "saved"


async def test_only_the_task_that_was_meant_is_stopped(queue: TaskQueue) -> None:
    async with working(queue) as recorder:
        handles = [await queue.enqueue(coroutine) for _ in range(5)]
        await recorder.wait_for(TaskStarted, 5)
        assert await handles[2].cancel(timeout=PATIENCE) is Status.CANCELLED
        statuses = [await handle.status() for handle in handles]
    assert statuses == [Status.RUNNING] * 2 + [Status.CANCELLED] + [Status.RUNNING] * 2


async def test_many_are_cancelled_together(queue: TaskQueue) -> None:
    async with working(queue, concurrency=50) as recorder:
        handles = [await queue.enqueue(coroutine) for _ in range(50)]
        await recorder.wait_for(TaskStarted, 50)
        async with asyncio.TaskGroup() as group:
            ends = [group.create_task(handle.cancel(timeout=PATIENCE)) for handle in handles]
        assert {end.result() for end in ends} == {Status.CANCELLED}


async def test_cancelling_again_does_not_interrupt_the_cleaning_up(queue: TaskQueue) -> None:
    async with working(queue) as recorder:
        handle = await queue.enqueue(cleans_up)
        await recorder.wait_for(TaskStarted)
        assert await handle.cancel() is Status.RUNNING
        await gate.wait_reached()
        assert await handle.cancel() is Status.RUNNING
        gate.open()
        assert await handle.cancel(timeout=PATIENCE) is Status.CANCELLED


async def test_a_cancellation_while_the_task_is_handed_out_is_not_left_to_the_next_heartbeat(
    backend: Backend,
) -> None:
    queue, spied = spied_queue(backend)
    async with queue:
        handle = await queue.options(id="t1").enqueue(coroutine)

        async def cancel_at_once(reserved: Any) -> None:
            """It is reserved in the storage, and its worker does not know yet."""
            if reserved.tasks:
                before = spied.calls.get("heartbeat", 0)
                assert await queue.cancel("t1") is Status.RUNNING
                async with asyncio.timeout(PATIENCE):
                    while spied.calls.get("heartbeat", 0) == before:  # the bell is answered: nothing is held
                        await asyncio.sleep(0)

        spied.after["reserve"] = cancel_at_once
        async with working(queue):
            assert (await queue.get_result(handle, PATIENCE)).status is Status.CANCELLED


# -- Waiting for it ---------------------------------------------------------------------------------


async def test_a_task_that_has_not_started_needs_no_wait(queue: TaskQueue) -> None:
    handle = await queue.enqueue(coroutine)
    assert await handle.cancel(timeout=PATIENCE) is Status.CANCELLED


@pytest.mark.parametrize("timeout", [-1, "5", float("nan"), True])
async def test_a_bad_timeout_is_refused_before_anything_happens(queue: TaskQueue, timeout: Any) -> None:
    handle = await queue.enqueue(coroutine)
    with pytest.raises(ValidationError, match=r"^timeout is "):
        await handle.cancel(timeout=timeout)
    assert await handle.status() is Status.PENDING


# -- From elsewhere ---------------------------------------------------------------------------------


WORKER = """
import asyncio, sys
from sitq import TaskQueue, Worker

async def main(path):
    async with TaskQueue(path) as queue, Worker(queue, lease=3600, shutdown_timeout=0):
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""


def says_and_cooperates() -> None:
    current_task().log("begun")
    while not current_task().cancelled:
        held_up.wait(0.001)


async def test_a_worker_in_another_process_hears_of_it(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with TaskQueue(path) as queue:
        handle = await queue.enqueue(says_and_cooperates)
        with start_python(WORKER, path) as process:
            try:
                async with asyncio.timeout(PATIENCE):
                    async for entry in handle.events():
                        if isinstance(entry.event, TaskLogged):
                            break
                assert await handle.cancel(timeout=PATIENCE) is Status.CANCELLED
                process.communicate(timeout=PATIENCE)
            finally:
                end_group(process)
