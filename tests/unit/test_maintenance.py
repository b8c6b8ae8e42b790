"""Finished tasks are deleted once their time has passed, a batch at a time, and nothing else is."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sitq.backends.memory import MemoryBackend
from sitq.errors import BackendError
from sitq.events import StorageFailed
from sitq.model import Succeeded
from sitq.worker.maintenance import Pruner
from tests.integration.support import Recorder, Spied
from tests.support import HOUR, PATIENCE, FakeClock, everything, new_task, new_tasks


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def backend(clock: FakeClock) -> MemoryBackend:
    made = MemoryBackend(clock=clock)
    await made.open()
    return made


async def finished(backend: Any, number: int, **fields: Any) -> list[str]:
    """So many tasks that have just finished."""
    tasks = new_tasks(number, **fields)
    await backend.enqueue(tasks)
    ids = [task.id for task in tasks]
    reserved = await backend.reserve("w1", None, number, HOUR, ids=ids)
    await backend.complete([Succeeded(task.held, b"") for task in reserved.tasks])
    return ids


def pruner(backend: Any, emit: Any = lambda event: None, **options: Any) -> Pruner:
    return Pruner("w1", backend, emit, **options)


@pytest.mark.parametrize(("number", "calls"), [(0, 1), (1, 1), (999, 1), (1000, 2), (2500, 3)])
async def test_everything_due_is_pruned_in_batches(
    backend: MemoryBackend, clock: FakeClock, number: int, calls: int
) -> None:
    await finished(backend, number, result_ttl=HOUR)
    clock.advance(HOUR)
    limits: list[int] = []
    spied = Spied(backend)

    async def keep(limit: int) -> None:
        limits.append(limit)

    spied.before["prune"] = keep
    assert await pruner(spied).run_once() == number
    assert limits == [1000] * calls
    assert await everything(backend) == []


async def test_what_is_not_due_is_kept(backend: MemoryBackend, clock: FakeClock) -> None:
    due = await finished(backend, 2, result_ttl=HOUR)
    kept = await finished(backend, 2, result_ttl=2 * HOUR)
    kept += await finished(backend, 2, result_ttl=None)
    unfinished = new_task(result_ttl=timedelta(0))
    await backend.enqueue([unfinished])
    clock.advance(HOUR)
    assert await pruner(backend).run_once() == len(due)
    assert {task.id for task in await everything(backend)} == {*kept, unfinished.id}


async def test_the_time_counts_from_the_end_to_the_microsecond(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    await finished(backend, 1, result_ttl=HOUR)
    clock.advance(HOUR - timedelta(microseconds=1))
    assert await pruner(backend).run_once() == 0
    clock.advance(timedelta(microseconds=1))
    assert await pruner(backend).run_once() == 1


async def test_it_goes_on_after_a_storage_that_failed(backend: MemoryBackend, clock: FakeClock) -> None:
    await finished(backend, 3, result_ttl=HOUR)
    clock.advance(HOUR)
    spied, recorder, pruned = Spied(backend), Recorder(), asyncio.Event()
    errors = [BackendError("away"), BackendError("still away")]

    async def fail(limit: int) -> None:
        if errors:
            raise errors.pop(0)

    async def tell(count: int) -> None:
        pruned.set()

    spied.before["prune"], spied.after["prune"] = fail, tell
    running = asyncio.create_task(pruner(spied, recorder, interval=0.0).run())
    await recorder.wait_for(StorageFailed, 2)
    async with asyncio.timeout(PATIENCE):
        await pruned.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert recorder.events == [
        StorageFailed("w1", "prune", "away", 0.0),
        StorageFailed("w1", "prune", "still away", 0.0),
    ]
    assert await everything(backend) == []


async def test_a_bug_in_the_storage_is_not_hidden(backend: MemoryBackend) -> None:
    spied = Spied(backend)

    async def fail(limit: int) -> None:
        raise ZeroDivisionError

    spied.before["prune"] = fail
    with pytest.raises(ZeroDivisionError):
        await pruner(spied, interval=0.0).run()


async def test_the_pauses_differ_and_stay_around_the_interval(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(delay: float) -> None:
        pauses.append(delay)
        if len(pauses) == 50:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await pruner(backend, interval=60.0).run()
    assert all(30.0 <= pause <= 90.0 for pause in pauses)
    assert len(set(pauses)) > 1
