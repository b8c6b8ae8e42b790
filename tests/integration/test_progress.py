"""Live progress: from inside a task to readers in any process, at the price of a few commits."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sitq import Status, TaskQueue, Worker, current_task
from sitq.backends.base import Backend
from sitq.events import (
    TaskEnqueued,
    TaskLogged,
    TaskProgressed,
    TaskPublished,
    TaskStarted,
    TaskSucceeded,
)
from sitq.stream import Streamed
from sitq.worker import outbox
from tests.integration.support import Gate, drain, end_group, run_python, spied_queue, start_python
from tests.support import PATIENCE

gate: Gate
go_on = threading.Event()


@pytest.fixture(autouse=True)
async def shared() -> AsyncIterator[None]:
    global gate
    gate = Gate()
    go_on.clear()
    yield
    go_on.set()


def talk() -> str:
    task = current_task()
    task.progress(0, "begin")
    task.log("one")
    task.publish({"rows": 1})
    task.log("two")
    task.progress(100, "end")
    return "done"


def storm(number: int) -> None:
    task = current_task()
    for each in range(number):
        task.progress(100 * each / number, f"step {each}")


async def talk_and_wait() -> None:
    current_task().progress(50, "halfway")
    await gate.pass_through()


async def blocks_the_loop() -> None:
    current_task().log("about to block")
    go_on.wait(PATIENCE)


def kinds(entries: list[Streamed]) -> list[type[Any]]:
    return [type(entry.event) for entry in entries]


async def listed(entries: Any) -> list[Streamed]:
    async with asyncio.timeout(PATIENCE):
        return [entry async for entry in entries]


async def test_a_reader_sees_everything_to_the_end(queue: TaskQueue) -> None:
    handle = await queue.enqueue(talk)
    reading = asyncio.create_task(listed(handle.events()))
    async with Worker(queue):
        told = await reading
    lines = [entry.event for entry in told if isinstance(entry.event, TaskLogged | TaskPublished)]
    assert [getattr(event, "text", None) or event.value for event in lines] == ["one", {"rows": 1}, "two"]
    assert (kinds(told)[0], kinds(told)[-1]) == (TaskEnqueued, TaskSucceeded)
    assert told[-2].event == TaskProgressed(handle, told[0].event.task, "default", 1, 100, "end")


async def test_nothing_said_before_the_end_is_lost(queue: TaskQueue) -> None:
    handles = [await queue.enqueue(talk) for _ in range(50)]
    await drain(queue)
    for handle in handles:
        told = await listed(handle.events())
        assert [entry.event.text for entry in told if isinstance(entry.event, TaskLogged)] == ["one", "two"]
        assert (await queue.get(handle)).progress == (100, "end")


async def test_progress_is_there_while_the_task_runs(queue: TaskQueue) -> None:
    handle = await queue.enqueue(talk_and_wait)
    async with Worker(queue):
        entries = handle.events()
        async with asyncio.timeout(PATIENCE):
            async for entry in entries:
                if isinstance(entry.event, TaskProgressed):
                    break
        await entries.aclose()  # a reader may leave, and the task does not notice
        assert (await queue.get(handle)).progress == (50, "halfway")
        assert await handle.status() is Status.RUNNING
        gate.open()
        await handle.result(timeout=PATIENCE)


async def test_from_every_cursor_on_it_is_the_rest_even_after_the_end(queue: TaskQueue) -> None:
    handle = await queue.enqueue(talk)
    await drain(queue)
    told = await listed(handle.events())
    assert kinds(told) == [
        TaskEnqueued,
        TaskStarted,
        TaskLogged,
        TaskPublished,
        TaskLogged,
        TaskProgressed,
        TaskSucceeded,
    ]
    for number, entry in enumerate(told, 1):
        assert await listed(handle.events(after=entry.cursor)) == told[number:]


async def test_ten_thousand_steps_cost_a_few_writes(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FLUSH_INTERVAL", 3600)
    queue, spied = spied_queue(backend)
    async with queue:
        handle = await queue.enqueue(storm, 10_000)
        await drain(queue)
        progress = (await queue.get(handle)).progress
    assert progress == (99.99, "step 9999")
    # One at once and one in each interval; the other ones are the worker's signs of life.
    assert spied.calls["heartbeat"] < 20


async def test_a_coroutine_that_blocks_the_loop_is_heard_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    code = """
import asyncio, sys
from sitq import TaskQueue, Worker
async def main(path):
    async with TaskQueue(path) as queue:
        await Worker(queue, max_tasks=1).run()
asyncio.run(main(sys.argv[1]))
"""
    async with TaskQueue(path) as queue:
        handle = await queue.enqueue(blocks_the_loop)
        with start_python(code, path) as process:
            try:
                async with asyncio.timeout(PATIENCE):
                    async for entry in handle.events():
                        if isinstance(entry.event, TaskLogged):
                            break
                assert await handle.status() is Status.RUNNING
            finally:
                end_group(process)


READER = """
import asyncio, sys
from sitq import TaskQueue

async def main(path, task_id, after):
    async with TaskQueue(path) as queue:
        async for entry in queue.events(task_id, after=after or None):
            print(entry.cursor, type(entry.event).__name__, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_reader_in_another_process_sees_it_live_and_goes_on_in_a_third(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with TaskQueue(path) as queue:
        handle = await queue.enqueue(talk_and_wait)
        with start_python(READER, path, handle, "") as process:
            assert process.stdout is not None
            try:
                async with Worker(queue):
                    lines: list[list[str]] = []
                    while not lines or lines[-1][1] != "TaskProgressed":
                        line = await asyncio.to_thread(process.stdout.readline)
                        assert line, "the reader ended"
                        lines.append(line.split())
                    assert [name for _, name in lines] == ["TaskEnqueued", "TaskStarted", "TaskProgressed"]
                    gate.open()
                    out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
                    assert out.split()[1:] == ["TaskSucceeded"], err
            finally:
                end_group(process)
        for number, (cursor, _) in enumerate(lines, 1):
            done = await asyncio.to_thread(run_python, READER, path, handle, cursor)
            names = [line.split()[1] for line in done.stdout.splitlines()]
            assert names == [name for _, name in lines[number:]] + ["TaskSucceeded"]


async def test_a_task_that_says_nothing_costs_nothing(backend: Backend) -> None:
    queue, _ = spied_queue(backend)
    async with queue:
        handle = await queue.enqueue(len, "abc")
        await drain(queue)
        assert await queue.backend.notes(handle) == []
