"""Rate: never too many starts of a key in any span, as many as are allowed, and a look when it is time."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from sitq.backends.base import Backend
from sitq.model import Failed, Held, Outcome, Released, Retried, Succeeded
from tests.support import (
    ENDS,
    HOUR,
    LEASE,
    MINUTE,
    FakeClock,
    bounded,
    finish,
    new_task,
    next_due_at,
    paced,
    reserved_ids,
    running,
)

MICROSECOND = timedelta(microseconds=1)

# -- How many --------------------------------------------------------------------------------------


async def test_one_call_starts_no_more_than_the_count(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([paced(f"{number}", 3) for number in range(10)])

    assert await reserved_ids(backend) == ["0", "1", "2"]
    await finish(backend, "0", "1", "2")
    assert await reserved_ids(backend) == []

    clock.advance(MINUTE - MICROSECOND)
    assert await reserved_ids(backend) == []
    clock.advance(MICROSECOND)
    assert await reserved_ids(backend) == ["3", "4", "5"]


async def test_several_calls_workers_and_queues_are_paced_together(backend: Backend) -> None:
    await backend.enqueue([paced(f"{number}", 3, queue=f"q{number % 2}") for number in range(10)])

    assert await reserved_ids(backend, worker="w1", queues=["q0"], limit=1) == ["0"]
    assert await reserved_ids(backend, worker="w2", queues=["q1"], limit=1) == ["1"]
    assert await reserved_ids(backend, worker="w3", queues=["q1", "q0"]) == ["2"]
    assert await reserved_ids(backend, worker="w4") == []


async def test_all_clients_are_paced_together(clients: list[Backend]) -> None:
    await clients[0].enqueue([paced(count=2) for _ in range(20)])

    taken = [await reserved_ids(client, worker=f"w{n}", limit=1) for n, client in enumerate(clients)]

    assert sum(map(len, taken)) == 2


async def test_the_span_slides(backend: Backend, clock: FakeClock) -> None:
    """Not so many a calendar minute: what counts is the minute that ends now."""
    await backend.enqueue([paced(f"{number}", 2) for number in range(6)])

    assert await reserved_ids(backend, limit=1, lease=HOUR) == ["0"]
    for number in range(1, 6):
        clock.advance(MINUTE / 2)
        assert await reserved_ids(backend, lease=HOUR) == [f"{number}"]


@pytest.mark.parametrize("seed", range(10))
async def test_no_span_has_more_starts_than_the_count(backend: Backend, clock: FakeClock, seed: int) -> None:
    dice = random.Random(seed)
    count, period = dice.randint(1, 4), timedelta(seconds=dice.choice([1, 10, 60]))
    await backend.enqueue([paced(count=count, period=period, queue=f"q{n % 3}") for n in range(60)])

    starts: list[datetime] = []
    while len(starts) < 60:
        queues = dice.choice([None, ["q0"], ["q1", "q2"]])
        found = (await backend.reserve("w1", queues, dice.randint(1, 5), HOUR)).tasks
        starts += [clock.now()] * len(found)
        await backend.complete([dice.choice(ENDS)(task.held) for task in found])
        clock.advance(period * dice.choice([0, 0, 0.1, 0.3, 0.9999, 1, 1.7]))

    # The start after `count` others is at least a period later than the first of them: so is every window.
    assert all(later - first >= period for first, later in zip(starts, starts[count:], strict=False))


async def test_a_rate_is_used_to_the_full(backend: Backend, clock: FakeClock) -> None:
    """Looking whenever the answer says so starts as many as are allowed."""
    begin = clock.now()
    await backend.enqueue([paced(count=3) for _ in range(30)])

    starts: list[datetime] = []
    while len(starts) < 30:
        found = await backend.reserve("w1", None, 100, LEASE)
        await backend.complete([Succeeded(task.held, b"") for task in found.tasks])
        starts += [clock.now()] * len(found.tasks)
        if len(starts) < 30:
            again = await next_due_at(backend)
            assert again is not None
            clock.advance(again - clock.now())

    assert starts == [begin + MINUTE * (number // 3) for number in range(30)]


async def test_rate_keys_count_on_their_own(backend: Backend) -> None:
    await backend.enqueue([paced(f"{key}{n}", key=key) for n in range(3) for key in ("a", "b", "A", "")])

    assert await reserved_ids(backend) == ["a0", "b0", "A0", "0"]


async def test_each_task_brings_its_own_rate(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([paced("0", 3), paced("1", 3)])
    assert await reserved_ids(backend, lease=HOUR) == ["0", "1"]
    await backend.enqueue(
        [paced("low", 1), paced("high", 3), paced("higher", 3), paced("short", 1, MINUTE / 2)]
    )

    assert await reserved_ids(backend, lease=HOUR) == ["high"]
    clock.advance(MINUTE / 2)
    assert await reserved_ids(backend, lease=HOUR) == ["short"]
    clock.advance(MINUTE / 2)
    assert await reserved_ids(backend, lease=HOUR) == ["higher"]
    clock.advance(MINUTE)
    assert await reserved_ids(backend, lease=HOUR) == ["low"]


# -- What is a start -------------------------------------------------------------------------------


async def test_a_lost_lease_is_handed_out_and_is_no_start(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([paced("a", 2), paced("b", 2), paced("c", 2)])
    assert await reserved_ids(backend, limit=1) == ["a"]
    assert await reserved_ids(backend, limit=1) == ["b"]
    clock.advance(MINUTE / 2)

    assert await reserved_ids(backend) == ["a", "b"]  # though both starts of this minute are used
    clock.advance(MINUTE / 2)

    assert await reserved_ids(backend, ids=["c"]) == ["c"]


@pytest.mark.parametrize(
    "give_back",
    [lambda held, clock: Released(held), lambda held, clock: Retried(held, clock.now(), b"error")],
    ids=["released", "retried"],
)
async def test_a_task_that_was_given_back_starts_again(
    backend: Backend, clock: FakeClock, give_back: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend, paced("a", 2))
    await backend.complete([give_back(held, clock)])
    assert await reserved_ids(backend) == ["a"]
    await backend.enqueue([paced("b", 2)])

    assert await reserved_ids(backend) == []


async def test_a_cancelled_one_uses_no_start(backend: Backend) -> None:
    await backend.enqueue([paced("a"), paced("b"), paced("c")])
    await backend.cancel(["a"])

    assert await reserved_ids(backend) == ["b"]


async def test_a_rate_of_which_none_started_goes_with_its_tasks(backend: Backend) -> None:
    await backend.enqueue([paced("a")])
    await backend.cancel(["a"])
    assert await backend.prune(10, ids=["a"]) == 1
    await backend.enqueue([paced("b"), paced("c")])

    assert await reserved_ids(backend) == ["b"]


async def test_a_start_stays_counted_though_its_task_is_gone(backend: Backend, clock: FakeClock) -> None:
    await running(backend, paced("a", result_ttl=timedelta(0)))
    await finish(backend, "a")
    assert await backend.prune(10) == 1
    await backend.enqueue([paced("b")])

    assert await reserved_ids(backend) == []
    clock.advance(MINUTE)
    assert await reserved_ids(backend) == ["b"]


async def test_tasks_that_are_requeued_long_after_are_bound_by_their_rate(
    backend: Backend, clock: FakeClock
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        held = await running(backend, paced(name, 2))
        await backend.complete([Failed(held, b"")])
        clock.advance(MINUTE)
    clock.advance(HOUR)
    await backend.prune(10)

    assert await backend.requeue(names) == names

    assert await reserved_ids(backend) == ["a", "b"]


async def test_the_starts_that_bound_a_waiting_task_are_not_forgotten(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([paced("waits", 2)])
    clock.advance(HOUR)
    await backend.prune(10)
    second = timedelta(seconds=1)
    for name in ("a", "b"):
        await running(backend, paced(name, 2, period=second, priority=-1))
        clock.advance(second)

    assert await reserved_ids(backend) == []
    clock.advance(MINUTE - 2 * second)
    assert await reserved_ids(backend, ids=["waits"]) == ["waits"]


async def test_starts_that_are_stored_out_of_their_order_all_count(
    backend: Backend, clock: FakeClock
) -> None:
    second = timedelta(seconds=1)
    await backend.enqueue([paced("a", 2), paced("b", 2), paced("c", 2)])
    clock.advance(MINUTE)
    assert await reserved_ids(backend, limit=1) == ["a"]
    clock.advance(-second)  # its clock was read before it had to wait for who stored the first
    assert await reserved_ids(backend, limit=1) == ["b"]

    clock.advance(MINUTE - second / 2)
    assert await reserved_ids(backend, ids=["c"]) == []
    clock.advance(2 * second)
    assert await reserved_ids(backend, ids=["c"]) == ["c"]


async def test_a_long_quiet_time_saves_up_no_starts(backend: Backend, clock: FakeClock) -> None:
    await running(backend, paced(count=2))
    clock.advance(1_000 * HOUR)
    await backend.prune(10)
    await backend.enqueue([paced(f"{number}", 2, queue="later") for number in range(5)])

    assert await reserved_ids(backend, queues=["later"]) == ["0", "1"]


# -- Who, and when to look again -------------------------------------------------------------------


async def test_a_used_up_rate_in_front_holds_up_nobody_else(backend: Backend) -> None:
    await running(backend, paced())
    await backend.enqueue([paced(priority=-9) for _ in range(1_000)])
    await backend.enqueue([paced("other", key="other"), new_task("free")])

    assert await reserved_ids(backend, limit=2) == ["other", "free"]


async def test_those_of_a_rate_come_by_priority_then_due_time_then_seq(
    backend: Backend, clock: FakeClock
) -> None:
    await running(backend, paced("now"))
    await finish(backend, "now")
    early = clock.now() - HOUR
    await backend.enqueue(
        [
            paced("5", priority=1, due_at=early, queue="a"),
            paced("3", queue="b"),
            paced("2", due_at=early, queue="c"),
            paced("4", queue="a"),
            paced("1", priority=-1, queue="b"),
        ]
    )

    order: list[str] = []
    while len(order) < 5:
        assert await reserved_ids(backend) == []
        clock.advance(MINUTE)
        order += await reserved_ids(backend)
        await finish(backend, order[-1])

    assert order == ["1", "2", "3", "4", "5"]


async def test_next_due_at_is_when_the_rate_allows_the_next(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([paced("a", 2), paced("b", 2), paced("c", 2)])
    first = clock.now()
    await reserved_ids(backend, limit=1)
    clock.advance(MINUTE / 6)
    found = await backend.reserve("w1", None, 5, HOUR)
    assert [task.id for task in found.tasks] == ["b"]
    await finish(backend, "a", "b")

    assert found.next_due_at == first + LEASE  # the lease of the first, which is over before the minute is
    assert await next_due_at(backend) == first + MINUTE
    clock.advance(first + MINUTE - clock.now())
    assert await reserved_ids(backend) == ["c"]


async def test_next_due_at_is_not_before_the_task_is_due(backend: Backend, clock: FakeClock) -> None:
    await running(backend, paced("a"))
    await finish(backend, "a")
    await backend.enqueue([paced("b", due_at=clock.now() + HOUR)])

    assert await next_due_at(backend) == clock.now() + HOUR


async def test_next_due_at_of_a_task_that_is_due_before_its_rate_allows_it(
    backend: Backend, clock: FakeClock
) -> None:
    await running(backend, paced("a"))
    await finish(backend, "a")
    await backend.enqueue([paced("b", due_at=clock.now() + MINUTE / 2)])

    assert await next_due_at(backend) == clock.now() + MINUTE


async def test_next_due_at_of_a_task_without_a_rate_is_when_it_is_due_while_others_are_paced(
    backend: Backend, clock: FakeClock
) -> None:
    soon = clock.now() + timedelta(seconds=10)
    await running(backend, paced())
    await backend.enqueue([bounded("later", due_at=soon)])

    assert await next_due_at(backend) == soon
    clock.advance(10)
    assert await reserved_ids(backend) == ["later"]


async def test_next_due_at_is_the_first_of_several_rates(backend: Backend, clock: FakeClock) -> None:
    for key, period in (("slow", HOUR), ("fast", MINUTE)):
        held = await running(backend, paced(period=period, key=key))
        await backend.complete([Succeeded(held, b"")])
        await backend.enqueue([paced(period=period, key=key, queue=key)])

    assert await next_due_at(backend) == clock.now() + MINUTE
    assert await next_due_at(backend, ["slow"]) == clock.now() + HOUR


async def test_next_due_at_names_what_is_left_after_the_last_start(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([paced("a"), paced("b")])

    found = await backend.reserve("w1", None, 5, HOUR)

    assert [task.id for task in found.tasks] == ["a"]
    assert found.next_due_at == clock.now() + MINUTE


async def test_ids_obey_the_rate_too(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([paced("a"), paced("b")])

    assert await reserved_ids(backend, ids=["b", "a"]) == ["a"]
    assert await reserved_ids(backend, ids=["b"]) == []
    clock.advance(MINUTE)
    assert await reserved_ids(backend, ids=["b"]) == ["b"]
