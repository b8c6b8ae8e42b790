"""The life of a task as a stream: everything once, in order, and from any cursor on the rest."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sitq import TaskNotFoundError, TaskQueue, ValidationError
from sitq.backends.base import Backend, Signal
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import QueueClosedError
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
)
from sitq.failure import ErrorInfo, encode_error
from sitq.model import Failed, Held, NewNote, NoteKind, Released, Retried, Succeeded
from sitq.progress import encode_line, encode_progress
from sitq.serialization import encode_value
from sitq.stream import Streamed
from tests.support import LEASE, PATIENCE, FakeClock, new_task, reserve_one

ABOUT = ("t1", "work", "default")
ERROR = encode_error(ErrorInfo("ValueError", "oh"))
waiting: asyncio.Event


@pytest.fixture(autouse=True)
async def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    global waiting
    waiting = now = asyncio.Event()
    real = Signal.wait

    async def wait(self: Signal, timeout: float | None = None) -> bool:
        now.set()
        try:
            return await real(self, timeout)
        finally:
            now.clear()

    monkeypatch.setattr(Signal, "wait", wait)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Backend]:
    made: Backend = (
        MemoryBackend(clock=clock)
        if request.param == "memory"
        else SQLiteBackend(tmp_path / "tasks.db", clock=clock, durability="fast")
    )
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def queue(backend: Backend) -> TaskQueue:
    await backend.enqueue([new_task("t1")])
    return TaskQueue(backend)


async def say(backend: Backend, held: Held, *texts: str) -> None:
    notes = [NewNote(held, NoteKind.LOG, encode_line(text)) for text in texts]
    await backend.heartbeat("w1", [], timedelta(), notes=notes)


async def so_far(queue: TaskQueue, after: str | None = None) -> list[Streamed]:
    """What the stream tells before it waits, or until its end."""
    found: list[Streamed] = []
    entries = queue.events("t1", after=after)
    while True:
        reading = asyncio.ensure_future(anext(entries, None))
        idle = asyncio.ensure_future(_waits())
        await asyncio.wait([reading, idle], return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            break
        entry = reading.result()
        if entry is None:
            break
        found.append(entry)
    await entries.aclose()
    return found


async def _waits() -> None:
    """Until a reader has told everything and waits for more."""
    async with asyncio.timeout(PATIENCE):
        await waiting.wait()


def events(entries: list[Streamed]) -> list[Any]:
    return [entry.event for entry in entries]


async def whole_life(backend: Backend, clock: FakeClock) -> None:
    """Two attempts, a new run that succeeds, and everything that a task may say."""
    for _ in range(2):
        task = await reserve_one(backend)
        clock.advance(1)
        await say(backend, task.held, f"attempt {task.attempt}")
        clock.advance(1)
        if task.attempt == 1:
            await backend.complete([Retried(task.held, clock.now(), ERROR)])
        else:
            await backend.complete([Failed(task.held, ERROR)])
        clock.advance(1)
    await backend.requeue(["t1"])
    clock.advance(1)
    task = await reserve_one(backend)
    clock.advance(1)
    notes = [
        NewNote(task.held, NoteKind.VALUE, encode_value([1, 2], max_payload=100)),
        NewNote(task.held, NoteKind.PROGRESS, encode_progress(99, "nearly")),
    ]
    await backend.complete([Succeeded(task.held, b"")], notes=notes)


LIFE = [
    TaskEnqueued(*ABOUT),
    TaskLogged(*ABOUT, 1, "attempt 1"),
    TaskRetried(*ABOUT, 1, None, None, "ValueError", "oh"),
    TaskLogged(*ABOUT, 2, "attempt 2"),
    TaskRequeued(*ABOUT),
    TaskStarted(*ABOUT, 1, "w1"),
    TaskPublished(*ABOUT, 1, [1, 2]),
    TaskProgressed(*ABOUT, 1, 99, "nearly"),
    TaskSucceeded(*ABOUT, 1, "w1", 1.0),
]


async def test_who_comes_late_is_told_what_is_kept(queue: TaskQueue, clock: FakeClock) -> None:
    await whole_life(queue.backend, clock)
    told = await so_far(queue)
    assert events(told) == LIFE
    assert all(one.at <= other.at for one, other in pairwise(told))


async def test_from_every_cursor_on_it_is_the_rest(queue: TaskQueue, clock: FakeClock) -> None:
    await whole_life(queue.backend, clock)
    told = await so_far(queue)
    for number, entry in enumerate(told, 1):
        assert await so_far(queue, entry.cursor) == told[number:]


async def test_who_is_there_all_the_time_sees_every_start(queue: TaskQueue, clock: FakeClock) -> None:
    backend, told = queue.backend, list[Streamed]()

    async def look() -> None:
        told.extend(await so_far(queue, told[-1].cursor if told else None))

    await look()
    for attempt in (1, 2):
        task = await reserve_one(backend)
        await look()
        await look()  # nothing twice
        await say(backend, task.held, "a", "b")
        await look()
        await backend.complete(
            [Retried(task.held, clock.now(), ERROR) if attempt == 1 else Failed(task.held, ERROR)]
        )
        await look()
    await look()  # the end, too
    await backend.requeue(["t1"])
    await look()
    task = await reserve_one(backend)
    await backend.complete([Released(task.held)])
    await backend.cancel(["t1"])
    await look()
    await look()
    assert events(told) == [
        TaskEnqueued(*ABOUT),
        TaskStarted(*ABOUT, 1, "w1"),
        TaskLogged(*ABOUT, 1, "a"),
        TaskLogged(*ABOUT, 1, "b"),
        TaskRetried(*ABOUT, 1, None, None, "ValueError", "oh"),
        TaskStarted(*ABOUT, 2, "w1"),
        TaskLogged(*ABOUT, 2, "a"),
        TaskLogged(*ABOUT, 2, "b"),
        TaskFailed(*ABOUT, 2, "w1", 0.0, "ValueError", "oh"),
        TaskRequeued(*ABOUT),
        TaskCancelled(*ABOUT, 0, "", 0.0),
    ]


async def test_a_task_that_is_cancelled_twice_ends_twice(queue: TaskQueue) -> None:
    await queue.cancel("t1")
    first = await so_far(queue)
    await queue.requeue("t1")
    await queue.cancel("t1")
    again = await so_far(queue, first[-1].cursor)
    assert [type(event) for event in events(first + again)] == [
        TaskEnqueued,
        TaskCancelled,
        TaskRequeued,
        TaskCancelled,
    ]


async def test_more_notes_than_a_page_come_in_order(
    queue: TaskQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitq.stream._PAGE", 3)
    task = await reserve_one(queue.backend)
    await say(queue.backend, task.held, *"abcdefg")
    clock.advance(1)
    await queue.backend.complete([Retried(task.held, clock.now(), ERROR)])
    clock.advance(1)
    task = await reserve_one(queue.backend)
    await say(queue.backend, task.held, "h")
    await queue.backend.complete([Succeeded(task.held, b"")])
    told = await so_far(queue)
    names = [event.text if isinstance(event, TaskLogged) else type(event).__name__ for event in events(told)]
    assert names == ["TaskEnqueued", *"abcdefg", "TaskRetried", "TaskStarted", "h", "TaskSucceeded"]
    for number, entry in enumerate(told, 1):
        assert await so_far(queue, entry.cursor) == told[number:]


async def test_a_reader_that_waits_is_rung(queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitq.stream._POLL_INTERVAL", 60.0)
    task = await reserve_one(queue.backend)
    entries = queue.events("t1")
    async with asyncio.timeout(PATIENCE):
        assert [(await anext(entries)).event for _ in range(2)] == [LIFE[0], TaskStarted(*ABOUT, 1, "w1")]
        reading = asyncio.ensure_future(anext(entries))
        await _waits()
        await say(queue.backend, task.held, "hello")
        assert (await reading).event == TaskLogged(*ABOUT, 1, "hello")
        reading = asyncio.ensure_future(anext(entries))
        await _waits()
        await queue.backend.complete([Succeeded(task.held, b"")])
        assert isinstance((await reading).event, TaskSucceeded)
        assert await anext(entries, None) is None


async def test_who_leaves_early_stops_listening() -> None:
    backend = MemoryBackend()
    async with TaskQueue(backend) as queue:
        await backend.enqueue([new_task("t1")])
        entries = queue.events("t1")
        await anext(entries)
        assert backend._bells._tasks
        await entries.aclose()
        assert not backend._bells._tasks


async def test_a_task_that_is_pruned_ends_the_stream_with_an_error(queue: TaskQueue) -> None:
    await queue.cancel("t1")
    [*_, last] = await so_far(queue)
    await queue.discard("t1")
    with pytest.raises(TaskNotFoundError):
        await so_far(queue, last.cursor)


async def test_who_waits_is_told_of_a_close(queue: TaskQueue) -> None:
    entries = queue.events("t1")
    await anext(entries)
    reading = asyncio.ensure_future(anext(entries))
    await _waits()
    await queue.close()
    with pytest.raises(QueueClosedError):
        async with asyncio.timeout(PATIENCE):
            await reading
    await queue.open()


@pytest.mark.parametrize(
    "cursor",
    ["", "1", "1.2", "1.2.3", "1.2.done", "a.b.running", "-1.0.running", "0.-1.running", f"{2**63}.0.running",
     "9" * 5000 + ".0.running", "1.2.running.4", 7, b"1.2.running"],
)  # fmt: skip
async def test_what_is_no_cursor_is_refused(queue: TaskQueue, cursor: Any) -> None:
    with pytest.raises(ValidationError, match=r"^after is no cursor: give the cursor of an entry"):
        await so_far(queue, cursor)


async def test_an_attempt_that_lost_its_lease_is_followed_by_the_next_start(
    queue: TaskQueue, clock: FakeClock
) -> None:
    await reserve_one(queue.backend, "w1")
    told = await so_far(queue)
    clock.advance(LEASE)
    task = await reserve_one(queue.backend, "w2")
    told += await so_far(queue, told[-1].cursor)
    assert events(told)[1:] == [TaskStarted(*ABOUT, 1, "w1"), TaskStarted(*ABOUT, task.attempt, "w2")]
