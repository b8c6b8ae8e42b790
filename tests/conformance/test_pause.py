"""set_paused: a queue that rests hands out nothing, takes what comes, and goes on where it stopped."""

import asyncio

import pytest

from sitq.backends.base import Backend
from sitq.model import QueueTopic, Released, Retried, Status, Succeeded, Topic
from tests.support import (
    HOUR,
    LEASE,
    PATIENCE,
    FakeClock,
    bounded,
    finish,
    new_task,
    record,
    reserve_one,
    reserved_ids,
    running,
)


async def paused(backend: Backend) -> list[str]:
    return [queue.queue for queue in (await backend.stats()).queues if queue.paused]


async def test_a_paused_queue_is_passed_over(backend: Backend) -> None:
    await backend.enqueue([new_task("1", queue="a"), new_task("2", queue="b"), new_task("3", queue="a")])

    await backend.set_paused("a", True)

    assert await reserved_ids(backend, queues=["a"]) == []
    assert await reserved_ids(backend, queues=["a", "b"]) == ["2"]
    assert await reserved_ids(backend) == []


async def test_it_goes_on_where_it_stopped(backend: Backend) -> None:
    await backend.enqueue([new_task("1", queue="a"), new_task("2", queue="a", priority=-1)])
    await backend.set_paused("a", True)
    await backend.enqueue([new_task("3", queue="a")])
    assert await reserved_ids(backend) == []

    await backend.set_paused("a", False)

    assert await reserved_ids(backend) == ["2", "1", "3"]


async def test_a_queue_may_be_paused_before_it_has_tasks(backend: Backend) -> None:
    await backend.set_paused("a", True)

    await backend.enqueue([new_task("1", queue="a")])

    assert await reserved_ids(backend) == []
    assert (await record(backend, "1")).status is Status.PENDING


async def test_every_client_passes_it_over(clients: list[Backend]) -> None:
    await clients[0].enqueue([new_task("1", queue="a")])
    await clients[1].set_paused("a", True)

    for client in clients:
        assert await reserved_ids(client) == []
        assert await paused(client) == ["a"]

    await clients[2].set_paused("a", False)
    assert await reserved_ids(clients[3]) == ["1"]


async def test_ids_do_not_reach_into_it(backend: Backend) -> None:
    await backend.enqueue([new_task("1", queue="a"), new_task("2", queue="b")])
    await backend.set_paused("a", True)

    assert await reserved_ids(backend, ids=["1", "2"]) == ["2"]


async def test_twice_is_once(backend: Backend) -> None:
    await backend.enqueue([new_task("1", queue="a")])

    await backend.set_paused("a", True)
    await backend.set_paused("a", True)
    assert await paused(backend) == ["a"]

    await backend.set_paused("a", False)
    await backend.set_paused("a", False)
    assert await paused(backend) == []
    assert await reserved_ids(backend) == ["1"]


async def test_going_on_without_a_pause_changes_nothing(backend: Backend) -> None:
    await backend.set_paused("a", False)

    assert (await backend.stats()).queues == ()


@pytest.mark.parametrize("queue", ["größe 大きさ \N{SNOWMAN}", "a'b\"c;--", "a\nb", " ", "x" * 1000])
async def test_a_queue_is_any_text(backend: Backend, queue: str) -> None:
    await backend.enqueue([new_task("1", queue=queue), new_task("2", queue=queue + ".")])

    await backend.set_paused(queue, True)

    assert await reserved_ids(backend) == ["2"]
    assert await paused(backend) == [queue]


# -- What runs -------------------------------------------------------------------------------------


async def test_what_runs_goes_on(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    await backend.set_paused("default", True)
    clock.advance(LEASE / 2)

    assert (await backend.heartbeat("w1", [held], LEASE)).lost == frozenset()
    assert (await backend.complete([Succeeded(held, b"result")])).accepted == 1


async def test_what_comes_back_rests(backend: Backend, clock: FakeClock) -> None:
    first, second = await running(backend, new_task("1")), await running(backend, new_task("2"))
    await backend.set_paused("default", True)
    await backend.complete([Released(first), Retried(second, clock.now(), b"error")])
    assert await reserved_ids(backend) == []

    await backend.set_paused("default", False)
    assert await reserved_ids(backend) == ["1", "2"]


async def test_a_lost_lease_rests_too(backend: Backend, clock: FakeClock) -> None:
    await running(backend, new_task("1"))
    await backend.set_paused("default", True)
    clock.advance(LEASE)
    assert await reserved_ids(backend) == []

    await backend.set_paused("default", False)
    assert (await reserve_one(backend)).crashes == 1


async def test_what_rests_can_be_cancelled_and_requeued(backend: Backend) -> None:
    await backend.enqueue([new_task("1")])
    await backend.set_paused("default", True)

    assert await backend.cancel(["1"]) == {"1": Status.CANCELLED}
    assert await backend.requeue(["1"]) == ["1"]
    assert await reserved_ids(backend) == []


async def test_what_rests_takes_no_place_of_its_key(backend: Backend) -> None:
    await backend.enqueue([bounded("1", queue="a", priority=-9), bounded("2", queue="b")])
    await backend.set_paused("a", True)

    assert await reserved_ids(backend) == ["2"]
    await finish(backend, "2")
    await backend.set_paused("a", False)
    assert await reserved_ids(backend) == ["1"]


async def test_what_runs_in_a_paused_queue_keeps_its_place(backend: Backend) -> None:
    await running(backend, bounded("1", queue="a"))
    await backend.set_paused("a", True)
    await backend.enqueue([bounded("2", queue="b")])

    assert await reserved_ids(backend) == []
    await finish(backend, "1")
    assert await reserved_ids(backend) == ["2"]


# -- When to look again ----------------------------------------------------------------------------


async def test_next_due_at_passes_it_over(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue(
        [
            new_task(queue="a"),
            new_task(queue="a", due_at=clock.now() + LEASE),
            new_task(queue="b", due_at=clock.now() + HOUR),
        ]
    )
    await backend.set_paused("a", True)

    assert await backend.reserve("w1", None, 1, LEASE) == ([], clock.now() + HOUR)
    assert await backend.reserve("w1", ["a"], 1, LEASE) == ([], None)


@pytest.mark.parametrize("topic", [QueueTopic("a"), QueueTopic()], ids=["its queue", "every queue"])
async def test_going_on_rings_it(backend: Backend, topic: Topic) -> None:
    await backend.set_paused("a", True)
    await backend.enqueue([new_task("1", queue="a")])

    async with backend.listen([topic]) as signal:
        assert await reserved_ids(backend) == []
        await backend.set_paused("a", False)

        assert await signal.wait(PATIENCE)
        assert await reserved_ids(backend) == ["1"]


async def test_many_pauses_at_once(clients: list[Backend]) -> None:
    queues = [f"q{number}" for number in range(20)]

    await asyncio.gather(*(client.set_paused(queue, True) for client in clients for queue in queues))

    assert await paused(clients[0]) == sorted(queues)
