"""prune: what is over for longer than it was to be kept is gone, and nothing else."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sitq.backends.base import Backend
from sitq.model import Cancelled, Enqueued, Failed, Held, Outcome, Retried, Status, Succeeded, Unique
from tests.support import (
    HOUR,
    FakeClock,
    everything,
    found_ids,
    new_task,
    new_tasks,
    record,
    reserved_ids,
    running,
)

MICROSECOND = timedelta(microseconds=1)


async def finished(backend: Backend, number: int, **fields: Any) -> list[str]:
    held = [await running(backend, new_task(**fields)) for _ in range(number)]
    await backend.complete([Succeeded(hold, b"result") for hold in held])
    return [hold.id for hold in held]


@pytest.mark.parametrize(
    "end",
    [
        lambda held: Succeeded(held, b"result"),
        lambda held: Failed(held, b"error"),
        lambda held: Cancelled(held),
    ],
    ids=["success", "failed", "cancelled"],
)
async def test_kept_for_its_time_after_it_finished(
    backend: Backend, clock: FakeClock, end: Callable[[Held], Outcome]
) -> None:
    held = await running(backend, new_task("a", result_ttl=HOUR))
    clock.advance(2 * HOUR)  # before the end the time does not count
    await backend.complete([end(held)])

    clock.advance(HOUR - MICROSECOND)
    assert await backend.prune(10) == 0
    assert await found_ids(backend) == ["a"]

    clock.advance(MICROSECOND)
    assert await backend.prune(10) == 1
    assert await found_ids(backend) == []
    assert await backend.get_result("a") is None


@pytest.mark.parametrize(("result_ttl", "keep_for"), [(HOUR, timedelta(0)), (timedelta(0), HOUR)])
async def test_a_failure_is_kept_for_the_longer_of_both_times(
    backend: Backend, clock: FakeClock, result_ttl: timedelta, keep_for: timedelta
) -> None:
    held = await running(backend, new_task("a", result_ttl=result_ttl))
    await backend.complete([Failed(held, b"error", keep_for)])

    clock.advance(HOUR - MICROSECOND)
    assert await backend.prune(10) == 0
    clock.advance(MICROSECOND)
    assert await backend.prune(10) == 1


async def test_a_failure_without_a_time_is_kept_for_good(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a", result_ttl=None))
    await backend.complete([Failed(held, b"error", HOUR)])
    clock.advance(timedelta(days=10_000))
    assert await backend.prune(10) == 0


async def test_a_failure_that_was_requeued_and_succeeded_is_kept_as_a_result(
    backend: Backend, clock: FakeClock
) -> None:
    held = await running(backend, new_task("a", result_ttl=HOUR))
    await backend.complete([Failed(held, b"error", 10 * HOUR)])
    await backend.requeue(["a"])
    await finished_again(backend, "a")
    clock.advance(HOUR)
    assert await backend.prune(10) == 1


async def finished_again(backend: Backend, task_id: str) -> None:
    [task] = (await backend.reserve("w1", None, 1, HOUR, ids=[task_id])).tasks
    await backend.complete([Succeeded(task.held, b"result")])


async def test_what_was_cancelled_before_it_started_goes_too(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a", result_ttl=HOUR)])
    await backend.cancel(["a"])
    clock.advance(HOUR)

    assert await backend.prune(10) == 1
    assert await found_ids(backend) == []


async def test_without_a_time_it_is_kept_for_good(backend: Backend, clock: FakeClock) -> None:
    ids = await finished(backend, 2, result_ttl=None)
    clock.advance(timedelta(days=10_000))

    assert await backend.prune(10) == 0
    assert await found_ids(backend) == ids[::-1]


async def test_a_time_of_zero_is_gone_at_the_next_prune(backend: Backend) -> None:
    await finished(backend, 2, result_ttl=timedelta(0))

    assert await backend.prune(10) == 2


async def test_what_is_not_over_is_kept(backend: Backend, clock: FakeClock) -> None:
    ttl = timedelta(0)
    await running(backend, new_task("running", result_ttl=ttl))
    held = await running(backend, new_task("retried", result_ttl=ttl))
    await backend.complete([Retried(held, clock.now(), b"")])
    await backend.enqueue([new_task("pending", result_ttl=ttl)])
    before = await everything(backend)
    clock.advance(100 * HOUR)

    assert await backend.prune(10) == 0

    assert await everything(backend) == before


@pytest.mark.parametrize(("limit", "pruned"), [(0, 0), (1, 1), (4, 4), (5, 5), (100, 5)])
async def test_at_most_the_limit(backend: Backend, limit: int, pruned: int) -> None:
    await finished(backend, 5, result_ttl=timedelta(0))
    await finished(backend, 2, result_ttl=HOUR)

    assert await backend.prune(limit) == pruned

    assert len(await everything(backend)) == 7 - pruned


async def test_again_and_again_until_nothing_is_left(backend: Backend) -> None:
    await finished(backend, 7, result_ttl=timedelta(0))

    assert [await backend.prune(3) for _ in range(4)] == [3, 3, 1, 0]


async def test_a_pruned_id_may_be_used_again(backend: Backend) -> None:
    await finished(backend, 1, result_ttl=timedelta(0))
    [old] = await everything(backend)
    await backend.enqueue([new_task("newer")])
    await backend.prune(10)

    assert await backend.enqueue([new_task(old.id, payload=b"new")]) == [Enqueued(old.id, created=True)]

    stored = await record(backend, old.id)
    assert (stored.status, stored.attempt, stored.result) == (Status.PENDING, 0, None)
    assert stored.payload == b"new"
    assert stored.seq > old.seq
    assert await found_ids(backend) == [old.id, "newer"]
    assert old.id in await reserved_ids(backend)


async def test_seq_goes_on_when_the_newest_task_was_pruned(backend: Backend) -> None:
    await finished(backend, 1, result_ttl=timedelta(0))
    [old] = await everything(backend)
    await backend.prune(10)

    await backend.enqueue([new_task()])

    [new] = await everything(backend)
    assert new.seq > old.seq
    assert new.result is None


async def test_stats_forget_what_was_pruned(backend: Backend) -> None:
    await finished(backend, 3, result_ttl=timedelta(0))
    await backend.enqueue(new_tasks(2))
    await backend.prune(10)

    [queue] = (await backend.stats()).queues

    assert {status: number for status, number in queue.counts.items() if number} == {Status.PENDING: 2}


# -- By id -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [HOUR, None], ids=["not yet", "never"])
async def test_by_id_whatever_time_it_was_to_be_kept(backend: Backend, ttl: timedelta | None) -> None:
    a, b, c = await finished(backend, 3, result_ttl=ttl)

    assert await backend.prune(10, ids=[a, c]) == 2

    assert await found_ids(backend) == [b]


async def test_by_id_leaves_the_others_though_their_time_has_passed(backend: Backend) -> None:
    a, b = await finished(backend, 2, result_ttl=timedelta(0))

    assert await backend.prune(10, ids=[a]) == 1

    assert await found_ids(backend) == [b]


async def test_by_id_what_is_not_over_is_kept(backend: Backend, clock: FakeClock) -> None:
    await running(backend, new_task("running"))
    await backend.complete([Retried(await running(backend, new_task("retried")), clock.now(), b"")])
    await backend.enqueue([new_task("pending"), new_task("cancelled")])
    await backend.cancel(["cancelled", "running"])

    assert await backend.prune(10, ids=["running", "retried", "pending", "cancelled", "unknown"]) == 1

    assert await found_ids(backend) == ["pending", "retried", "running"]


async def test_by_id_at_most_the_limit(backend: Backend) -> None:
    ids = await finished(backend, 5)

    assert await backend.prune(0, ids=ids) == 0
    assert [await backend.prune(2, ids=ids) for _ in range(4)] == [2, 2, 1, 0]


async def test_by_id_twice_is_once_and_none_is_none(backend: Backend) -> None:
    a, b = await finished(backend, 2, result_ttl=timedelta(0))

    assert await backend.prune(10, ids=[]) == 0
    assert await backend.prune(10, ids=[a, a]) == 1
    assert await backend.prune(10, ids={a}) == 0
    assert await found_ids(backend) == [b]


async def test_many_by_id(backend: Backend) -> None:
    tasks = new_tasks(2_000)
    await backend.enqueue(tasks)
    await backend.cancel([task.id for task in tasks])

    assert await backend.prune(10_000, ids=[task.id for task in tasks]) == 2_000

    assert await everything(backend) == []


async def test_a_holder_until_an_instant_does_not_stand_in_the_way_of_others(
    backend: Backend, clock: FakeClock
) -> None:
    until = clock.now() + HOUR
    holders = [
        new_task(unique=Unique(f"{number}", until), result_ttl=timedelta(0), priority=-9)
        for number in range(3)
    ]
    await backend.enqueue([*holders, new_task("other", result_ttl=timedelta(0))])
    await backend.cancel([*(task.id for task in holders), "other"])

    assert await backend.prune(1) == 1

    assert await backend.get_result("other") is None
    clock.advance(HOUR)
    assert await backend.prune(10) == 3
