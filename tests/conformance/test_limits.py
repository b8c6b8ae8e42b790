"""Concurrency and rate together: both have to allow a start, and what one holds up costs the other nothing."""

import random
from datetime import datetime, timedelta

import pytest

from sitq.backends.base import Backend
from sitq.model import Concurrency, Held, NewTask, Rate
from tests.support import (
    ENDS,
    HOUR,
    MINUTE,
    FakeClock,
    bounded,
    everything,
    finish,
    new_task,
    next_due_at,
    paced,
    record,
    reserved_ids,
    running,
)


def both(task_id: str, limit: int, count: int) -> NewTask:
    return new_task(task_id, concurrency=Concurrency("key", limit), rate=Rate("key", count, MINUTE))


async def test_the_record_says_what_was_asked(backend: Backend) -> None:
    rate = Rate("b", 7, timedelta(days=3, microseconds=1))
    await backend.enqueue([new_task("a", concurrency=Concurrency("a", 3), rate=rate), new_task("b")])

    plain, stored = await everything(backend)

    assert (stored.concurrency, stored.rate) == (Concurrency("a", 3), rate)
    assert (plain.concurrency, plain.rate) == (None, None)


async def test_both_have_to_allow_a_start(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([both(f"{number}", 2, 3) for number in range(10)])

    assert await reserved_ids(backend) == ["0", "1"]  # two run
    await finish(backend, "0", "1")
    assert await reserved_ids(backend) == ["2"]  # three started
    await finish(backend, "2")
    assert await next_due_at(backend) == clock.now() + MINUTE
    clock.advance(MINUTE)
    assert await reserved_ids(backend) == ["3", "4"]


async def test_one_held_up_by_its_concurrency_uses_no_start(backend: Backend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([both("held up", 1, 1), paced("a")])

    assert await reserved_ids(backend) == ["a"]


async def test_one_held_up_by_its_rate_takes_no_place(backend: Backend) -> None:
    await running(backend, paced("now"))
    await backend.enqueue([both("held up", 1, 1), bounded("a")])

    assert await reserved_ids(backend) == ["a"]


async def test_next_due_at_passes_over_one_that_both_hold_up(backend: Backend, clock: FakeClock) -> None:
    await running(backend, both("now", 1, 1))
    await backend.heartbeat("w1", [Held("now", (await record(backend, "now")).fence)], HOUR)
    await backend.enqueue([both("a", 1, 1)])

    assert await next_due_at(backend) == clock.now() + HOUR  # the lease, not the minute
    await finish(backend, "now")
    assert await next_due_at(backend) == clock.now() + MINUTE


@pytest.mark.parametrize("seed", range(10))
async def test_any_history_keeps_both_and_never_asks_for_a_look_in_the_past(
    backend: Backend, clock: FakeClock, seed: int
) -> None:
    dice = random.Random(seed)
    limit, count = dice.randint(1, 3), dice.randint(1, 4)
    await backend.enqueue([both(f"{number}", limit, count) for number in range(30)])
    held: list[Held] = []
    starts: list[datetime] = []
    left, promised = 30, False

    while left:
        found = await backend.reserve("w1", None, dice.randint(1, 3), 100 * HOUR)
        assert found.tasks or not promised
        held += [task.held for task in found.tasks]
        starts += [clock.now()] * len(found.tasks)
        assert len(held) <= limit
        if not found.tasks:
            assert found.next_due_at is not None
            assert found.next_due_at > clock.now()
        # If nothing runs and nothing may start, the rate alone holds them up, and the answer says until when.
        promised = not held
        if promised:
            assert found.next_due_at is not None
            clock.advance(found.next_due_at - clock.now())
            continue
        if dice.random() < 0.7:
            over = held.pop(dice.randrange(len(held)))
            assert (await backend.complete([dice.choice(ENDS)(over)])).accepted == 1
            left -= 1
        clock.advance(MINUTE * dice.choice([0, 0, 0.1, 0.5, 1]))

    assert all(later - first >= MINUTE for first, later in zip(starts, starts[count:], strict=False))
