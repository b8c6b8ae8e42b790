"""A caller is cancelled at every point where it waits. The write lock is never left open and nothing is half done."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.sqlite import SQLiteBackend
from sitq.model import Held, QueueTopic, Released, Status, Succeeded, TaskQuery
from tests.support import LEASE, PATIENCE, FakeClock, everything, new_task, new_tasks, record, running

# Each of the first turns of the loop, then fewer and fewer: there a call only waits for a slow disk.
TURNS = [*range(100), *(int(100 * 1.25**step) for step in range(40))]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def backend(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock)
    await backend.open()
    yield backend
    await backend.close()


async def check_that_nothing_is_held(backend: SQLiteBackend) -> None:
    """What was started is over, the writer has no transaction open, and another connection can write at once."""
    assert await backend._writer.run(lambda db: db.in_transaction) is True  # this very operation's
    assert await on_writer_thread(backend, lambda: backend._writer._db.in_transaction) is False
    with closing(sqlite3.connect(backend.path, timeout=0, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        foreign.execute("ROLLBACK")
        assert foreign.execute("PRAGMA quick_check").fetchall() == [("ok",)]


async def on_writer_thread(backend: SQLiteBackend, function: Callable[[], Any]) -> Any:
    """Run something on the database thread between transactions."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    backend._writer._send(lambda: loop.call_soon_threadsafe(answer.set_result, function()))
    return await asyncio.wait_for(answer, PATIENCE)


async def cancelled_after(turns: int, call: Awaitable[Any]) -> bool:
    """Start a call, cancel it after so many turns of the loop. False if it was faster."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
        if task.done():
            break
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


@dataclass(frozen=True)
class Verb:
    """A call, and what tells afterwards whether it took place (None for one that changes nothing)."""

    call: Callable[[SQLiteBackend, list[Held]], Awaitable[Any]]
    took_place: Callable[[SQLiteBackend, list[Held]], Awaitable[list[bool]]]


async def enqueued(backend: SQLiteBackend, held: list[Held]) -> list[bool]:
    found = {task.id for task in await backend.find(TaskQuery(ids=["new-1", "new-2", "new-3"]))}
    return [name in found for name in ("new-1", "new-2", "new-3")]


async def reserved(backend: SQLiteBackend, held: list[Held]) -> list[bool]:
    found = await backend.find(TaskQuery(ids=["due-1", "due-2"]))
    return [task.status is Status.RUNNING for task in found]


async def completed(backend: SQLiteBackend, held: list[Held]) -> list[bool]:
    found = [await record(backend, one.id) for one in held]
    for task in found:
        assert (task.status is Status.SUCCESS) == (task.result == b"value") == (task.finished_at is not None)
    return [task.status is Status.SUCCESS for task in found]


async def was_cancelled(backend: SQLiteBackend, held: list[Held]) -> list[bool]:
    pending = await backend.find(TaskQuery(ids=["due-1", "due-2"]))
    flags = [(await record(backend, one.id)).cancel_requested for one in held]
    return [*(task.status is Status.CANCELLED for task in pending), *flags]


async def renewed(backend: SQLiteBackend, held: list[Held]) -> list[bool]:
    now = backend._clock.now()
    due = [(await record(backend, one.id)).due_at for one in held]
    return [at is not None and at > now + LEASE for at in due]


async def nothing(backend: SQLiteBackend, held: list[Held]) -> list[bool]:
    return [False]


VERBS = {
    "enqueue": Verb(lambda b, held: b.enqueue([new_task(f"new-{n}") for n in (1, 2, 3)]), enqueued),
    "reserve": Verb(lambda b, held: b.reserve("w1", None, 10, LEASE, ids=["due-1", "due-2"]), reserved),
    "complete": Verb(lambda b, held: b.complete([Succeeded(one, b"value") for one in held]), completed),
    "cancel": Verb(lambda b, held: b.cancel(["due-1", "due-2", *(one.id for one in held)]), was_cancelled),
    "heartbeat": Verb(lambda b, held: b.heartbeat("w1", held, 2 * LEASE), renewed),
    "find": Verb(lambda b, held: b.find(TaskQuery(with_bytes=True)), nothing),
    "get_result": Verb(lambda b, held: b.get_result("due-1"), nothing),
    "prune": Verb(lambda b, held: b.prune(10), nothing),
    "stats": Verb(lambda b, held: b.stats(), nothing),
}


async def prepare(backend: SQLiteBackend) -> list[Held]:
    """Two tasks that are due and two that run, and nothing else."""

    def clear(db: sqlite3.Connection) -> None:
        for table in ("sitq_tasks", "sitq_payloads"):
            db.execute(f"DELETE FROM {table}")

    await backend._writer.run(clear)
    held = [await running(backend, new_task(f"held-{n}")) for n in (1, 2)]
    await backend.enqueue([new_task("due-1"), new_task("due-2")])
    return held


@pytest.mark.parametrize("name", VERBS)
async def test_cancelled_at_every_await_all_or_nothing_happens(backend: SQLiteBackend, name: str) -> None:
    verb = VERBS[name]
    for turns in TURNS:
        held = await prepare(backend)

        was_cut_off = await cancelled_after(turns, verb.call(backend, held))

        await check_that_nothing_is_held(backend)
        happened = await verb.took_place(backend, held)
        assert len(set(happened)) == 1, f"half of it after {turns} turns: {happened}"
        if not was_cut_off:
            assert turns > 0
            assert all(happened) or verb.took_place is nothing
            break
    else:
        pytest.fail("it never completed")
    # Repeated, it happens: nothing that was cut off stands in its way.
    await verb.call(backend, held)
    assert all(await verb.took_place(backend, held)) or verb.took_place is nothing
    assert (await backend.stats()).stale_outcomes == 0


async def test_a_listener_that_is_cut_off_is_announced_by_the_next_one(
    backend: SQLiteBackend, tmp_path: Path, clock: FakeClock
) -> None:
    """Whatever became of the first call, another process knows the second listener and rings it."""
    other = SQLiteBackend(tmp_path / "tasks.db", clock=clock)
    await other.open()

    async def listen() -> None:
        async with backend.listen([QueueTopic()]):
            pass

    for turns in TURNS:
        clock.advance(3600)  # so that it has to be announced again
        await other._writer.run(lambda db: db.execute("DELETE FROM sitq_listeners").close())
        was_cut_off = await cancelled_after(turns, listen())
        await check_that_nothing_is_held(backend)
        async with backend.listen([QueueTopic()]) as signal:
            await other.enqueue([new_task()])
            assert await signal.wait(PATIENCE), f"not rung after a cut at {turns} turns"
        if not was_cut_off:
            break
    else:
        pytest.fail("it never completed")
    await other.close()


@pytest.mark.parametrize("verb", ["open", "close"])
async def test_opening_and_closing_leave_no_thread_when_they_are_cut_off(
    tmp_path: Path, clock: FakeClock, verb: str
) -> None:
    for turns in TURNS:
        backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock)
        if verb == "open":
            was_cut_off = await cancelled_after(turns, backend.open())
        else:
            await backend.open()
            async with backend.listen([QueueTopic()]):
                pass
            was_cut_off = await cancelled_after(turns, backend.close())
        # After either, closing and opening again work.
        await backend.close()
        for lane in (backend._writer, backend._reader) if hasattr(backend, "_reader") else ():
            thread = lane._thread._thread
            if thread.ident is not None:
                await asyncio.to_thread(thread.join, PATIENCE)
                assert not thread.is_alive(), f"a thread is left after {turns} turns"
        await backend.open()
        await backend.enqueue([new_task()])
        await check_that_nothing_is_held(backend)
        await backend.close()
        if not was_cut_off:
            break
    else:
        pytest.fail("it never completed")
    assert not (tmp_path / "tasks.db-wal").exists(), "a connection was left open"


CALLERS = 50
CUTS = 300


async def test_random_cancellations_among_many_callers(backend: SQLiteBackend) -> None:
    dice = random.Random(20_260_301)
    cuts = 0
    accepted: set[str] = set()
    abandoned: set[str] = set()
    running_calls: dict[int, asyncio.Task[Any]] = {}

    async def cycle() -> None:
        tasks = new_tasks(dice.randint(1, 3))
        ids = {task.id for task in tasks}
        abandoned.update(ids)
        await backend.enqueue(tasks)
        abandoned.difference_update(ids)
        accepted.update(ids)
        got = (await backend.reserve("w1", None, 3, LEASE)).tasks
        await backend.heartbeat("w1", [task.held for task in got], LEASE)
        await backend.complete(
            [Succeeded(task.held, b"value") if dice.random() < 0.7 else Released(task.held) for task in got]
        )
        await backend.find(TaskQuery(ids=list(ids), with_bytes=True))

    async def caller(number: int) -> None:
        while cuts < CUTS:
            call = running_calls[number] = asyncio.ensure_future(cycle())
            try:
                await call
            except asyncio.CancelledError:
                pass

    callers = [asyncio.ensure_future(caller(number)) for number in range(CALLERS)]
    while cuts < CUTS:
        for _ in range(dice.randint(1, 5)):
            await asyncio.sleep(0)
        victim = running_calls[dice.randrange(CALLERS)]
        if not victim.done():
            victim.cancel()
            cuts += 1
    await asyncio.gather(*callers)

    assert cuts == CUTS
    await check_that_nothing_is_held(backend)
    stored = {task.id: task for task in await everything(backend)}
    assert accepted <= stored.keys() <= accepted | abandoned
    assert all(task.payload == b"payload of " + task.id.encode() for task in stored.values())
    assert all((task.result is not None) == (task.status is Status.SUCCESS) for task in stored.values())
    assert (await backend.stats()).stale_outcomes == 0
    assert (await backend.enqueue([new_task("afterwards")]))[0].created
