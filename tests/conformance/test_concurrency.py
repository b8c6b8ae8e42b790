"""Concurrency: never too many of a key at once, and nobody waits without a reason."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from sitq.backends.base import Backend
from sitq.model import Cancelled, Failed, Held, Outcome, QueueTopic, Released, Retried, Status, Succeeded
from tests.support import (
    HOUR,
    LEASE,
    PATIENCE,
    FakeClock,
    bounded,
    finish,
    new_task,
    new_tasks,
    next_due_at,
    paced,
    record,
    reserve_one,
    reserved_ids,
    running,
)

OUTCOMES: dict[str, Callable[[Held, FakeClock], Outcome]] = {
    "succeeded": lambda held, clock: Succeeded(held, b"result"),
    "failed": lambda held, clock: Failed(held, b"error"),
    "cancelled": lambda held, clock: Cancelled(held),
    "retried": lambda held, clock: Retried(held, clock.now() + HOUR, b"error"),
    "released": lambda held, clock: Released(held, clock.now() + HOUR),
    "snoozed": lambda held, clock: Released(held, clock.now() + HOUR, b"reason"),
}
each_outcome = pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES.keys())


# -- How many --------------------------------------------------------------------------------------


async def test_one_call_hands_out_no_more_than_may_run(backend: Backend) -> None:
    await backend.enqueue([bounded(f"{number}", 3) for number in range(10)])

    assert await reserved_ids(backend) == ["0", "1", "2"]


async def test_several_calls_workers_and_queues_count_together(backend: Backend) -> None:
    await backend.enqueue([bounded(f"{number}", 3, queue=f"q{number % 2}") for number in range(10)])

    assert await reserved_ids(backend, worker="w1", queues=["q0"], limit=1) == ["0"]
    assert await reserved_ids(backend, worker="w2", queues=["q1"], limit=1) == ["1"]
    assert await reserved_ids(backend, worker="w3", queues=["q1", "q0"]) == ["2"]
    assert await reserved_ids(backend, worker="w4") == []


async def test_all_clients_count_together(clients: list[Backend]) -> None:
    await clients[0].enqueue([bounded(limit=2) for _ in range(20)])

    taken = [await reserved_ids(client, worker=f"w{n}", limit=1) for n, client in enumerate(clients)]

    assert sum(map(len, taken)) == 2


async def test_keys_count_on_their_own(backend: Backend) -> None:
    await backend.enqueue(
        [bounded(f"{key}{number}", 1, key) for number in range(3) for key in ("a", "b", "A", "")]
    )

    assert await reserved_ids(backend) == ["a0", "b0", "A0", "0"]


async def test_a_concurrency_and_a_rate_of_one_key_are_two_things(backend: Backend) -> None:
    await backend.enqueue([bounded("a"), paced("b"), new_task("c")])

    assert await reserved_ids(backend) == ["a", "b", "c"]


async def test_a_task_without_a_limit_is_not_held_up(backend: Backend) -> None:
    await running(backend, bounded())
    await backend.enqueue([bounded(), *(tasks := new_tasks(50)), bounded()])

    assert await reserved_ids(backend) == [task.id for task in tasks]


async def test_each_task_brings_its_own_limit(backend: Backend) -> None:
    await running(backend, bounded(limit=5))
    await running(backend, bounded(limit=5))
    await backend.enqueue(
        [bounded("1", 1), bounded("2", 2), bounded("3", 3), bounded("4", 4), bounded("5", 4)]
    )

    assert await reserved_ids(backend) == ["3", "4"]


async def test_a_lowered_limit_lets_none_in_until_enough_have_ended(backend: Backend) -> None:
    await backend.enqueue([bounded(f"{number}", 4) for number in range(4)])
    await reserved_ids(backend)
    await backend.enqueue([bounded("low", 2)])

    for number in range(3):
        assert await reserved_ids(backend) == []
        await finish(backend, f"{number}")
    assert await reserved_ids(backend) == ["low"]


async def test_a_raised_limit_lets_more_in(backend: Backend) -> None:
    await running(backend, bounded(limit=1))
    await backend.enqueue([bounded("still", 1), bounded("raised", 2)])

    assert await reserved_ids(backend) == ["raised"]


async def test_running_is_what_counts_however_the_lease_stands(backend: Backend, clock: FakeClock) -> None:
    await running(backend, bounded("a"))
    await backend.enqueue([bounded("b", queue="other")])
    clock.advance(2 * LEASE)

    assert await reserved_ids(backend, queues=["other"]) == []


async def test_a_lost_lease_is_handed_out_though_the_key_is_full(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([bounded("b", priority=-9), bounded("a")])
    assert await reserved_ids(backend) == ["b"]
    clock.advance(LEASE)

    again = await reserve_one(backend, "w2")

    assert (again.id, again.attempt, again.crashes) == ("b", 2, 1)
    await finish(backend, "b")
    assert await reserved_ids(backend) == ["a"]


async def test_every_lost_lease_is_handed_out_though_the_limit_was_lowered(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([bounded("a", 3), bounded("b", 3), bounded("c", 3)])
    await reserved_ids(backend)
    await backend.enqueue([bounded("low", 1, priority=-9)])
    clock.advance(LEASE)

    assert await reserved_ids(backend) == ["a", "b", "c"]


# -- Who -------------------------------------------------------------------------------------------


async def test_a_full_key_in_front_holds_up_nobody_else(backend: Backend) -> None:
    await running(backend, bounded("first"))
    await backend.enqueue([bounded(priority=-9) for _ in range(1_000)])
    await backend.enqueue([bounded("other", key="other"), new_task("free")])

    assert await reserved_ids(backend, limit=2) == ["other", "free"]


async def test_a_key_that_fills_up_within_a_call_holds_up_nobody_else(backend: Backend) -> None:
    await backend.enqueue([bounded(f"{number}", 2, priority=-9) for number in range(1_000)])
    await backend.enqueue([bounded("other", key="other", queue="b"), new_task("free", queue="c")])

    assert await reserved_ids(backend, limit=4) == ["0", "1", "other", "free"]


async def test_many_full_keys_hold_up_nobody_else(backend: Backend) -> None:
    await backend.enqueue([bounded(f"{key}", key=f"{key}") for key in range(50)])
    await reserved_ids(backend)
    await backend.enqueue([bounded(key=f"{number % 50}") for number in range(1_000)])
    await backend.enqueue([bounded("new", key="new"), new_task("free")])

    assert await reserved_ids(backend, limit=2) == ["new", "free"]


async def test_held_up_ones_come_by_priority_then_due_time_then_seq(
    backend: Backend, clock: FakeClock
) -> None:
    await running(backend, bounded("now"))
    early = clock.now() - HOUR
    await backend.enqueue(
        [
            bounded("5", priority=1, due_at=early, queue="a"),
            bounded("3", queue="b"),
            bounded("2", due_at=early, queue="c"),
            bounded("4", queue="a"),
            bounded("1", priority=-1, queue="b"),
        ]
    )

    order = ["now"]
    while len(order) < 6:
        assert await reserved_ids(backend) == []
        await finish(backend, order[-1])
        order += await reserved_ids(backend)

    assert order == ["now", "1", "2", "3", "4", "5"]


async def test_one_that_is_held_up_is_behind_a_better_one_that_came_later(backend: Backend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("held up")])
    assert await reserved_ids(backend) == []
    await backend.enqueue([bounded("better", priority=-1)])

    await finish(backend, "now")

    assert await reserved_ids(backend) == ["better"]


async def test_one_that_is_not_due_takes_no_place(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([bounded("later", priority=-9, due_at=clock.now() + HOUR), bounded("now")])

    assert await reserved_ids(backend) == ["now"]
    await finish(backend, "now")
    assert await reserved_ids(backend) == []
    clock.advance(HOUR)
    assert await reserved_ids(backend) == ["later"]


async def test_one_that_became_due_while_the_key_was_full_is_not_forgotten(
    backend: Backend, clock: FakeClock
) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("later", due_at=clock.now() + LEASE / 2)])
    assert await reserved_ids(backend) == []
    clock.advance(LEASE / 2)
    assert await reserved_ids(backend) == []

    await finish(backend, "now")

    assert await reserved_ids(backend) == ["later"]


async def test_one_that_is_held_up_can_be_cancelled(backend: Backend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("a"), bounded("b")])
    assert await reserved_ids(backend) == []

    assert await backend.cancel(["a"]) == {"a": Status.CANCELLED}
    assert await reserved_ids(backend) == []
    await finish(backend, "now")

    assert await reserved_ids(backend) == ["b"]


async def test_one_that_is_held_up_is_pending_and_untouched(backend: Backend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("a")])
    before = await record(backend, "a")

    assert await reserved_ids(backend) == []

    assert await record(backend, "a") == before
    assert (before.status, before.attempt, before.fence) == (Status.PENDING, 0, 0)


async def test_a_cancelled_one_that_still_runs_keeps_its_place(backend: Backend) -> None:
    held = await running(backend, bounded("now"))
    await backend.enqueue([bounded("a")])

    await backend.cancel(["now"])
    assert await reserved_ids(backend) == []

    await backend.complete([Cancelled(held)])
    assert await reserved_ids(backend) == ["a"]


async def test_ids_obey_it_too(backend: Backend) -> None:
    await backend.enqueue([bounded("a", 2), bounded("b", 2), bounded("c", 2)])

    assert await reserved_ids(backend, ids=["c", "b", "a"]) == ["a", "b"]
    assert await reserved_ids(backend, ids=["c"]) == []
    await finish(backend, "a")
    assert await reserved_ids(backend, ids=["c"]) == ["c"]


# -- Whom the end of a run lets in -----------------------------------------------------------------


@each_outcome
async def test_whatever_ends_the_run_lets_the_next_in(
    backend: Backend, clock: FakeClock, outcome: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend, bounded("a"))
    await backend.enqueue([bounded("b"), bounded("c")])
    assert await reserved_ids(backend) == []

    await backend.complete([outcome(held, clock)])

    assert await reserved_ids(backend) == ["b"]
    assert await reserved_ids(backend) == []


@each_outcome
async def test_whatever_ends_the_run_rings_the_queue_of_the_next(
    backend: Backend, clock: FakeClock, outcome: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend, bounded("a", queue="images"))
    await backend.enqueue([bounded("b", queue="mails")])

    async with backend.listen([QueueTopic("mails")]) as signal:
        assert await reserved_ids(backend, queues=["mails"]) == []
        await backend.complete([outcome(held, clock)])

        assert await signal.wait(PATIENCE)
        assert await reserved_ids(backend, queues=["mails"]) == ["b"]


async def test_a_stale_or_repeated_end_lets_nobody_in(backend: Backend, clock: FakeClock) -> None:
    first = await running(backend, bounded("a"))
    await backend.enqueue([bounded("b"), bounded("c")])
    clock.advance(LEASE)
    second = (await reserve_one(backend, "w2")).held

    await backend.complete([Succeeded(first, b"")])
    assert await reserved_ids(backend) == []

    await backend.complete([Succeeded(second, b""), Succeeded(second, b"")])
    await backend.complete([Succeeded(second, b"")])
    assert await reserved_ids(backend) == ["b"]


async def test_a_task_that_is_retried_waits_for_its_place_again(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, bounded("a"))
    await backend.enqueue([bounded("b", priority=-1)])

    await backend.complete([Retried(held, clock.now(), b"error")])

    assert await reserved_ids(backend) == ["b"]
    await finish(backend, "b")
    assert await reserved_ids(backend) == ["a"]


async def test_a_requeued_task_waits_for_its_place_again(backend: Backend) -> None:
    await backend.complete([Failed(await running(backend, bounded("a")), b"error")])
    await running(backend, bounded("b"))

    assert await backend.requeue(["a"]) == ["a"]

    assert await reserved_ids(backend) == []
    await finish(backend, "b")
    assert await reserved_ids(backend) == ["a"]


async def test_pruned_tasks_leave_the_count_right(backend: Backend) -> None:
    for number in range(3):
        await running(backend, bounded(f"{number}", result_ttl=timedelta(0)))
        await finish(backend, f"{number}")
        assert await backend.prune(10) == 1
    await backend.enqueue([bounded("a"), bounded("b")])

    assert await reserved_ids(backend) == ["a"]


async def test_workers_that_look_only_when_they_are_rung_get_through(backend: Backend) -> None:
    tasks = [bounded(limit=2, queue=f"q{number % 3}") for number in range(60)]
    await backend.enqueue(tasks)
    done: list[str] = []

    async def work(queue: str) -> None:
        async with backend.listen([QueueTopic(queue)]) as signal:
            while queue in (left := [task.queue for task in tasks if task.id not in done]):
                found = (await backend.reserve(queue, [queue], 1, LEASE)).tasks
                for task in found:
                    await asyncio.sleep(0)
                    await backend.complete([Succeeded(task.held, b"")])
                    done.append(task.id)
                if not found and queue in left:
                    assert await signal.wait(PATIENCE)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(work(f"q{number}"))

    assert len(done) == len(set(done)) == 60


# -- When to look again ----------------------------------------------------------------------------


async def test_next_due_at_passes_over_those_that_wait_for_an_end(backend: Backend, clock: FakeClock) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded(), bounded(), new_task(due_at=clock.now() + HOUR, queue="other")])

    assert await next_due_at(backend) == clock.now() + LEASE
    assert await next_due_at(backend, ["other"]) == clock.now() + HOUR


async def test_next_due_at_is_nothing_if_all_wait_for_an_end_elsewhere(backend: Backend) -> None:
    await running(backend, bounded("now", queue="one"))
    await backend.enqueue([bounded(queue="two")])

    assert await next_due_at(backend, ["two"]) is None


async def test_next_due_at_counts_a_lost_lease_of_a_full_key(backend: Backend, clock: FakeClock) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("a")])

    assert await next_due_at(backend) == clock.now() + LEASE
    clock.advance(LEASE)
    assert await reserved_ids(backend) == ["now"]
