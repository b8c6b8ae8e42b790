"""stats: says in numbers what find says in tasks."""

from collections import Counter
from dataclasses import replace

from sitq.backends.base import Backend
from sitq.model import Failed, Held, QueueStats, Retried, Status, Succeeded
from tests.support import HOUR, LEASE, FakeClock, everything, new_task, new_tasks, running


async def counts(backend: Backend) -> dict[str, dict[Status, int]]:
    queues = (await backend.stats()).queues
    assert len({queue.queue for queue in queues}) == len(queues)
    return {
        queue.queue: {status: number for status, number in queue.counts.items() if number} for queue in queues
    }


async def queue_stats(backend: Backend, name: str) -> QueueStats:
    [found] = [queue for queue in (await backend.stats()).queues if queue.queue == name]
    return found


async def test_nothing_is_there(backend: Backend) -> None:
    stats = await backend.stats()

    assert all(not any(queue.counts.values()) for queue in stats.queues)
    assert stats.stale_outcomes == 0


async def test_every_state_of_every_queue(backend: Backend, clock: FakeClock) -> None:
    for queue in ("a", "b"):
        held = [await running(backend, new_task(queue=queue)) for _ in range(4)]
        await backend.complete(
            [Succeeded(held[0], b""), Failed(held[1], b""), Retried(held[2], clock.now(), b"")]
        )
        await backend.enqueue([new_task(f"cancelled in {queue}", queue=queue)])
        await backend.cancel([f"cancelled in {queue}"])
    await backend.enqueue(new_tasks(3, queue="c"))

    expected = {
        Status.SUCCESS: 1,
        Status.FAILED: 1,
        Status.PENDING: 1,
        Status.RUNNING: 1,
        Status.CANCELLED: 1,
    }
    assert await counts(backend) == {"a": expected, "b": expected, "c": {Status.PENDING: 3}}
    assert (await backend.stats()).counts == {
        Status.WAITING: 0,
        Status.PENDING: 5,
        Status.RUNNING: 2,
        Status.SUCCESS: 2,
        Status.FAILED: 2,
        Status.CANCELLED: 2,
    }


async def test_they_agree_with_find(backend: Backend) -> None:
    for queue in ("a", "b", "c"):
        await backend.enqueue(new_tasks(7, queue=queue))
    for task in (await backend.reserve("w1", ["a", "b"], 9, LEASE)).tasks[::2]:
        await backend.complete([Succeeded(task.held, b"")])

    found: dict[str, Counter[Status]] = {}
    for stored in await everything(backend):
        found.setdefault(stored.queue, Counter())[stored.status] += 1

    assert await counts(backend) == found


async def test_the_task_that_has_been_due_longest(backend: Backend, clock: FakeClock) -> None:
    start = clock.now()
    await backend.enqueue([new_task(due_at=start + HOUR), new_task(due_at=start + 2 * HOUR)])
    assert (await queue_stats(backend, "default")).oldest_due_at is None

    clock.advance(3 * HOUR)
    assert (await queue_stats(backend, "default")).oldest_due_at == start + HOUR

    await backend.reserve("w1", None, 1, LEASE)
    assert (await queue_stats(backend, "default")).oldest_due_at == start + 2 * HOUR


async def test_a_lost_lease_is_not_what_has_been_due_longest(backend: Backend, clock: FakeClock) -> None:
    await running(backend)
    clock.advance(HOUR)

    assert (await queue_stats(backend, "default")).oldest_due_at is None


async def test_each_queue_has_its_own_oldest_task(backend: Backend, clock: FakeClock) -> None:
    start = clock.now()
    await backend.enqueue([new_task(queue="a", due_at=start - HOUR), new_task(queue="b")])

    assert (await queue_stats(backend, "a")).oldest_due_at == start - HOUR
    assert (await queue_stats(backend, "b")).oldest_due_at == start


async def test_a_paused_queue_is_there_without_tasks(backend: Backend) -> None:
    await backend.set_paused("resting", True)

    [queue] = (await backend.stats()).queues

    assert (queue.queue, queue.paused, queue.oldest_due_at) == ("resting", True, None)
    assert not any(queue.counts.values())


async def test_a_queue_says_whether_it_is_paused(backend: Backend) -> None:
    await backend.enqueue([new_task(queue="a"), new_task(queue="b")])
    await backend.set_paused("b", True)
    await backend.set_paused("c", True)

    assert {queue.queue: queue.paused for queue in (await backend.stats()).queues} == {
        "a": False,
        "b": True,
        "c": True,
    }
    await backend.set_paused("b", False)
    await backend.set_paused("c", False)
    assert {queue.queue: queue.paused for queue in (await backend.stats()).queues} == {"a": False, "b": False}


async def test_a_paused_queue_counts_as_before(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue(new_tasks(2))
    await running(backend)
    before = await queue_stats(backend, "default")

    await backend.set_paused("default", True)

    assert await queue_stats(backend, "default") == replace(before, paused=True)


async def test_stale_outcomes_add_up(backend: Backend) -> None:
    held = await running(backend)
    await backend.complete(
        [Succeeded(Held(held.id, held.fence + 1), b""), Succeeded(Held("unknown", 1), b"")]
    )
    await backend.complete([Succeeded(held, b"")])
    await backend.complete([Failed(held, b"")])

    assert (await backend.stats()).stale_outcomes == 3
