"""reserve: what is due, best first, to one worker at a time, with a fence that was never used before."""

from datetime import timedelta

import pytest

from sitq.backends.base import Backend
from sitq.model import MAX_PRIORITY, MIN_PRIORITY, Released, Retried, Status, Succeeded
from tests.support import (
    HOUR,
    LEASE,
    FakeClock,
    new_task,
    new_tasks,
    record,
    reserve_one,
    reserved_ids,
    running,
)

MICROSECOND = timedelta(microseconds=1)


async def test_a_reserved_task_runs(backend: Backend, clock: FakeClock) -> None:
    task = new_task("a", name="resize", queue="images", max_crashes=7, metadata={"tenant": 12})
    await backend.enqueue([task])
    clock.advance(5)

    reserved = await reserve_one(backend, "w1")

    assert (reserved.id, reserved.name, reserved.queue) == ("a", "resize", "images")
    assert (reserved.payload, reserved.metadata) == (task.payload, {"tenant": 12})
    assert (reserved.attempt, reserved.crashes, reserved.max_crashes) == (1, 0, 7)
    assert reserved.cancel_requested is False
    stored = await record(backend, "a")
    assert (stored.status, stored.worker, stored.fence) == (Status.RUNNING, "w1", reserved.fence)
    assert (stored.attempt, stored.crashes) == (1, 0)
    assert (stored.started_at, stored.due_at) == (clock.now(), clock.now() + LEASE)


async def test_nothing_is_there(backend: Backend) -> None:
    assert await backend.reserve("w1", None, 10, LEASE) == ([], None)


async def test_a_running_task_is_not_handed_out_again(backend: Backend) -> None:
    await backend.enqueue(new_tasks(3))

    assert len(await reserved_ids(backend, worker="w1")) == 3
    assert await reserved_ids(backend, worker="w1") == []
    assert await reserved_ids(backend, worker="w2") == []


@pytest.mark.parametrize("limit", [0, 1, 7, 10, 11])
async def test_never_more_than_the_limit(backend: Backend, limit: int) -> None:
    await backend.enqueue(new_tasks(10))

    assert len(await reserved_ids(backend, limit=limit)) == min(limit, 10)


async def test_more_at_once_than_a_short_list_of_parameters_holds(backend: Backend) -> None:
    tasks = new_tasks(2000)
    await backend.enqueue(tasks)

    assert await reserved_ids(backend, limit=5000) == [task.id for task in tasks]


# -- When ------------------------------------------------------------------------------------------


async def test_never_early(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a", due_at=clock.now() + HOUR)])

    clock.advance(HOUR - MICROSECOND)
    assert await reserved_ids(backend) == []

    clock.advance(MICROSECOND)
    assert await reserved_ids(backend) == ["a"]


async def test_a_retried_task_is_not_early_either(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    await backend.complete([Retried(held, clock.now() + HOUR, b"")])

    clock.advance(HOUR - MICROSECOND)
    assert await reserved_ids(backend) == []

    clock.advance(MICROSECOND)
    assert await reserved_ids(backend) == ["a"]


async def test_a_due_time_in_the_past_is_due(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a", due_at=clock.now() - HOUR)])

    assert await reserved_ids(backend) == ["a"]


async def test_next_due_at_is_when_the_first_of_the_rest_is_due(backend: Backend, clock: FakeClock) -> None:
    soon, later = clock.now() + 0.1 * LEASE, clock.now() + HOUR
    await backend.enqueue([new_task(due_at=later), new_task(due_at=soon, priority=9), new_task("now")])

    found = await backend.reserve("w1", None, 2, LEASE)

    assert [task.id for task in found.tasks] == ["now"]
    assert found.next_due_at == soon


async def test_next_due_at_counts_leases(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task(), new_task(due_at=clock.now() + HOUR)])

    found = await backend.reserve("w1", None, 2, LEASE)

    assert found.next_due_at == clock.now() + LEASE


async def test_next_due_at_is_about_the_queues_that_were_asked(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task(queue="a", due_at=clock.now() + 2 * HOUR)])
    await backend.enqueue([new_task(queue="b", due_at=clock.now() + HOUR)])

    assert (await backend.reserve("w1", ["a"], 1, LEASE)).next_due_at == clock.now() + 2 * HOUR
    assert (await backend.reserve("w1", ["a", "b"], 1, LEASE)).next_due_at == clock.now() + HOUR
    assert (await backend.reserve("w1", ["c"], 1, LEASE)).next_due_at is None
    assert (await backend.reserve("w1", None, 1, LEASE)).next_due_at == clock.now() + HOUR


async def test_next_due_at_is_left_out_when_the_limit_was_found(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task(), new_task(due_at=clock.now() + HOUR)])

    assert (await backend.reserve("w1", None, 1, LEASE)).next_due_at is None


async def test_finished_tasks_are_never_due(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    await backend.complete([Succeeded(held, b"")])
    clock.advance(HOUR)

    assert await backend.reserve("w1", None, 1, LEASE) == ([], None)


# -- In which order --------------------------------------------------------------------------------


async def test_every_priority_from_best_to_worst(backend: Backend) -> None:
    priorities = [*range(MIN_PRIORITY, MAX_PRIORITY + 1)]
    await backend.enqueue([new_task(f"{priority}", priority=priority) for priority in reversed(priorities)])

    assert await reserved_ids(backend) == [f"{priority}" for priority in priorities]


async def test_the_limit_cuts_off_the_worst(backend: Backend) -> None:
    await backend.enqueue([new_task("worst", priority=9), new_task("best", priority=-9), new_task("middle")])

    assert await reserved_ids(backend, limit=1) == ["best"]
    assert await reserved_ids(backend, limit=1) == ["middle"]
    assert await reserved_ids(backend, limit=1) == ["worst"]


async def test_priority_then_due_time_then_seq(backend: Backend, clock: FakeClock) -> None:
    early, late = clock.now() - HOUR, clock.now()
    await backend.enqueue(
        [
            new_task("5", priority=1, due_at=early),
            new_task("2", priority=0, due_at=late),
            new_task("3", priority=0, due_at=late),
            new_task("1", priority=0, due_at=early),
            new_task("4", priority=0, due_at=late),
            new_task("0", priority=-1, due_at=late),
        ]
    )

    assert await reserved_ids(backend) == ["0", "1", "2", "3", "4", "5"]


async def test_a_better_priority_that_is_not_due_does_not_hold_up_the_rest(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue(
        [new_task("far", priority=-9, due_at=clock.now() + HOUR), new_task("due", priority=9)]
    )

    assert await reserved_ids(backend, limit=1) == ["due"]


# -- From which queues -----------------------------------------------------------------------------


async def test_only_the_queues_that_were_asked(backend: Backend) -> None:
    await backend.enqueue([new_task("1", queue="a"), new_task("2", queue="b"), new_task("3", queue="c")])

    assert await reserved_ids(backend, queues=["a", "c"]) == ["1", "3"]
    assert await reserved_ids(backend, queues=["a", "c"]) == []
    assert await reserved_ids(backend, queues=None) == ["2"]


async def test_no_queue_is_no_task(backend: Backend) -> None:
    await backend.enqueue([new_task()])

    assert await backend.reserve("w1", [], 1, LEASE) == ([], None)


async def test_a_queue_named_twice_is_named_once(backend: Backend) -> None:
    await backend.enqueue(new_tasks(2, queue="a"))

    found = await backend.reserve("w1", ["a", "a"], 10, LEASE)

    assert [task.attempt for task in found.tasks] == [1, 1]


@pytest.mark.parametrize("queues", [["a", "b", "c"], ["c", "b", "a"], None], ids=["named", "reversed", "all"])
async def test_one_order_over_several_queues(
    backend: Backend, clock: FakeClock, queues: list[str] | None
) -> None:
    early = clock.now() - HOUR
    await backend.enqueue(
        [
            new_task("5", queue="a", priority=3),
            new_task("1", queue="b", priority=-2),
            new_task("4", queue="c"),
            new_task("2", queue="c", due_at=early),
            new_task("3", queue="b", due_at=early),
            new_task("0", queue="c", priority=-3),
        ]
    )

    first = await reserved_ids(backend, queues=queues, limit=4)
    rest = await reserved_ids(backend, queues=queues, limit=4)

    assert (first, rest) == (["0", "1", "2", "3"], ["4", "5"])


# -- By id -----------------------------------------------------------------------------------------


async def test_ids_narrow_the_choice(backend: Backend) -> None:
    await backend.enqueue([new_task("a", priority=-1), new_task("b"), new_task("c", priority=-2)])

    assert await reserved_ids(backend, ids=["b", "a", "b", "unknown"]) == ["a", "b"]
    assert await reserved_ids(backend, ids=["a", "b"]) == []
    assert await reserved_ids(backend) == ["c"]


async def test_ids_obey_the_limit_and_the_queues(backend: Backend) -> None:
    await backend.enqueue([new_task("a", queue="x"), new_task("b", queue="y"), new_task("c", queue="y")])

    assert await reserved_ids(backend, ids=["a", "b", "c"], queues=["y"], limit=1) == ["b"]
    assert await reserved_ids(backend, ids=["a"], queues=["y"]) == []
    assert await reserved_ids(backend, ids=["a"], queues=None) == ["a"]


async def test_an_id_that_is_not_due_is_not_handed_out(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a", due_at=clock.now() + HOUR)])
    held = await running(backend, new_task("done"))
    await backend.complete([Succeeded(held, b"")])
    await running(backend, new_task("running"))

    assert await reserved_ids(backend, ids=["a", "done", "running"]) == []


async def test_no_ids_is_no_task(backend: Backend) -> None:
    await backend.enqueue([new_task()])

    assert await reserved_ids(backend, ids=[]) == []


# -- Lost leases -----------------------------------------------------------------------------------


async def test_an_expired_lease_is_handed_out_once_and_counted_as_a_crash(
    backend: Backend, clock: FakeClock
) -> None:
    first = await running(backend, new_task("a"))

    clock.advance(LEASE - MICROSECOND)
    assert await reserved_ids(backend, worker="w2") == []

    clock.advance(MICROSECOND)
    second = await reserve_one(backend, "w2")
    assert (second.attempt, second.crashes) == (2, 1)
    assert second.fence > first.fence
    assert (await record(backend, "a")).worker == "w2"
    assert await reserved_ids(backend, worker="w3") == []


async def test_crashes_add_up_and_are_handed_out_past_the_maximum(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a", max_crashes=2)])

    seen = []
    for _ in range(5):
        reserved = await reserve_one(backend)
        seen.append((reserved.attempt, reserved.crashes))
        clock.advance(LEASE)

    assert seen == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]


async def test_a_retry_and_a_release_are_no_crashes(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a")])

    first = await reserve_one(backend)
    await backend.complete([Retried(first.held, clock.now(), b"")])
    second = await reserve_one(backend)
    await backend.complete([Released(second.held)])
    third = await reserve_one(backend)

    assert [(task.attempt, task.crashes) for task in (first, second, third)] == [(1, 0), (2, 0), (2, 0)]


async def test_an_expired_lease_keeps_its_place_in_the_order(backend: Backend, clock: FakeClock) -> None:
    await running(backend, new_task("lost"))
    clock.advance(LEASE)
    await backend.enqueue([new_task("later"), new_task("earlier", due_at=clock.now() - HOUR)])

    assert await reserved_ids(backend) == ["earlier", "lost", "later"]


async def test_the_next_worker_learns_of_a_cancel_request(backend: Backend, clock: FakeClock) -> None:
    await running(backend, new_task("a"))
    await backend.cancel(["a"])
    clock.advance(LEASE)

    assert (await reserve_one(backend, "w2")).cancel_requested is True


# -- Fences ----------------------------------------------------------------------------------------


async def test_no_reservation_has_the_fence_of_an_earlier_one(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue(new_tasks(20))

    newest = 0
    for step in range(10):
        found = (await backend.reserve("w1", None, 7, LEASE)).tasks
        assert all(task.fence > newest for task in found)
        newest = max((task.fence for task in found), default=newest)
        if step % 2:
            await backend.complete([Released(task.held) for task in found])
        clock.advance(LEASE)


async def test_an_id_that_was_pruned_and_comes_again_gets_no_old_fence(
    backend: Backend, clock: FakeClock
) -> None:
    first = await running(backend, new_task("a", result_ttl=timedelta(0)))
    await backend.complete([Succeeded(first, b"old")])
    assert await backend.prune(10) == 1

    second = await running(backend, new_task("a"))

    assert second.fence > first.fence
    assert await backend.complete([Succeeded(first, b"old")]) == (0, (first,))
    assert (await record(backend, "a")).status is Status.RUNNING
