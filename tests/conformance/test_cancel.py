"""cancel: what has not started never will, what runs is asked to stop, what is over stays as it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from sitq.backends.base import Backend
from sitq.model import Cancelled, Failed, Held, Outcome, Retried, Status, Succeeded
from tests.support import (
    HOUR,
    LEASE,
    FakeClock,
    everything,
    new_task,
    new_tasks,
    record,
    reserve_one,
    reserved_ids,
    running,
)


@pytest.mark.parametrize("wait", [0, 3600], ids=["due", "not yet due"])
async def test_a_pending_task_never_starts(backend: Backend, clock: FakeClock, wait: int) -> None:
    due_at = clock.now() + wait * HOUR / 3600
    await backend.enqueue([new_task("a", due_at=due_at)])
    before = await record(backend, "a")
    clock.advance(1)

    assert await backend.cancel(["a"]) == {"a": Status.CANCELLED}

    assert await record(backend, "a") == replace(
        before, status=Status.CANCELLED, due_at=None, finished_at=clock.now()
    )
    clock.advance(2 * HOUR)
    assert await reserved_ids(backend) == []
    assert await reserved_ids(backend, ids=["a"]) == []


async def test_a_task_that_waits_for_its_retry_never_starts(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    await backend.complete([Retried(held, clock.now() + HOUR, b"error")])

    assert await backend.cancel([held.id]) == {held.id: Status.CANCELLED}

    stored = await record(backend, held.id)
    assert (stored.status, stored.error, stored.attempt) == (Status.CANCELLED, b"error", 1)
    clock.advance(2 * HOUR)
    assert await reserved_ids(backend) == []


async def test_a_running_task_is_flagged_and_goes_on(backend: Backend) -> None:
    held = await running(backend)
    before = await record(backend, held.id)

    assert await backend.cancel([held.id]) == {held.id: Status.RUNNING}

    assert await record(backend, held.id) == replace(before, cancel_requested=True)


async def test_a_running_task_that_lost_its_lease_is_flagged_too(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    clock.advance(LEASE)

    assert await backend.cancel([held.id]) == {held.id: Status.RUNNING}

    assert (await reserve_one(backend)).cancel_requested is True


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda held: Succeeded(held, b"result"), Status.SUCCESS),
        (lambda held: Failed(held, b"error"), Status.FAILED),
        (lambda held: Cancelled(held, b"reason"), Status.CANCELLED),
    ],
    ids=["success", "failed", "cancelled"],
)
async def test_a_finished_task_stays_as_it_is(
    backend: Backend, clock: FakeClock, end: Callable[[Held], Outcome], status: Status
) -> None:
    held = await running(backend)
    await backend.complete([end(held)])
    before = await record(backend, held.id)
    clock.advance(1)

    assert await backend.cancel([held.id]) == {held.id: status}

    assert await record(backend, held.id) == before


async def test_a_cancelled_task_stays_as_it_is(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a")])
    await backend.cancel(["a"])
    before = await record(backend, "a")
    clock.advance(1)

    assert await backend.cancel(["a"]) == {"a": Status.CANCELLED}

    assert await record(backend, "a") == before


async def test_unknown_ids_are_left_out(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), new_task("b")])

    assert await backend.cancel(["a", "unknown"]) == {"a": Status.CANCELLED}
    assert (await record(backend, "b")).status is Status.PENDING


async def test_no_ids(backend: Backend) -> None:
    await backend.enqueue([new_task()])
    before = await everything(backend)

    assert await backend.cancel([]) == {}

    assert await everything(backend) == before


async def test_an_id_twice(backend: Backend) -> None:
    await backend.enqueue([new_task("a")])

    assert await backend.cancel(["a", "a"]) == {"a": Status.CANCELLED}


async def test_many_in_every_state_at_once(backend: Backend) -> None:
    tasks = new_tasks(2000)
    await backend.enqueue(tasks)
    reserved = (await backend.reserve("w1", None, 1000, LEASE)).tasks
    await backend.complete([Succeeded(task.held, b"") for task in reserved[:500]])

    answer = await backend.cancel({task.id for task in tasks})

    expected = [Status.SUCCESS] * 500 + [Status.RUNNING] * 500 + [Status.CANCELLED] * 1000
    assert [answer[task.id] for task in tasks] == expected
    assert await reserved_ids(backend) == []
