"""Limits through the options of a task: how many at once and how often, over all workers, and nobody else waits."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from sitq import Status, TaskQueue, ValidationError, Worker, call
from sitq.backends.base import Backend
from sitq.events import TaskStarted
from tests.integration.support import Spied, drain, recorded, spied_queue
from tests.support import PATIENCE

running: Counter[str]
most: Counter[str]
free: asyncio.Semaphore
started: asyncio.Semaphore


@pytest.fixture(autouse=True)
async def shared() -> None:
    global running, most, free, started
    running, most, free, started = Counter(), Counter(), asyncio.Semaphore(0), asyncio.Semaphore(0)


async def count(key: str) -> None:
    """Runs until the test lets one go."""
    running[key] += 1
    most[key] = max(most[key], running[key])
    started.release()
    await free.acquire()
    running[key] -= 1


def quick() -> None: ...


async def begun(number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        for _ in range(number):
            await started.acquire()


# -- Concurrency ------------------------------------------------------------------------------------


async def test_at_most_so_many_run_at_once_over_two_workers(queue: TaskQueue) -> None:
    limited = queue.options(concurrency_key="api", concurrency_limit=2)
    handles = await limited.enqueue_many([call(count, "api")] * 8)
    async with Worker(queue, concurrency=8), Worker(queue, concurrency=8):
        for _ in range(4):
            await begun(2)
            assert running == {"api": 2}
            free.release()
            free.release()
        for handle in handles:
            await handle.result(timeout=PATIENCE)
    assert most == {"api": 2}


async def test_a_key_that_is_full_holds_up_nobody_else(queue: TaskQueue) -> None:
    await queue.options(concurrency_key="slow", concurrency_limit=1, priority=-9).enqueue_many(
        [call(count, "slow")] * 500
    )
    async with Worker(queue, concurrency=3):
        await begun(1)
        others = await queue.options(concurrency_key="other", concurrency_limit=1).enqueue_many(
            [call(quick)] * 5
        )
        plain = await queue.enqueue(quick)
        for handle in (*others, plain):
            await handle.result(timeout=PATIENCE)
        assert running == {"slow": 1}
        await queue.pause("default")
        free.release()


async def test_a_full_key_does_not_make_a_worker_ask_again_and_again(backend: Backend) -> None:
    queue, spied = spied_queue(backend)
    async with queue:
        await queue.options(concurrency_key="k", concurrency_limit=1).enqueue_many([call(count, "k")] * 3)
        async with Worker(queue, concurrency=5, poll_interval=60):
            await begun(1)
            before = await _settled(spied)
            for _ in range(50):
                await queue.stats()
            assert spied.calls["reserve"] == before
            for _ in range(2):
                free.release()
                await begun(1)  # and yet the next one comes at once
            free.release()


async def _settled(spied: Spied) -> int:
    """How often was asked, once the worker has nothing more to ask."""
    before = -1
    while before != spied.calls["reserve"]:
        before = spied.calls["reserve"]
        for _ in range(20):
            await spied.inner.stats()
            await asyncio.sleep(0)
    return before


async def test_a_cancelled_run_lets_the_next_one_in(queue: TaskQueue) -> None:
    limited = queue.options(concurrency_key="k", concurrency_limit=1)
    first, second = await limited.enqueue_many([call(count, "k")] * 2)
    async with Worker(queue, poll_interval=60):
        await begun(1)
        assert await first.cancel(timeout=PATIENCE) is Status.CANCELLED
        await begun(1)
        free.release()
        await second.result(timeout=PATIENCE)


# -- Rate -------------------------------------------------------------------------------------------


async def test_no_more_than_so_many_start_in_a_span(queue: TaskQueue) -> None:
    handles = await queue.options(rate_limit="3/h").enqueue_many([call(quick)] * 8)
    await queue.enqueue(quick)  # has no limit
    recorder = await drain(queue)
    assert len(recorder.of(TaskStarted)) == 4
    assert Counter([await handle.status() for handle in handles]) == {Status.SUCCESS: 3, Status.PENDING: 5}


async def test_when_the_span_has_passed_the_next_ones_start_by_themselves(queue: TaskQueue) -> None:
    span = timedelta(milliseconds=150)
    handles = await queue.options(rate_limit="2/150ms").enqueue_many([call(quick)] * 6)
    async with Worker(queue, poll_interval=60):
        for handle in handles:
            await handle.result(timeout=PATIENCE)
    starts = sorted([record.started_at for record in await queue.find() if record.started_at is not None])
    assert len(starts) == 6
    assert all(starts[number + 2] - starts[number] >= span for number in range(4))


async def test_a_rate_is_that_of_a_queue_or_of_a_key(queue: TaskQueue) -> None:
    for name in ("mail", "mail", "web"):
        await queue.options(queue=name, rate_limit="1/h").enqueue(quick)
    for name in ("a", "a", "b"):
        await queue.options(rate_limit="1/h", rate_key=name).enqueue(quick)
    recorder = await drain(queue)
    assert Counter(event.queue for event in recorder.of(TaskStarted)) == {"mail": 1, "web": 1, "default": 2}


async def test_two_workers_share_a_rate(queue: TaskQueue) -> None:
    await queue.options(rate_limit="5/h").enqueue_many([call(quick)] * 20)
    workers = [Worker(queue) for _ in range(2)]
    recorders = [recorded(worker) for worker in workers]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(worker.run(until_idle=True) for worker in workers))
    assert sum(len(recorder.of(TaskStarted)) for recorder in recorders) == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concurrency_limit": 2}, "concurrency_limit was given without concurrency_key"),
        ({"concurrency_key": "k"}, "concurrency_key was given without concurrency_limit"),
        ({"rate_key": "k"}, "rate_key was given without rate_limit"),
        ({"rate_limit": "fast"}, "write a count and a period, as in '100/minute'"),
        ({"concurrency_key": "k", "concurrency_limit": 0}, "concurrency_limit is out of range"),
    ],
)
async def test_half_a_limit_is_refused_by_name(queue: TaskQueue, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        await queue.options(**given).enqueue(quick)
    assert await queue.find() == []
