"""A task that fails: tried again as its policy says, every error kept, and told apart by its caller."""

import asyncio
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sitq import (
    Cancel,
    Retry,
    RetryPolicy,
    Snooze,
    Status,
    TaskCancelledError,
    TaskFailedError,
    TaskQueue,
    TaskRetryExhaustedError,
    Worker,
    current_task,
    task,
)
from sitq.backends.base import Backend
from sitq.events import TaskFailed, TaskReleased, TaskRetried, TaskSucceeded
from sitq.failure import MAX_MESSAGE, MAX_TRACEBACK
from sitq.model import NOTES_KEPT, NoteKind
from tests.integration.support import Gate, drain, recorded, spied_queue
from tests.support import PATIENCE

AT_ONCE = RetryPolicy(max_attempts=3, base=0)
seen: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    seen.clear()


def fail_until(attempt: int) -> str:
    now = current_task().attempt
    seen.append(now)
    if now < attempt:
        raise ConnectionError(f"attempt {now}")
    return f"in attempt {now}"


async def fail_until_async(attempt: int) -> str:
    await asyncio.sleep(0)
    return fail_until(attempt)


# -- The policy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [fail_until, fail_until_async])
async def test_a_task_is_tried_again_until_it_succeeds(queue: TaskQueue, how: Callable[..., Any]) -> None:
    handle = await queue.options(retry=AT_ONCE).enqueue(how, 3)
    events = await drain(queue)
    assert await handle.result(timeout=0) == "in attempt 3"
    assert seen == [1, 2, 3]
    assert [(event.attempt, event.error) for event in events.of(TaskRetried)] == [
        (1, "attempt 1"),
        (2, "attempt 2"),
    ]
    assert [event.attempt for event in events.of(TaskSucceeded)] == [3]
    details = await queue.get(handle)
    assert [(each.attempt, each.error.message, each.last) for each in details.attempts_log] == [
        (1, "attempt 1", False),
        (2, "attempt 2", False),
    ]
    assert details.last_error is None
    assert details.attempt == 3


@pytest.mark.parametrize("how", [fail_until, fail_until_async])
async def test_attempts_run_out_and_the_caller_is_told_so(queue: TaskQueue, how: Callable[..., Any]) -> None:
    handle = await queue.options(retry=AT_ONCE).enqueue(how, 99)
    events = await drain(queue)
    with pytest.raises(TaskRetryExhaustedError, match="in attempt 3: ConnectionError: attempt 3") as caught:
        await handle.result(timeout=0)
    assert caught.value.attempts == 3
    assert pickle.loads(pickle.dumps(caught.value)).attempts == 3
    assert len(events.of(TaskFailed)) == 1
    log = (await queue.get(handle)).attempts_log
    assert [(each.attempt, each.error.type, each.error.message, each.last) for each in log] == [
        (1, "ConnectionError", "attempt 1", False),
        (2, "ConnectionError", "attempt 2", False),
        (3, "ConnectionError", "attempt 3", True),
    ]
    assert all("fail_until" in each.error.traceback for each in log)
    assert [each.at for each in log] == sorted(each.at for each in log)


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({}, 1),
        ({"retry": 0}, 1),
        ({"max_retries": 2, "retry_delay": 0}, 3),
        ({"retry_delay": 0}, 3),
        ({"retry": RetryPolicy(max_attempts=5, base=0)}, 5),
        ({"retry": RetryPolicy(max_attempts=2, base=0, on=ConnectionError)}, 2),
        ({"retry": RetryPolicy(base=0, on=(TimeoutError, ValueError))}, 1),
        ({"retry": RetryPolicy(base=0, give_up_on=OSError)}, 1),
    ],
    ids=str,
)
async def test_how_often_a_task_is_tried(queue: TaskQueue, options: Any, attempts: int) -> None:
    handle = await queue.options(**options).enqueue(fail_until, 99)
    await drain(queue)
    assert seen == list(range(1, attempts + 1))
    with pytest.raises(TaskFailedError) as caught:
        await handle.result(timeout=0)
    assert isinstance(caught.value, TaskRetryExhaustedError) is (attempts > 1), "one attempt is not several"


@task(retry=AT_ONCE)
def has_a_policy(attempt: int) -> str:
    return fail_until(attempt)


async def test_the_policy_of_a_definition_gives_way_to_that_of_the_call(queue: TaskQueue) -> None:
    await queue.enqueue(has_a_policy, 2)
    await drain(queue)
    assert seen == [1, 2]
    seen.clear()
    await queue.options(max_retries=0).enqueue(has_a_policy, 2)
    await drain(queue)
    assert seen == [1]


async def test_a_retry_waits_as_long_as_the_policy_says(queue: TaskQueue) -> None:
    handle = await queue.options(retry=1, retry_delay=None).enqueue(fail_until, 2)
    later = await queue.options(max_retries=1, retry_delay=3600).enqueue(fail_until, 2)
    begin = datetime.now(UTC)
    await drain(queue, queues=["default"])
    end = datetime.now(UTC)
    waits = await queue.get(later)
    assert waits.status is Status.PENDING
    assert waits.due_at is not None
    assert begin + timedelta(hours=1) <= waits.due_at <= end + timedelta(hours=1)
    assert waits.last_error is not None
    assert waits.last_error.message == "attempt 1"
    assert (await queue.get_result(later)).error == "attempt 1"
    soon = await queue.get(handle)
    assert soon.status.finished or (soon.due_at is not None and soon.due_at <= end + timedelta(seconds=1))


async def test_a_worker_sees_to_a_retry_when_it_is_due(queue: TaskQueue) -> None:
    handle = await queue.options(max_retries=2, retry_delay=0.02).enqueue(fail_until, 3)
    async with Worker(queue, poll_interval=3600):
        assert await handle.result(timeout=PATIENCE) == "in attempt 3"


async def test_an_idle_worker_waits_for_a_retry_whose_outcome_is_on_its_way(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    looked = Gate()
    looked.open()

    async def look(_: Any) -> None:
        await looked.pass_through()

    async def after_a_look(*_: Any, **__: Any) -> None:
        if spy.calls["complete"] == 1:
            looked.reached.clear()
            spy.after["reserve"] = look
            await looked.wait_reached()

    async with queue:
        spy.before["complete"] = after_a_look
        handle = await queue.options(retry=AT_ONCE).enqueue(fail_until_async, 2)
        await drain(queue)
        assert await handle.result(timeout=0) == "in attempt 2"


def too_much() -> None:
    raise ValueError("x" * 100_000)


async def test_every_error_is_kept_and_bounded(queue: TaskQueue) -> None:
    policy = RetryPolicy(max_attempts=NOTES_KEPT[NoteKind.ATTEMPT] + 5, base=0)
    handle = await queue.options(retry=policy).enqueue(too_much)
    await drain(queue)
    log = (await queue.get(handle)).attempts_log
    assert [each.attempt for each in log] == [*range(5, 25), 25]
    assert [each.last for each in log] == [False] * 20 + [True]
    assert all(len(each.error.message) <= MAX_MESSAGE for each in log)
    assert all(len(each.error.traceback) <= MAX_TRACEBACK for each in log)


def interrupt() -> None:
    seen.append("run")
    raise KeyboardInterrupt


async def test_an_interrupt_is_not_retried_unless_it_was_asked_for(queue: TaskQueue) -> None:
    await queue.options(retry=AT_ONCE).enqueue(interrupt)
    await drain(queue)
    assert len(seen) == 1
    await queue.options(retry=RetryPolicy(base=0, on=BaseException)).enqueue(interrupt)
    await drain(queue)
    assert len(seen) == 1 + 3


def return_a_lock() -> Any:
    seen.append("run")
    return __import__("threading").Lock()


async def test_a_result_that_cannot_be_stored_is_no_reason_to_do_the_work_again(queue: TaskQueue) -> None:
    handle = await queue.options(retry=AT_ONCE).enqueue(return_a_lock)
    await drain(queue)
    assert seen == ["run"]
    with pytest.raises(TaskFailedError, match="cannot be pickled") as caught:
        await handle.result(timeout=0)
    assert not isinstance(caught.value, TaskRetryExhaustedError)


async def test_a_retry_that_was_cancelled_meanwhile_does_not_start(queue: TaskQueue) -> None:
    handle = await queue.options(max_retries=2, retry_delay=3600).enqueue(fail_until, 99)
    await drain(queue)
    assert await handle.cancel() is Status.CANCELLED
    log = (await queue.get(handle)).attempts_log
    assert [(each.attempt, each.last) for each in log] == [(1, False)], "its error is there once"
    with pytest.raises(TaskCancelledError):
        await handle.result(timeout=0)


# -- Verbs -----------------------------------------------------------------------------------------


def do(verb: Any, returned: bool, attempts: int = 1) -> Any:
    seen.append(current_task().attempt)
    if len(seen) > attempts:
        return "done"
    if returned:
        return verb
    raise verb


async def do_async(verb: Any, returned: bool, attempts: int = 1) -> Any:
    await asyncio.sleep(0)
    return do(verb, returned, attempts)


ways = [(do, True), (do, False), (do_async, True), (do_async, False)]
names = ["returned", "raised", "returned async", "raised async"]


@pytest.mark.parametrize(("how", "returned"), ways, ids=names)
async def test_snooze_puts_a_task_off_without_counting_it(queue: TaskQueue, how: Any, returned: bool) -> None:
    handle = await queue.enqueue(how, Snooze(0), returned, 30)
    events = await drain(queue)
    assert await handle.result(timeout=0) == "done"
    assert set(seen) == {1}
    assert (await queue.get(handle)).attempt == 1
    assert (await queue.get(handle)).attempts_log == ()
    assert len(events.of(TaskReleased)) == 30
    later = await queue.enqueue(how, Snooze(timedelta(hours=1)), returned, 99)
    await drain(queue)
    waits = await queue.get(later)
    assert (waits.status, waits.attempt, waits.crashes, waits.last_error) == (Status.PENDING, 0, 0, None)
    assert waits.due_at is not None
    assert waits.due_at > datetime.now(UTC) + timedelta(minutes=59)


@pytest.mark.parametrize(("how", "returned"), ways, ids=names)
async def test_retry_without_a_policy_is_bounded(queue: TaskQueue, how: Any, returned: bool) -> None:
    handle = await queue.enqueue(how, Retry(0), returned, 99)
    await drain(queue)
    assert seen == [1, 2, 3]
    with pytest.raises(TaskRetryExhaustedError, match="asked for another attempt after 0 s"):
        await handle.result(timeout=0)
    assert len((await queue.get(handle)).attempts_log) == 3


async def test_retry_follows_the_policy_of_the_task_whatever_that_retries(queue: TaskQueue) -> None:
    policy = RetryPolicy(max_attempts=5, base=0, on=ConnectionError)
    handle = await queue.options(retry=policy).enqueue(do, Retry(), False, 99)
    await drain(queue)
    assert seen == [1, 2, 3, 4, 5]
    assert await handle.status() is Status.FAILED


def retry_because() -> None:
    try:
        raise ValueError("the reason")
    except ValueError as error:
        raise Retry(0) from error


async def test_retry_keeps_what_went_wrong(queue: TaskQueue) -> None:
    handle = await queue.enqueue(retry_because)
    await drain(queue)
    log = (await queue.get(handle)).attempts_log
    assert ["the reason" in each.error.traceback for each in log] == [True] * 3


@pytest.mark.parametrize(("how", "returned"), ways, ids=names)
async def test_cancel_ends_a_task_with_a_reason(queue: TaskQueue, how: Any, returned: bool) -> None:
    handle = await queue.options(retry=AT_ONCE).enqueue(how, Cancel("nobody needs it"), returned)
    await drain(queue)
    assert seen == [1]
    with pytest.raises(TaskCancelledError, match="nobody needs it"):
        await handle.result(timeout=0)
    details = await queue.get(handle)
    assert details.last_error is not None
    assert details.last_error.message == "nobody needs it"


# -- After a crash ---------------------------------------------------------------------------------


async def test_a_crash_counts_as_an_attempt_and_no_more_than_that(queue: TaskQueue) -> None:
    handle = await queue.options(retry=AT_ONCE).enqueue(fail_until, 99)
    await queue.backend.reserve("a worker that dies", None, 1, timedelta(0))
    recorder = recorded(worker := Worker(queue))
    async with worker:
        assert (await recorder.wait_for(TaskFailed)).attempt == 3
    assert seen == [2, 3]
    record = await queue.get(handle)
    assert (record.status, record.crashes) == (Status.FAILED, 1)
