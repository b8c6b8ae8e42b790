"""Tasks that depend on others, from enqueueing to the value, on each storage."""

import asyncio
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sitq import (
    ParentNotFoundError,
    QueueEmptyError,
    Status,
    TaskCancelledError,
    TaskFailedError,
    TaskQueue,
    ValidationError,
    Worker,
    call,
    chain,
    current_task,
    group,
    result_of,
    task,
)
from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.events import TaskEnqueued, TaskParked, TaskReleased
from sitq.model import FINISHED, ReservedTask, TaskQuery, TaskRecord
from sitq.worker import executor
from tests.integration.support import PATIENCE, drain, spied_queue


async def add(a: int, b: int = 0) -> int:
    return a + b


def double(number: int) -> int:
    return 2 * number


def total(numbers: list[int]) -> int:
    return sum(numbers)


def boom(*_: Any) -> None:
    raise ValueError("boom")


def told(value: object) -> str:
    return f"{type(value).__name__}: {str(value).splitlines()[0]}"


@task(queue="images", priority=3)
def picture(number: int) -> int:
    return number


# -- Values ----------------------------------------------------------------------------------------


async def test_values_of_handles_are_arguments(queue: TaskQueue) -> None:
    a, b = await queue.enqueue(add, 1), await queue.enqueue(double, 5)
    c = await queue.enqueue(add, result_of(a), b=result_of(b))
    d = await queue.enqueue(total, [result_of(a), 3, result_of(c)])
    assert await c.status() is Status.WAITING

    await drain(queue)

    assert [await one.result(PATIENCE) for one in (c, d)] == [11, 15]
    assert (await queue.get(d)).parents == (a, c)


async def test_the_plain_id_is_an_argument_like_any_other(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)

    b = await queue.enqueue(told, str(a))
    await drain(queue)

    assert await b.result(PATIENCE) == f"str: {a}"
    assert (await queue.get(b)).parents == ()


async def test_a_call_is_enqueued_as_it_is(queue: TaskQueue) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    a = await queue.enqueue(call(add, 1, 2))
    b = await queue.options(queue="images").enqueue(call(add, result_of(a), 2))
    c = await queue.enqueue(call(add, 1, 2), eta=later)

    await drain(queue)

    assert [await one.result(PATIENCE) for one in (a, b)] == [3, 5]
    assert (await queue.get(b)).queue == "images"
    assert (await queue.get(c)).due_at == later


async def test_a_call_takes_no_further_arguments(queue: TaskQueue) -> None:
    for enqueue in (queue.enqueue, queue.options().enqueue):
        with pytest.raises(ValidationError, match=r"this is a call of .*add, which has its arguments"):
            await enqueue(call(add, 1), 2)  # type: ignore[call-overload]


async def test_calls_in_calls_are_stored_together(queue: TaskQueue) -> None:
    stored: list[str] = []
    queue.on(TaskEnqueued)(lambda event: stored.append(event.queue))

    sum_of_all = await queue.enqueue(add, call(picture, 1), call(add, call(picture, 2), 3))
    assert len(await queue.find()) == 4
    await drain(queue)

    assert await sum_of_all.result(PATIENCE) == 6
    assert sorted(stored) == ["default", "default", "images", "images"]
    assert {one.priority for one in await queue.find(queue="images")} == {3}


async def test_calls_in_calls_go_to_the_queue_of_the_outer_one(queue: TaskQueue) -> None:
    own = task(queue="pictures")(picture)
    outer = await queue.options(queue="numbers").enqueue(total, [call(double, 1), call(own, 2)])
    found = {record.name.rpartition(".")[2]: record.queue for record in await queue.find()}
    assert found == {"total": "numbers", "double": "numbers", "picture": "pictures"}
    assert await queue.get_status(outer) is Status.WAITING


async def test_handles_come_in_the_order_of_the_calls(queue: TaskQueue) -> None:
    first = call(add, 1)

    handles = await queue.enqueue_many([call(add, first, 10), first, call(add, 100)])
    await drain(queue)

    assert [await one.result(PATIENCE) for one in handles] == [11, 1, 100]


async def test_chain_and_group(queue: TaskQueue) -> None:
    chained = await queue.enqueue(chain(call(add, 1, 2), double, partial(add, b=100)))
    grouped = await queue.enqueue(group([call(double, number) for number in range(4)]))
    both = await queue.enqueue(chain(group([call(add, 1), chain(call(add, 2), double)]), total))
    none = await queue.enqueue(group([]))

    await drain(queue)

    assert await chained.result(PATIENCE) == 106
    assert await grouped.result(PATIENCE) == [0, 2, 4, 6]
    assert await both.result(PATIENCE) == 5
    assert await none.result(PATIENCE) == []


async def test_depends_on_waits_and_gives_no_value(queue: TaskQueue) -> None:
    a, b = await queue.enqueue(add, 1), await queue.enqueue(add, 2)
    c = await queue.options(depends_on=[a, str(b)]).enqueue(double, 5)
    d = await queue.options(depends_on=c).enqueue(add, result_of(a))
    assert await c.status() is Status.WAITING

    await drain(queue)

    assert [await one.result(PATIENCE) for one in (c, d)] == [10, 1]
    assert (await queue.get(d)).parents == (a, c)


async def test_the_start_counts_from_the_release(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)
    b = await queue.options(delay=3600).enqueue(double, result_of(a))

    await drain(queue)

    record = await queue.get(b)
    assert (record.status, record.attempt) == (Status.PENDING, 0)


async def test_a_parent_of_another_queue_object_on_the_same_store(backend: Backend) -> None:
    async with TaskQueue(backend) as one, TaskQueue(backend) as other:
        a = await one.enqueue(add, 1)
        b = await other.enqueue(add, result_of(a), 1)
        await drain(other)
        assert await b.result(PATIENCE) == 2


async def test_a_handle_of_another_store_is_refused_by_name(queue: TaskQueue) -> None:
    async with TaskQueue(MemoryBackend()) as other:
        foreign = await other.enqueue(add, 1)
        for refused in (
            queue.enqueue(double, foreign),
            queue.enqueue(total, [call(add, 1), foreign]),
            queue.options(depends_on=foreign).enqueue(double, 1),
        ):
            with pytest.raises(ParentNotFoundError, match=f"no task '{foreign}' to depend on") as caught:
                await refused
            assert isinstance(caught.value, ValidationError)
            assert pickle.loads(pickle.dumps(caught.value)).task_id == foreign
    assert await queue.find() == []


async def test_a_repeated_enqueue_under_one_id_makes_nothing_new(queue: TaskQueue) -> None:
    for _ in range(2):
        await queue.options(id="mine").enqueue(add, call(add, 1), call(add, 2))

    assert sorted(task.id for task in await queue.find()) == ["mine", "mine.1", "mine.2"]


# -- What is refused -------------------------------------------------------------------------------


async def test_a_debounced_task_depends_on_none(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)
    for view in (
        queue.options(debounce=1),
        queue.options(debounce=1, unique_key="key"),
    ):
        with pytest.raises(ValidationError, match=r"debounce of .* both say when to start"):
            await view.enqueue(double, a)
    with pytest.raises(ValidationError, match="debounce and depends_on both say when to start"):
        queue.options(debounce=1, depends_on=a)


async def test_a_schedule_depends_on_none(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)

    with pytest.raises(ValidationError, match="call has a handle or a call among its arguments"):
        await queue.schedule("s", call(double, a), every=60)
    with pytest.raises(ValidationError, match="depends_on is no option of a schedule"):
        await queue.schedule("s", call(double, 1), every=60, depends_on=a)  # type: ignore[call-arg]


async def test_arguments_are_checked_as_ever(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)

    with pytest.raises(ValidationError, match="does not take these arguments"):
        await queue.enqueue(double, a, 2)  # type: ignore[call-overload]
    with pytest.raises(ValidationError, match="does not take these arguments"):
        await queue.enqueue(double, call(add))


# -- Failures --------------------------------------------------------------------------------------


async def test_a_failure_cancels_what_depends_on_it_and_says_why(queue: TaskQueue) -> None:
    a = await queue.enqueue(boom)
    b = await queue.enqueue(chain(call(double, result_of(a)), double))

    await drain(queue)

    why = f"because task {a}, on which it depends, failed: ValueError: boom"
    with pytest.raises(TaskCancelledError, match=f"task {b} was cancelled {why}"):
        await b.result(PATIENCE)
    result = await queue.get_result(b)
    assert (result.cancelled_by, f"because {result.error}") == (a, why)
    assert (await queue.get(b)).cancelled_by == a
    late = await queue.enqueue(double, b)
    assert (await queue.get_result(late)).cancelled_by == a


async def test_a_cancelled_parent_and_one_that_is_gone(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)
    b = await queue.enqueue(double, result_of(a))
    await a.cancel()

    with pytest.raises(TaskCancelledError, match=f"because task {a}, on which it depends, was cancelled"):
        await b.result(PATIENCE)
    await queue.requeue(a)
    with pytest.raises(TaskCancelledError, match=f"because task {a}, on which it depends, had failed or was"):
        await b.result(PATIENCE)


async def test_a_child_may_run_with_the_failure_as_a_value(queue: TaskQueue) -> None:
    a = await queue.enqueue(boom)
    b = await queue.enqueue(double, a)
    c = await queue.enqueue(add, 1)
    view = queue.options(on_parent_failure="run")
    handles = [await view.enqueue(told, one) for one in (a, b, c)]

    await drain(queue)

    values = [await one.result(PATIENCE) for one in handles]
    for value, parent in zip(values, (a, b), strict=False):
        with pytest.raises((TaskFailedError, TaskCancelledError)) as caught:
            await parent.result(PATIENCE)
        assert value == told(caught.value)
    assert values[2] == "int: 1"


async def test_a_subtree_comes_back_by_a_filter(queue: TaskQueue, tmp_path: Any) -> None:
    flag = tmp_path / "works"
    a = await queue.enqueue(works_if, str(flag))
    handles = [await queue.enqueue(double, result_of(a)) for _ in range(3)]
    await drain(queue)
    flag.touch()

    assert len(await queue.requeue(status=[Status.FAILED, Status.CANCELLED])) == 4
    await drain(queue)

    assert [await one.result(PATIENCE) for one in handles] == [2, 2, 2]


def works_if(flag: str) -> int:
    return len(Path(flag).read_bytes()) + 1


async def test_more_than_a_page_comes_back(queue: TaskQueue) -> None:
    nested: Any = call(add, 0)
    for _ in range(600):
        nested = call(add, nested, 1)
    last = await queue.enqueue(nested)
    await queue.cancel((await queue.find(status=Status.PENDING))[0].id)

    assert len(await queue.requeue(status=Status.CANCELLED)) == 601

    await drain(queue)
    assert await last.result(PATIENCE) == 600


# -- The worker ------------------------------------------------------------------------------------


async def test_a_value_that_is_gone_parks_the_task(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    async with queue:
        a = await queue.enqueue(add, 1)
        b = await queue.enqueue(double, result_of(a))
        await drain(queue, max_tasks=1)

        async def lost(found: list[TaskRecord]) -> None:
            found.clear()

        spy.after["find"] = lost
        recorder = await drain(queue, max_tasks=1)

        [parked] = recorder.of(TaskParked)
        assert parked.task_id == b
        assert f"the value of task {a}, an argument, is gone" in parked.error
        spy.after.clear()
        record = await queue.get(b)
        assert (record.status, record.attempt) == (Status.PENDING, 0)


class Bracket:
    """A context provider that tells when it is entered and left."""

    name = "bracket"

    def __init__(self) -> None:
        self.told: list[str] = []

    def capture(self) -> str:
        return "open"

    @contextmanager
    def restore(self, data: Any) -> Iterator[None]:
        self.told.append(data)
        yield
        self.told.append("closed")


async def test_what_surrounds_a_task_without_its_values_is_left(backend: Backend) -> None:
    bracket = Bracket()
    async with TaskQueue(backend, context_providers=[bracket]) as queue:
        parent = await queue.enqueue(add, 1)
        child = await queue.enqueue(add, result_of(parent))
        [taken] = (await backend.reserve("w", None, 1, timedelta(seconds=60))).tasks
        await backend.mark_success(taken.held, b"not a value")
        events = await drain(queue)
        assert [event.task_id for event in events.of(TaskParked)] == [child]
    assert bracket.told == ["open", "closed"]


async def test_a_value_that_cannot_be_loaded_parks_the_task(queue: TaskQueue, backend: Backend) -> None:
    a = await queue.enqueue(add, 1)
    b = await queue.enqueue(double, result_of(a))
    [reserved] = (await backend.reserve("w1", None, 1, timedelta(seconds=30))).tasks
    await backend.mark_success(reserved.held, b"not a value")

    recorder = await drain(queue)

    [parked] = recorder.of(TaskParked)
    assert parked.task_id == b
    assert f"the value of task {a}, an argument: these bytes are not a result" in parked.error


async def test_a_child_whose_parent_got_a_new_run_waits_for_it(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    async with queue:
        a = await queue.enqueue(boom)
        b = await queue.options(on_parent_failure="run").enqueue(told, a)
        await drain(queue, max_tasks=1)

        async def once_more(_: TaskQuery) -> None:
            spy.before.clear()
            await backend.requeue([a])

        spy.before["find"] = once_more
        # One slot: a second one could run the parent again before its values are read.
        recorder = await drain(queue, concurrency=1)

        assert [event.task_id for event in recorder.of(TaskReleased)] == [b]
        assert (await b.result(PATIENCE)).startswith("TaskFailedError")
        assert (await queue.get(b)).attempt == 1


async def test_a_task_that_waits_for_its_values_can_be_cancelled(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    async with queue:
        a = await queue.enqueue(add, 1)
        b = await queue.enqueue(double, result_of(a))
        await drain(queue, max_tasks=1)
        asked = asyncio.Event()

        async def for_ever(_: TaskQuery) -> None:
            spy.before.clear()
            asked.set()
            await asyncio.Event().wait()

        spy.before["find"] = for_ever
        async with Worker(queue), asyncio.timeout(PATIENCE):
            await asked.wait()
            assert await b.cancel(PATIENCE) is Status.CANCELLED


async def test_the_time_limit_begins_with_the_function(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Any] = []
    monkeypatch.setattr(executor.Executor, "_time_is_up", lambda _, run: late.append(run))
    queue, spy = spied_queue(backend)
    async with queue:
        a = await queue.enqueue(add, 1)
        b = await queue.options(timeout=0.001).enqueue(double, result_of(a))
        await drain(queue, max_tasks=1)

        async def slowly(_: TaskQuery) -> None:
            await asyncio.sleep(0.02)
            assert late == []

        spy.before["find"] = slowly
        await drain(queue)
        spy.before.clear()
        assert await b.result(PATIENCE) == 2


async def test_a_wide_fan_in_by_value(queue: TaskQueue) -> None:
    handle = await queue.enqueue(total, [call(add, number) for number in range(1_200)])

    await drain(queue, concurrency=100)

    assert await handle.result(PATIENCE) == sum(range(1_200))


async def test_a_child_sees_itself_and_not_its_parent(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)
    b = await queue.enqueue(who_am_i, result_of(a))

    await drain(queue)

    assert await b.result(PATIENCE) == b


async def who_am_i(_: int) -> str:
    return current_task().id


async def test_one_task_is_processed_when_its_parents_are_done(queue: TaskQueue) -> None:
    a = await queue.enqueue(add, 1)
    b = await queue.enqueue(double, result_of(a))
    worker = Worker(queue)
    with pytest.raises(QueueEmptyError, match="is waiting"):
        await worker.process_task(b)
    await worker.process_task(a)
    assert (await worker.process_task(b)).value == 2


def test_what_the_storage_hands_out_says_its_parents() -> None:
    assert ReservedTask("a", 1, "work", "default", b"").parents == ()
    assert Status.WAITING not in FINISHED
