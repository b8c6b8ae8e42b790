"""listen: whoever subscribes, looks and then waits misses nothing.

Rings without a reason are allowed, so no test here asks for silence.
"""

import asyncio
import threading
from collections.abc import Callable

import pytest

from sitq.backends.base import Backend
from sitq.model import (
    Cancelled,
    CancelTopic,
    Failed,
    Held,
    NewNote,
    NewTask,
    NoteKind,
    Outcome,
    QueueTopic,
    Released,
    Retried,
    Status,
    Succeeded,
    TaskTopic,
    Topic,
    Unique,
)
from tests.support import HOUR, PATIENCE, FakeClock, new_task, record, reserve_one, reserved_ids, running


@pytest.mark.parametrize("topic", [QueueTopic("images"), QueueTopic(None)], ids=["its queue", "every queue"])
async def test_new_work_rings_its_queue(backend: Backend, topic: Topic) -> None:
    async with backend.listen([topic]) as signal:
        await backend.enqueue([new_task(queue="images")])

        assert await signal.wait(PATIENCE)


async def test_work_for_later_rings_too_since_it_moves_the_next_due_time(
    backend: Backend, clock: FakeClock
) -> None:
    async with backend.listen([QueueTopic("default")]) as signal:
        await backend.enqueue([NewTask("a", "work", b"", due_at=clock.now().replace(year=2030))])

        assert await signal.wait(PATIENCE)


@pytest.mark.parametrize(
    "make",
    [lambda held, clock: Released(held), lambda held, clock: Retried(held, clock.now(), b"")],
    ids=["released", "retried"],
)
async def test_work_that_comes_back_rings_its_queue(
    backend: Backend, clock: FakeClock, make: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend, new_task(queue="images"))

    async with backend.listen([QueueTopic("images")]) as signal:
        await backend.complete([make(held, clock)])

        assert await signal.wait(PATIENCE)


@pytest.mark.parametrize(
    "make",
    [
        lambda held: Succeeded(held, b""),
        lambda held: Failed(held, b""),
        lambda held: Cancelled(held),
    ],
    ids=["succeeded", "failed", "cancelled"],
)
async def test_the_end_of_a_task_rings_it(backend: Backend, make: Callable[[Held], Outcome]) -> None:
    held = await running(backend)

    async with backend.listen([TaskTopic(held.id)]) as signal:
        await backend.complete([make(held)])

        assert await signal.wait(PATIENCE)


async def test_cancelling_a_pending_task_rings_it(backend: Backend) -> None:
    await backend.enqueue([new_task("a")])

    async with backend.listen([TaskTopic("a")]) as signal:
        await backend.cancel(["a"])

        assert await signal.wait(PATIENCE)


async def test_the_end_of_a_task_that_was_asked_to_cancel_and_is_released_rings_it(backend: Backend) -> None:
    held = await running(backend)
    await backend.cancel([held.id])

    async with backend.listen([TaskTopic(held.id)]) as signal:
        await backend.complete([Released(held)])

        assert await signal.wait(PATIENCE)


async def test_asking_a_running_task_to_cancel_rings(backend: Backend) -> None:
    held = await running(backend)

    async with backend.listen([CancelTopic()]) as signal:
        await backend.cancel([held.id])

        assert await signal.wait(PATIENCE)
        assert (await backend.heartbeat("w1", [held], HOUR)).cancelled == {held}


async def test_one_running_task_among_many_that_are_cancelled_rings(backend: Backend) -> None:
    held = await running(backend)
    await backend.enqueue([new_task("a"), new_task("b")])

    async with backend.listen([CancelTopic()]) as signal:
        await backend.cancel(["a", held.id, "b", "unknown"])

        assert await signal.wait(PATIENCE)


@pytest.mark.parametrize("kind", [NoteKind.PROGRESS, NoteKind.LOG, NoteKind.VALUE], ids=str)
async def test_a_note_rings_its_task(backend: Backend, kind: NoteKind) -> None:
    held = await running(backend)

    async with backend.listen([TaskTopic(held.id)]) as signal:
        await backend.heartbeat("w1", [held], HOUR, notes=[NewNote(held, kind, b"1")])
        assert await signal.wait(PATIENCE)
        assert len(await backend.notes(held.id)) == 1

        await backend.complete([], notes=[NewNote(held, kind, b"2")])
        assert await signal.wait(PATIENCE)
        assert (await backend.notes(held.id))[-1].data == b"2"


async def test_the_note_of_a_retry_rings_its_task(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)

    async with backend.listen([TaskTopic(held.id)]) as signal:
        await backend.complete([Retried(held, clock.now(), b"error")])

        assert await signal.wait(PATIENCE)


async def test_a_requeue_rings_its_task_since_it_leaves_a_note(backend: Backend) -> None:
    held = await running(backend)
    await backend.complete([Failed(held, b"error")])

    async with backend.listen([TaskTopic(held.id)]) as signal:
        await backend.requeue([held.id])

        assert await signal.wait(PATIENCE)


async def test_a_holder_that_is_replaced_rings_its_queue_since_it_may_be_due_earlier(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([new_task("a", queue="images", unique=Unique("key"), due_at=clock.now() + HOUR)])

    async with backend.listen([QueueTopic("images")]) as signal:
        assert await reserved_ids(backend) == []
        await backend.enqueue([new_task("b", queue="other", unique=Unique("key", replace=True))])

        assert await signal.wait(PATIENCE)
        assert await reserved_ids(backend) == ["a"]


async def test_one_listener_to_several_topics(backend: Backend) -> None:
    held = await running(backend)

    async with backend.listen([QueueTopic("a"), QueueTopic("b"), TaskTopic(held.id)]) as signal:
        await backend.enqueue([new_task(queue="b")])
        assert await signal.wait(PATIENCE)
        await backend.complete([Succeeded(held, b"")])
        assert await signal.wait(PATIENCE)


async def test_every_listener_is_rung(backend: Backend) -> None:
    async with (
        backend.listen([QueueTopic("a")]) as first,
        backend.listen([QueueTopic("a")]) as second,
        backend.listen([QueueTopic()]) as third,
    ):
        await backend.enqueue([new_task(queue="a")])

        assert (
            await asyncio.gather(*(signal.wait(PATIENCE) for signal in (first, second, third))) == [True] * 3
        )


async def test_a_listener_that_left_does_not_take_the_others_along(backend: Backend) -> None:
    async with backend.listen([QueueTopic("a")]) as stays:
        async with backend.listen([QueueTopic("a")]):
            pass
        await backend.enqueue([new_task(queue="a")])

        assert await stays.wait(PATIENCE)


async def test_a_topic_named_twice(backend: Backend) -> None:
    async with backend.listen([QueueTopic("a"), QueueTopic("a")]) as signal:
        await backend.enqueue([new_task(queue="a")])

        assert await signal.wait(PATIENCE)


# -- Subscribe, look, wait -------------------------------------------------------------------------


async def test_a_ring_between_the_look_and_the_wait_is_kept(backend: Backend) -> None:
    async with backend.listen([QueueTopic()]) as signal:
        assert await reserved_ids(backend) == []
        await backend.enqueue([new_task("a")])
        assert await signal.wait(PATIENCE)
        assert await reserved_ids(backend) == ["a"]


async def test_what_is_there_when_it_rings_is_seen(backend: Backend) -> None:
    """A hundred times over: once the ring is heard, the work that it stands for is found."""
    async with backend.listen([QueueTopic()]) as signal:
        found: set[str] = set()

        async def take_all() -> None:
            while len(found) < 100:
                assert await signal.wait(PATIENCE)
                found.update(await reserved_ids(backend))

        async with asyncio.TaskGroup() as group:
            group.create_task(take_all())
            for _ in range(100):
                await backend.enqueue([new_task()])
    assert len(found) == 100


async def test_a_ring_without_a_reason_costs_one_look(backend: Backend) -> None:
    held = await running(backend)

    async with backend.listen([TaskTopic(held.id)]) as signal:
        signal.ring()
        signal.ring()
        assert await signal.wait(PATIENCE)
        assert (await record(backend, held.id)).status is Status.RUNNING

        await backend.complete([Succeeded(held, b"")])
        assert await signal.wait(PATIENCE)
        assert (await record(backend, held.id)).status is Status.SUCCESS


async def test_a_result_is_awaited_without_polling(backend: Backend) -> None:
    await backend.enqueue([new_task("a")])

    async def result() -> bytes | None:
        async with backend.listen([TaskTopic("a")]) as signal:
            while (task := await record(backend, "a")).status is not Status.SUCCESS:
                assert await signal.wait(PATIENCE)
            return task.result

    waiter = asyncio.ensure_future(result())
    await backend.complete([Succeeded((await reserve_one(backend)).held, b"result")])

    assert await waiter == b"result"


async def test_without_a_ring_the_wait_ends_at_its_timeout(backend: Backend) -> None:
    async with backend.listen([TaskTopic("nobody")]) as signal:
        assert not await signal.wait(0)


# -- Close, and other threads ----------------------------------------------------------------------


@pytest.mark.parametrize("topic", [QueueTopic("a"), QueueTopic(), TaskTopic("a"), CancelTopic()], ids=str)
async def test_close_wakes_listeners(backend: Backend, topic: Topic) -> None:
    async with backend.listen([topic]) as signal:
        waiter = asyncio.ensure_future(signal.wait(PATIENCE))
        await asyncio.sleep(0)

        await backend.close()

        assert await waiter


async def test_a_listener_on_another_thread_hears_it(backend: Backend) -> None:
    subscribed = threading.Event()

    async def wait_for_ring() -> bool:
        async with backend.listen([QueueTopic("a")]) as signal:
            subscribed.set()
            return await signal.wait(PATIENCE)

    listener = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(wait_for_ring())))
    await asyncio.to_thread(subscribed.wait, PATIENCE)
    await backend.enqueue([new_task(queue="a")])

    assert await listener


async def test_a_listener_on_another_thread_hears_a_cancel(backend: Backend) -> None:
    held = await running(backend)
    subscribed = threading.Event()

    async def wait_for_ring() -> bool:
        async with backend.listen([CancelTopic()]) as signal:
            subscribed.set()
            return await signal.wait(PATIENCE)

    listener = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(wait_for_ring())))
    await asyncio.to_thread(subscribed.wait, PATIENCE)
    await backend.cancel([held.id])

    assert await listener


async def test_a_listener_whose_loop_is_gone_hurts_nobody(backend: Backend) -> None:
    abandoned = backend.listen([QueueTopic("a")])

    def subscribe_and_leave() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(abandoned.__aenter__())
        loop.close()

    await asyncio.to_thread(subscribe_and_leave)
    async with backend.listen([QueueTopic("a")]) as signal:
        await backend.enqueue([new_task(queue="a")])

        assert await signal.wait(PATIENCE)


async def test_many_listeners_come_and_go_while_work_arrives(backend: Backend) -> None:
    async def come_and_go(queue: str) -> None:
        for _ in range(20):
            async with backend.listen([QueueTopic(queue), TaskTopic(queue)]) as signal:
                await backend.enqueue([new_task(queue=queue)])
                assert await signal.wait(PATIENCE)

    await asyncio.gather(*(come_and_go(f"queue-{number % 3}") for number in range(9)))
