"""requeue: what failed or was cancelled gets a new run, and what it went through is not forgotten."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from sitq.backends.base import Backend
from sitq.model import (
    NOTES_KEPT,
    Cancelled,
    Completed,
    Enqueued,
    Failed,
    Held,
    Note,
    NoteKind,
    Outcome,
    QueueTopic,
    Released,
    Retried,
    Status,
    Succeeded,
    Unique,
    Until,
)
from tests.support import (
    HOUR,
    LEASE,
    PATIENCE,
    FakeClock,
    everything,
    found_ids,
    new_task,
    new_tasks,
    record,
    reserve_one,
    reserved_ids,
    running,
)

ENDS: dict[str, Callable[[Held], Outcome]] = {
    "failed": lambda held: Failed(held, b"error"),
    "cancelled": lambda held: Cancelled(held, b"error"),
}
each_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())


async def failed(backend: Backend, task_id: str, **fields: object) -> Held:
    """A task that was given up."""
    held = await running(backend, new_task(task_id, **fields))
    await backend.complete([Failed(held, b"error")])
    return held


# -- A new run -------------------------------------------------------------------------------------


@each_end
async def test_a_new_run(backend: Backend, clock: FakeClock, end: Callable[[Held], Outcome]) -> None:
    await backend.enqueue([new_task("a", queue="images", priority=3, metadata={"tenant": 12})])
    before = await record(backend, "a")
    held = (await reserve_one(backend)).held
    await backend.complete([Retried(held, clock.now(), b"first")])
    await reserve_one(backend)
    clock.advance(LEASE)
    held = (await reserve_one(backend)).held
    await backend.complete([end(held)])
    clock.advance(HOUR)

    assert await backend.requeue(["a"]) == ["a"]

    assert await record(backend, "a") == replace(before, due_at=clock.now(), fence=held.fence)
    again = await reserve_one(backend)
    assert (again.id, again.attempt, again.crashes, again.payload) == ("a", 1, 0, before.payload)


async def test_what_was_cancelled_before_it_started(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a", due_at=clock.now() + HOUR)])
    await backend.cancel(["a"])

    assert await backend.requeue(["a"]) == ["a"]

    assert await reserved_ids(backend) == ["a"]  # now, not when it was to start


async def test_a_new_run_that_succeeds(backend: Backend) -> None:
    await failed(backend, "a")
    await backend.requeue(["a"])

    await backend.complete([Succeeded((await reserve_one(backend)).held, b"result")])

    stored = await record(backend, "a")
    assert (stored.status, stored.result, stored.error) == (Status.SUCCESS, b"result", None)


async def test_the_request_to_cancel_is_not_carried_over(backend: Backend) -> None:
    held = await running(backend, new_task("a"))
    await backend.cancel(["a"])
    await backend.complete([Cancelled(held)])

    await backend.requeue(["a"])

    assert (await record(backend, "a")).cancel_requested is False
    reserved = await reserve_one(backend)
    assert reserved.cancel_requested is False
    await backend.complete([Released(reserved.held)])
    assert (await record(backend, "a")).status is Status.PENDING


async def test_it_keeps_its_place_in_lists(backend: Backend) -> None:
    await failed(backend, "a")
    await backend.enqueue([new_task("b")])

    await backend.requeue(["a"])

    assert await found_ids(backend) == ["b", "a"]
    assert await found_ids(backend, statuses=[Status.PENDING]) == ["b", "a"]
    assert await found_ids(backend, statuses=[Status.FAILED]) == []


async def test_it_counts_as_pending(backend: Backend, clock: FakeClock) -> None:
    await failed(backend, "a")
    clock.advance(HOUR)
    await backend.requeue(["a"])

    [queue] = (await backend.stats()).queues

    assert {status: number for status, number in queue.counts.items() if number} == {Status.PENDING: 1}
    assert queue.oldest_due_at == clock.now()


async def test_it_is_kept_for_its_time_after_the_new_end(backend: Backend, clock: FakeClock) -> None:
    await failed(backend, "a", result_ttl=HOUR)
    clock.advance(HOUR / 2)
    await backend.requeue(["a"])
    clock.advance(HOUR)
    assert await backend.prune(10) == 0

    await backend.complete([Failed((await reserve_one(backend)).held, b"error")])

    assert await backend.prune(10) == 0
    clock.advance(HOUR)
    assert await backend.prune(10) == 1


async def test_it_rings_its_queue(backend: Backend) -> None:
    await failed(backend, "a", queue="images")

    async with backend.listen([QueueTopic("images")]) as signal:
        await backend.requeue(["a"])

        assert await signal.wait(PATIENCE)
        assert await reserved_ids(backend) == ["a"]


# -- Which ones ------------------------------------------------------------------------------------


async def test_what_is_not_over_or_succeeded_is_left_alone(backend: Backend) -> None:
    await running(backend, new_task("running"))
    await backend.complete([Succeeded(await running(backend, new_task("success")), b"result")])
    await backend.enqueue([new_task("pending")])
    before = await everything(backend)

    assert await backend.requeue(["running", "success", "pending", "unknown"]) == []

    assert await everything(backend) == before
    assert [await backend.notes(task.id) for task in before] == [[], [], []]


async def test_those_that_can_be_requeued_are(backend: Backend) -> None:
    await failed(backend, "failed")
    await backend.complete([Succeeded(await running(backend, new_task("success")), b"")])
    await backend.enqueue([new_task("cancelled"), new_task("pending")])
    await backend.cancel(["cancelled"])

    again = await backend.requeue({"failed", "success", "cancelled", "pending", "unknown"})

    assert sorted(again) == ["cancelled", "failed"]


async def test_no_ids(backend: Backend) -> None:
    await failed(backend, "a")

    assert await backend.requeue([]) == []

    assert (await record(backend, "a")).status is Status.FAILED


async def test_an_id_twice(backend: Backend) -> None:
    await failed(backend, "a")

    assert await backend.requeue(["a", "a"]) == ["a"]
    assert len(await backend.notes("a")) == 1
    assert await backend.requeue(["a"]) == []


async def test_many_at_once(backend: Backend) -> None:
    tasks = new_tasks(2_000)
    await backend.enqueue(tasks)
    reserved = (await backend.reserve("w1", None, 1_000, LEASE)).tasks
    await backend.complete([Failed(task.held, b"") for task in reserved])

    assert len(await backend.requeue([task.id for task in tasks])) == 1_000

    assert len(await reserved_ids(backend, limit=5_000)) == 2_000


# -- Fences ----------------------------------------------------------------------------------------


async def test_the_holder_of_the_run_before_is_stale(backend: Backend) -> None:
    old = await failed(backend, "a")
    await backend.requeue(["a"])

    assert await backend.complete([Failed(old, b"error"), Succeeded(old, b"")]) == Completed(0, (old, old))
    assert (await record(backend, "a")).status is Status.PENDING

    new = (await reserve_one(backend, "w2")).held
    assert new.fence > old.fence
    assert await backend.complete([Succeeded(old, b"old")]) == Completed(0, (old,))
    assert (await backend.heartbeat("w1", [old, new], LEASE)).lost == {old}
    assert await backend.complete([Succeeded(new, b"new")]) == Completed(1)
    assert (await record(backend, "a")).result == b"new"


# -- What it went through --------------------------------------------------------------------------


@each_end
async def test_a_note_holds_the_error_so_far(
    backend: Backend, clock: FakeClock, end: Callable[[Held], Outcome]
) -> None:
    await running(backend, new_task("a"))
    clock.advance(LEASE)
    await backend.complete([end((await reserve_one(backend)).held)])
    clock.advance(HOUR)

    await backend.requeue(["a"])

    [note] = await backend.notes("a")
    assert note == Note(note.position, NoteKind.REQUEUED, attempt=2, at=clock.now(), data=b"error")
    assert (await record(backend, "a")).error is None


async def test_a_run_without_an_error_leaves_an_empty_note(backend: Backend) -> None:
    await backend.enqueue([new_task("a")])
    await backend.cancel(["a"])

    await backend.requeue(["a"])

    [note] = await backend.notes("a")
    assert (note.kind, note.attempt, note.data) == (NoteKind.REQUEUED, 0, b"")


async def test_each_run_leaves_its_own_error(backend: Backend) -> None:
    await failed(backend, "a")
    await backend.requeue(["a"])
    await backend.cancel(["a"])
    await backend.requeue(["a"])
    await backend.complete([Failed((await reserve_one(backend)).held, b"another")])
    await backend.requeue(["a"])

    assert [note.data for note in await backend.notes("a")] == [b"error", b"", b"another"]


async def test_the_newest_runs_are_kept(backend: Backend) -> None:
    kept = NOTES_KEPT[NoteKind.REQUEUED]
    await backend.enqueue([new_task("a")])
    for number in range(kept + 3):
        await backend.complete([Failed((await reserve_one(backend)).held, b"%d" % number)])
        await backend.requeue(["a"])

    found = [note.data for note in await backend.notes("a")]

    assert found == [b"%d" % number for number in range(3, kept + 3)]


async def test_the_notes_of_the_run_before_stay(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    await backend.complete([Retried(held, clock.now(), b"first")])
    await backend.complete([Failed((await reserve_one(backend)).held, b"second")])
    await backend.requeue(["a"])
    await backend.complete([Retried((await reserve_one(backend)).held, clock.now(), b"third")])

    assert [(note.kind, note.attempt, note.data) for note in await backend.notes("a")] == [
        (NoteKind.ATTEMPT, 1, b"first"),
        (NoteKind.REQUEUED, 2, b"second"),
        (NoteKind.ATTEMPT, 1, b"third"),
    ]


# -- Unique keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [Until.START, Until.END], ids=str)
async def test_a_free_key_is_taken_again(backend: Backend, until: Until) -> None:
    await failed(backend, "a", unique=Unique("key", until))

    assert await backend.requeue(["a"]) == ["a"]

    assert await backend.enqueue([new_task("b", unique=Unique("key"))]) == [Enqueued("a", created=False)]


async def test_a_key_until_start_is_free_again_after_the_new_start(backend: Backend) -> None:
    await failed(backend, "a", unique=Unique("key", Until.START))
    await backend.requeue(["a"])

    await reserve_one(backend)

    assert await backend.enqueue([new_task("b", unique=Unique("key"))]) == [Enqueued("b", created=True)]


@pytest.mark.parametrize("until", [Until.START, Until.END], ids=str)
async def test_a_key_that_another_holds_keeps_it_as_it_is(backend: Backend, until: Until) -> None:
    await failed(backend, "a", unique=Unique("key", until))
    await backend.enqueue([new_task("b", unique=Unique("key")), new_task("c")])
    await backend.cancel(["c"])
    before = await record(backend, "a")

    assert await backend.requeue(["a", "c"]) == ["c"]

    assert await record(backend, "a") == before
    assert await backend.notes("a") == []
    await backend.cancel(["b"])
    assert await backend.requeue(["a"]) == ["a"]


async def test_of_two_with_one_key_one_is_requeued(backend: Backend) -> None:
    await failed(backend, "a", unique=Unique("key"))
    await failed(backend, "b", unique=Unique("key"))

    [first] = await backend.requeue(["a", "b"])

    [other] = {"a", "b"} - {first}
    assert await backend.requeue([other]) == []
    await backend.cancel([first])
    assert await backend.requeue([other]) == [other]


async def test_a_key_until_an_instant_is_still_its_own(backend: Backend, clock: FakeClock) -> None:
    until = clock.now() + HOUR
    await failed(backend, "a", unique=Unique("key", until))

    assert await backend.requeue(["a"]) == ["a"]

    assert await backend.enqueue([new_task("b", unique=Unique("key"))]) == [Enqueued("a", created=False)]
    clock.advance(HOUR)
    assert await backend.enqueue([new_task("b", unique=Unique("key"))]) == [Enqueued("b", created=True)]


async def test_after_the_instant_it_needs_no_key(backend: Backend, clock: FakeClock) -> None:
    await failed(backend, "a", unique=Unique("key", clock.now() + HOUR), result_ttl=timedelta(days=1))
    clock.advance(HOUR)

    assert await backend.requeue(["a"]) == ["a"]

    assert await backend.enqueue([new_task("b", unique=Unique("key"))]) == [Enqueued("b", created=True)]


async def test_after_the_instant_another_holder_still_keeps_it_as_it_is(
    backend: Backend, clock: FakeClock
) -> None:
    await failed(backend, "a", unique=Unique("key", clock.now() + HOUR), result_ttl=timedelta(days=1))
    clock.advance(HOUR)
    await backend.enqueue([new_task("b", unique=Unique("key"))])

    assert await backend.requeue(["a"]) == []


async def test_a_requeued_holder_is_not_replaced(backend: Backend) -> None:
    await failed(backend, "a", unique=Unique("key"))
    await backend.requeue(["a"])
    before = await record(backend, "a")

    answer = await backend.enqueue([new_task("b", unique=Unique("key", replace=True))])

    assert answer == [Enqueued("a", created=False)]
    assert await record(backend, "a") == before
