"""What ended without a result: kept with its errors, started again by hand, or thrown away."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from sitq import (
    ResultExpiredError,
    RetryPolicy,
    Status,
    TaskNotFoundError,
    TaskQueue,
    ValidationError,
    call,
)
from sitq.backends.memory import MemoryBackend
from sitq.events import Event, TaskRequeued
from sitq.failure import encode_error
from sitq.model import Failed, Outcome, Retried, Succeeded
from tests.integration.support import drain
from tests.support import LEASE, FakeClock

broken = True


@pytest.fixture(autouse=True)
def _fresh() -> None:
    global broken
    broken = True


def work(number: int = 0) -> int:
    if broken:
        raise ConnectionError(f"number {number}")
    return number


def other() -> None:
    raise ValueError("other")


async def dead(queue: TaskQueue, count: int, /, **options: Any) -> list[Any]:
    handles = await queue.options(**options).enqueue_many([call(work, number) for number in range(count)])
    await drain(queue, concurrency=100)
    return handles


# -- Requeue ---------------------------------------------------------------------------------------


async def test_a_failed_task_gets_a_new_run_with_all_its_attempts(queue: TaskQueue) -> None:
    global broken
    [handle] = await dead(queue, 1, retry=RetryPolicy(max_attempts=2, base=0))
    before = await queue.get(handle)
    assert (before.status, before.attempt, before.requeued) == (Status.FAILED, 2, 0)

    assert await queue.requeue(handle) == [handle]
    fresh = await queue.get(handle)
    assert (fresh.status, fresh.attempt, fresh.crashes, fresh.requeued) == (Status.PENDING, 0, 0, 1)
    assert (fresh.started_at, fresh.finished_at, fresh.last_error) == (None, None, None)

    await drain(queue)
    again = await queue.get(handle)
    assert (again.status, again.attempt) == (Status.FAILED, 2)
    assert again.fence > before.fence
    log = [(each.attempt, each.last) for each in again.attempts_log]
    assert log == [(1, False), (2, False), (1, False), (2, True)], "of both runs"

    broken = False
    await queue.requeue([handle])
    await drain(queue)
    assert await handle.result(timeout=0) == 0
    done = await queue.get(handle)
    assert (done.requeued, done.last_error, len(done.attempts_log)) == (2, None, 4)


async def test_the_same_failure_in_two_runs_is_in_the_log_twice(queue: TaskQueue) -> None:
    [handle] = await dead(queue, 1)
    await queue.requeue(handle)
    await drain(queue)
    log = (await queue.get(handle)).attempts_log
    assert [(each.attempt, each.last) for each in log] == [(1, False), (1, True)]


async def test_a_cancelled_task_gets_a_new_run_too_and_its_cancellation_is_forgotten(
    queue: TaskQueue,
) -> None:
    global broken
    broken = False
    handle = await queue.options(delay=3600).enqueue(work, 7)
    await handle.cancel()
    assert await queue.requeue(status="failed") == []  # type: ignore[arg-type]
    assert await queue.requeue(status=Status.CANCELLED) == [handle]
    await drain(queue)
    assert await handle.result(timeout=0) == 7


async def test_who_held_it_before_is_fenced_off(queue: TaskQueue) -> None:
    handle = await queue.enqueue(work)
    backend = queue.backend
    [reserved] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    error = encode_error(ValueError("first"))
    await backend.complete([Failed(reserved.held, error)])
    await queue.requeue(handle)
    # Its reply was lost and it tells again; or it was given up and comes late.
    late: list[Outcome] = [
        Failed(reserved.held, error),
        Succeeded(reserved.held, b""),
        Retried(reserved.held, reserved_at(), b""),
    ]
    for outcome in late:
        await backend.complete([outcome])
        assert await handle.status() is Status.PENDING
    [again] = (await backend.reserve("w2", None, 1, LEASE)).tasks
    assert (again.attempt, again.fence > reserved.fence) == (1, True)
    assert len((await backend.complete([Succeeded(reserved.held, b"")])).stale) == 1
    assert await handle.status() is Status.RUNNING


def reserved_at() -> datetime:
    return datetime.now(UTC)


async def test_a_new_run_is_announced(queue: TaskQueue) -> None:
    told: list[Any] = []
    for kind in get_args(Event.__value__):
        queue.on(kind)(told.append)
    [handle] = await dead(queue, 1)
    told.clear()
    await queue.requeue(handle)
    assert told == [TaskRequeued(handle, handle_name(), "default")]


def handle_name() -> str:
    return f"{work.__module__}.{work.__qualname__}"


async def test_a_filter_says_which(queue: TaskQueue) -> None:
    plain = await dead(queue, 2)
    mail = await dead(queue, 3, queue="mail")
    odd = await queue.enqueue(other)
    await drain(queue)
    middle = (await queue.get(mail[1])).enqueued_at
    assert await queue.requeue(queue="nobody") == []
    assert await queue.requeue(name=f"{other.__module__}.other") == [odd]
    assert set(await queue.requeue(queue="mail", since=middle + timedelta(microseconds=1))) <= set(mail)
    assert set(await queue.requeue(status=[Status.FAILED, Status.CANCELLED])) >= set(plain)
    counts = (await queue.stats()).counts
    assert (counts[Status.FAILED], counts[Status.PENDING]) == (0, 6)


async def test_more_than_one_batch(queue: TaskQueue) -> None:
    # A batch is 500.
    handles = await queue.enqueue_many([call(work)] * 1_201)
    await queue.backend.cancel(handles)
    some = handles[::2] + handles[:10]
    assert set(await queue.requeue(some)) == set(some)
    assert set(await queue.requeue(status=Status.CANCELLED)) == set(handles) - set(some)
    assert (await queue.stats()).counts[Status.PENDING] == 1_201
    await queue.backend.cancel(handles)
    assert await queue.discard(handles[:600]) == 600
    assert await queue.discard(status=Status.CANCELLED) == 601
    assert await queue.find() == []


async def test_what_has_not_ended_so_stays_as_it_is(queue: TaskQueue) -> None:
    global broken
    broken = False
    done, waits = await queue.enqueue(work, 1), await queue.options(delay=3600).enqueue(work, 2)
    await drain(queue)
    assert await queue.requeue([done, waits, "unknown"]) == []
    assert await queue.discard([done, waits, "unknown"]) == 0
    assert await queue.requeue([]) == []
    assert await done.result(timeout=0) == 1


async def test_one_whose_key_was_taken_meanwhile_is_not_started_beside_the_other(queue: TaskQueue) -> None:
    [first] = await dead(queue, 1, unique_key="one")
    second = await queue.options(unique_key="one", delay=3600).enqueue(work)
    assert first != second
    assert await queue.requeue(first) == []
    await second.cancel()
    assert await queue.requeue(first) == [first]


# -- Discard ---------------------------------------------------------------------------------------


async def test_what_is_discarded_is_gone(queue: TaskQueue) -> None:
    one, two = await dead(queue, 2)
    assert await queue.discard(one) == 1
    assert await queue.discard(one) == 0
    with pytest.raises(ResultExpiredError, match="removed by hand"):
        await one.result(timeout=0)
    with pytest.raises(TaskNotFoundError):
        await queue.get(one)
    assert await two.status() is Status.FAILED


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["requeue", "discard"])
@pytest.mark.parametrize(
    ("ids", "filters", "words"),
    [
        (None, {}, "nothing says which tasks: give ids, or a filter"),
        ("t1", {"queue": "mail"}, "ids and queue both say which tasks"),
        (["t1"], {"status": "failed"}, "ids and status both"),
        (5, {}, "ids is an int: give the id of a task"),
        ([5], {}, "task_id is a int"),
        (b"t1", {}, "task_id is a int"),
        (None, {"status": "success"}, "only failed and cancelled tasks"),
        (None, {"status": ["failed", "running"]}, "only failed and cancelled tasks"),
        (None, {"status": "nonsense"}, "choose from"),
        (None, {"queue": 5}, "queue is a int"),
        (None, {"since": datetime(2026, 1, 1)}, "naive"),
    ],
)
async def test_who_is_meant_must_be_said(
    queue: TaskQueue, verb: str, ids: Any, filters: Any, words: str
) -> None:
    await dead(queue, 1)
    with pytest.raises(ValidationError, match=words):
        await getattr(queue, verb)(ids, **filters)
    assert (await queue.stats()).counts[Status.FAILED] == 1


# -- What somebody wrote past the worker -----------------------------------------------------------


async def test_an_error_that_cannot_be_read_does_not_hide_its_task(queue: TaskQueue) -> None:
    handle = await queue.enqueue(work)
    [reserved] = (await queue.backend.reserve("by hand", None, 1, LEASE)).tasks
    await queue.backend.mark_failure(reserved.held, b"just text")
    details = await queue.get(handle)
    assert details.last_error is not None
    assert details.last_error.type == "unreadable"
    await queue.requeue(handle)
    assert [each.error.type for each in (await queue.get(handle)).attempts_log] == ["unreadable"]


# -- Kept ------------------------------------------------------------------------------------------


async def test_what_failed_is_kept_longer_than_a_result() -> None:
    clock = FakeClock()
    async with TaskQueue(MemoryBackend(clock=clock)) as queue:
        [failed] = await dead(queue, 1, result_ttl=60)
        [dropped] = await dead(queue, 1, result_ttl=60, keep_failed=120)
        clock.advance(timedelta(hours=1))
        assert await queue.backend.prune(10) == 1
        assert await queue.requeue([failed, dropped]) == [failed]
        clock.advance(timedelta(days=31))
        assert await queue.backend.prune(10) == 0  # it runs again
