"""What the options of a call come to in the store, and whose handle the caller gets."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from sitq import ResultExpiredError, RetryPolicy, TaskQueue, ValidationError, call, task
from sitq.model import Concurrency, Failed, Rate, Succeeded, TaskQuery, TaskRecord, Unique, Until
from sitq.rules import NO_RULES, RunRules
from sitq.serialization import decode_call, encode_value
from tests.support import LEASE, record

MINUTE = timedelta(minutes=1)


def send(number: int) -> int:
    return number


@task(max_retries=2, concurrency_limit=3, throttle=60)
def sync(number: int) -> int:
    return number


async def rules(queue: TaskQueue, task_id: str) -> RunRules:
    payload = (await record(queue.backend, task_id)).payload
    assert payload is not None
    return decode_call(payload)[2]


async def stored(queue: TaskQueue) -> list[TaskRecord]:
    return await queue.backend.find(TaskQuery())


# -- What is stored --------------------------------------------------------------------------------


async def test_nothing_given(queue: TaskQueue) -> None:
    handle = await queue.enqueue(send, 1)
    found = await record(queue.backend, handle)
    assert (found.unique, found.concurrency, found.rate) == (None, None, None)
    assert await rules(queue, handle) is NO_RULES


async def test_what_the_storage_enforces(queue: TaskQueue) -> None:
    view = queue.options(
        queue="mail", unique_key="u", concurrency_key="c", concurrency_limit=2, rate_limit="10/30s"
    )
    found = await record(queue.backend, await view.enqueue(send, 1))
    assert found.unique == Unique("u", Until.END)
    assert found.concurrency == Concurrency("c", 2)
    assert found.rate == Rate("sitq:queue:mail", 10, timedelta(seconds=30))


async def test_what_the_worker_follows(queue: TaskQueue) -> None:
    before = datetime.now(UTC)
    handle = await queue.options(retry=3, timeout=5, expires=60).enqueue(send, 1)
    found = await rules(queue, handle)
    assert (found.retry, found.timeout) == (RetryPolicy(max_attempts=4), 5.0)
    assert found.expires_at is not None
    assert before <= found.expires_at - MINUTE <= datetime.now(UTC)


async def test_defaults_of_the_task_and_options_of_the_call(queue: TaskQueue) -> None:
    handle = await queue.options(retry=0, concurrency_key="c", unique_key="u").enqueue(sync, 1)
    found = await record(queue.backend, handle)
    assert (await rules(queue, handle)).retry == RetryPolicy(max_attempts=1)
    assert found.concurrency == Concurrency("c", 3)
    assert found.unique is not None
    assert found.unique.key == "u"


async def test_what_is_not_complete_is_not_stored(queue: TaskQueue) -> None:
    with pytest.raises(ValidationError, match=r"^concurrency_limit was given without concurrency_key"):
        await queue.enqueue(sync, 1)
    assert await stored(queue) == []


# -- Whose handle ----------------------------------------------------------------------------------


async def test_a_second_one_gets_the_handle_of_the_holder(
    queue: TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sitq")
    view = queue.options(unique_key="import")
    first = await view.enqueue(send, 1)
    second = await view.enqueue(send, 2)
    assert second == first
    assert await view.enqueue_many([call(send, 3), call(send, 4)]) == [first, first]
    assert len(await stored(queue)) == 1
    [event] = [each for each in caplog.records if getattr(each, "event", None) == "task.enqueued"]
    assert vars(event)["task_id"] == first
    [reserved] = (await queue.backend.reserve("w1", None, 1, LEASE)).tasks
    await queue.backend.complete([Succeeded(reserved.held, encode_value(1, max_payload=100))])
    assert await second.result(timeout=0) == 1
    assert await view.enqueue(send, 5) != first


async def test_a_batch_holds_its_own_key_once(queue: TaskQueue) -> None:
    one, other = await queue.options(unique_key="import").enqueue_many([call(send, 1), call(send, 2)])
    assert one == other


async def test_a_debounced_task_runs_the_last_call_after_the_quiet_time(queue: TaskQueue) -> None:
    view = queue.options(debounce=60)
    first = await view.enqueue(send, 1)
    due = (await record(queue.backend, first)).due_at
    assert await view.enqueue(send, 2) == first
    found = await record(queue.backend, first)
    assert found.due_at is not None
    assert due is not None
    assert found.due_at >= due > datetime.now(UTC)
    assert found.payload is not None
    assert decode_call(found.payload)[0].args == (2,)


async def test_a_throttled_task_runs_the_first_call_of_its_window(queue: TaskQueue) -> None:
    view = queue.options(throttle=60)
    first = await view.enqueue(send, 1)
    [reserved] = (await queue.backend.reserve("w1", None, 1, LEASE)).tasks
    await queue.backend.complete([Failed(reserved.held, b"{}")])
    assert await view.enqueue(send, 2) == first
    assert await queue.options(throttle=60).enqueue(abs, 2) != first


# -- What is gone ----------------------------------------------------------------------------------


async def test_the_result_of_a_task_that_was_removed_has_expired(queue: TaskQueue) -> None:
    handle = await queue.options(result_ttl=0).enqueue(send, 1)
    [reserved] = (await queue.backend.reserve("w1", None, 1, LEASE)).tasks
    await queue.backend.complete([Succeeded(reserved.held, encode_value(1, max_payload=100))])
    await queue.backend.prune(10)
    with pytest.raises(ResultExpiredError):
        await handle.result(timeout=0)
