"""Unique keys through the options of a task: how long they are held, and debounce and throttle on top of them."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from sitq import Status, TaskQueue, ValidationError, Worker, call, task
from sitq.events import TaskStarted
from tests.integration.support import Gate, drain, recorded
from tests.support import HOUR, PATIENCE

gate: Gate


@pytest.fixture(autouse=True)
async def shared() -> None:
    global gate
    gate = Gate()


def echo(value: Any) -> Any:
    return value


async def wait_at_the_gate(value: int) -> int:
    await gate.pass_through()
    return value


@task(unique_key="definition", unique_until="start")
def defined() -> None: ...


# -- Lifetimes --------------------------------------------------------------------------------------


async def test_a_live_duplicate_is_the_task_that_is_there(queue: TaskQueue) -> None:
    first = await queue.options(unique_key="import").enqueue(echo, 1)
    again = await queue.options(unique_key="import").enqueue(echo, 2)
    other = await queue.options(unique_key="export").enqueue(echo, 3)
    assert first == again != other
    await drain(queue)
    assert [await each.result() for each in (first, again, other)] == [1, 1, 3]
    assert (await queue.options(unique_key="import").enqueue(echo, 4)) != first


async def test_until_its_end_a_running_task_holds_the_key(queue: TaskQueue) -> None:
    first = await queue.options(unique_key="k").enqueue(wait_at_the_gate, 1)
    async with Worker(queue):
        await gate.wait_reached()
        assert await queue.options(unique_key="k").enqueue(echo, 2) == first
        gate.open()
        assert await first.result(timeout=PATIENCE) == 1
        assert await queue.options(unique_key="k").enqueue(echo, 2) != first


async def test_until_its_start_a_running_task_has_let_go(queue: TaskQueue) -> None:
    options = queue.options(unique_key="k", unique_until="start")
    first = await options.enqueue(wait_at_the_gate, 1)
    assert await options.enqueue(echo, 2) == first
    async with Worker(queue):
        await gate.wait_reached()
        second = await options.enqueue(echo, 2)
        assert second != first
        gate.open()
        assert await second.result(timeout=PATIENCE) == 2


async def test_for_a_time_the_key_is_held_whatever_became_of_the_task(queue: TaskQueue) -> None:
    options = queue.options(unique_key="k", unique_until=HOUR)
    first = await options.enqueue(echo, 1)
    await drain(queue)
    assert await first.status() is Status.SUCCESS
    assert await options.enqueue(echo, 2) == first
    brief = queue.options(unique_key="b", unique_until=0.001)
    before = await brief.enqueue(echo, 1)
    async with asyncio.timeout(PATIENCE):
        while await brief.enqueue(echo, 2) == before:
            await asyncio.sleep(0)


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_whatever_ends_the_holder_frees_the_key(queue: TaskQueue, end: str) -> None:
    options = queue.options(unique_key="k")
    first = await options.enqueue(echo if end == "cancelled" else int, "x")
    if end == "cancelled":
        await first.cancel()
    else:
        await drain(queue)
    assert (await first.status()).value == end
    assert await options.enqueue(echo, 2) != first


async def test_a_definition_may_have_a_key(queue: TaskQueue) -> None:
    assert await queue.enqueue(defined) == await queue.enqueue(defined)
    assert await queue.options(unique_key="own").enqueue(defined) != await queue.enqueue(defined)


async def test_a_batch_with_one_key_is_one_task(queue: TaskQueue) -> None:
    handles = await queue.options(unique_key="k").enqueue_many(call(echo, number) for number in range(5))
    assert len(set(handles)) == 1
    await drain(queue)
    assert await handles[4].result() == 0


async def test_a_hundred_at_once_are_one_task(queue: TaskQueue) -> None:
    options = queue.options(unique_key="k")
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(options.enqueue(echo, number)) for number in range(100)]
    assert len({each.result() for each in made}) == 1
    assert len(await queue.find(limit=1000)) == 1


async def test_requeue_leaves_a_task_whose_key_was_taken(queue: TaskQueue) -> None:
    options = queue.options(unique_key="k")
    first = await options.enqueue(int, "x")
    await drain(queue)
    second = await options.enqueue(echo, 1)
    assert await queue.requeue(first) == []
    await second.cancel()
    assert await queue.requeue(first) == [first]
    assert await options.enqueue(echo, 1) == first


# -- Debounce and throttle --------------------------------------------------------------------------


async def test_debounce_runs_the_last_call_once_and_puts_it_off_each_time(queue: TaskQueue) -> None:
    options = queue.options(debounce=HOUR)
    first = await options.enqueue(echo, "a")
    due = (await queue.get(first)).due_at
    assert await options.enqueue(echo, "b") == first
    later = (await queue.get(first)).due_at
    assert due is not None
    assert later is not None
    assert later >= due
    assert await queue.options(debounce=0.001).enqueue(echo, "last") == first
    async with Worker(queue):
        assert await first.result(timeout=PATIENCE) == "last"
    assert await options.enqueue(echo, "next") != first


async def test_debounce_of_other_tasks_is_their_own(queue: TaskQueue) -> None:
    options = queue.options(debounce=HOUR)
    assert await options.enqueue(echo, 1) != await options.enqueue(str, 1)
    keyed = [await queue.options(debounce=HOUR, unique_key=key).enqueue(echo, 1) for key in "aab"]
    assert keyed[0] == keyed[1] != keyed[2]


async def test_debounce_does_not_touch_one_that_runs(queue: TaskQueue) -> None:
    options = queue.options(debounce=0.001)
    first = await options.enqueue(wait_at_the_gate, 1)
    async with Worker(queue):
        await gate.wait_reached()
        second = await options.enqueue(wait_at_the_gate, 2)
        assert second != first
        gate.open()
        assert [await each.result(timeout=PATIENCE) for each in (first, second)] == [1, 2]


async def test_throttle_is_one_task_in_a_span(queue: TaskQueue) -> None:
    options = queue.options(throttle=HOUR)
    first = await options.enqueue(echo, 1)
    await drain(queue)
    assert await options.enqueue(echo, 2) == first
    assert await first.result() == 1
    assert await options.enqueue(str, 2) != first
    brief = queue.options(throttle=timedelta(milliseconds=1), unique_key="b")
    before = await brief.enqueue(echo, 1)
    async with asyncio.timeout(PATIENCE):
        while await brief.enqueue(echo, 2) == before:
            await asyncio.sleep(0)


async def test_each_run_of_a_key_is_alone(queue: TaskQueue) -> None:
    """Two workers, and whoever comes while one runs is turned away: never two at once."""
    workers = [Worker(queue, concurrency=4) for _ in range(2)]
    recorders = [recorded(worker) for worker in workers]
    async with workers[0], workers[1]:
        handles = [await queue.options(unique_key="k").enqueue(wait_at_the_gate, n) for n in range(20)]
        await gate.wait_reached()
        gate.open()
        await handles[0].result(timeout=PATIENCE)
    assert sum(len(recorder.of(TaskStarted)) for recorder in recorders) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unique_until": "end"}, "unique_until was given without unique_key"),
        ({"debounce": 5, "throttle": 5}, "debounce and throttle both say which of several calls to run"),
        ({"debounce": 5, "eta": None, "delay": 5}, "debounce and delay both say when to start"),
        ({"unique_key": "sitq:mine"}, "begins with 'sitq:'"),
    ],
)
async def test_contradictions_are_refused_by_name(
    queue: TaskQueue, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        await queue.options(**given).enqueue(echo, 1)
    assert await queue.find() == []
