"""max_pending: a queue that is full takes nothing, and a batch goes in whole or not at all."""

import asyncio

import pytest

from sitq.backends.base import Backend
from sitq.errors import QueueFullError
from sitq.model import Enqueued, Failed, NewTask, Retried, Unique
from tests.support import HOUR, FakeClock, everything, new_task, new_tasks, record, reserved_ids, running

LIMIT = {"default": 3}


async def is_full(backend: Backend) -> bool:
    """Whether one more task finds no room."""
    try:
        await backend.enqueue([new_task()], max_pending=LIMIT)
    except QueueFullError:
        return True
    return False


async def test_up_to_the_limit(backend: Backend) -> None:
    assert len(await backend.enqueue(new_tasks(2), max_pending=LIMIT)) == 2
    assert len(await backend.enqueue(new_tasks(1), max_pending=LIMIT)) == 1

    with pytest.raises(QueueFullError):
        await backend.enqueue(new_tasks(1), max_pending=LIMIT)

    assert len(await everything(backend)) == 3


async def test_the_error_says_which_queue_and_how_many(backend: Backend) -> None:
    with pytest.raises(QueueFullError, match="'images' is full: max_pending allows 1,000") as caught:
        await backend.enqueue(new_tasks(1_001, queue="images"), max_pending={"default": 1, "images": 1_000})

    assert (caught.value.queue, caught.value.limit) == ("images", 1_000)


async def test_all_or_none(backend: Backend) -> None:
    await backend.enqueue(new_tasks(2))
    before = await everything(backend)
    batch = [new_task("a", queue="other"), new_task("b"), new_task("c")]

    with pytest.raises(QueueFullError):
        await backend.enqueue(batch, max_pending=LIMIT)

    assert await everything(backend) == before
    assert len(await backend.enqueue(batch[:2], max_pending=LIMIT)) == 2


async def test_a_batch_that_is_refused_takes_no_key(backend: Backend) -> None:
    with pytest.raises(QueueFullError):
        await backend.enqueue([new_task("a", unique=Unique("key")), *new_tasks(3)], max_pending=LIMIT)

    assert await backend.enqueue([new_task("b", unique=Unique("key"))]) == [Enqueued("b", created=True)]


async def test_a_batch_that_is_refused_replaces_nothing(backend: Backend) -> None:
    await backend.enqueue([new_task("a", unique=Unique("key"))])
    before = await record(backend, "a")
    push = new_task("b", unique=Unique("key", replace=True), payload=b"new")

    with pytest.raises(QueueFullError):
        await backend.enqueue([push, *new_tasks(3)], max_pending=LIMIT)

    assert await record(backend, "a") == before


async def test_zero_takes_nothing(backend: Backend) -> None:
    with pytest.raises(QueueFullError):
        await backend.enqueue([new_task()], max_pending={"default": 0})


async def test_other_queues_and_other_callers_are_not_bounded(backend: Backend) -> None:
    await backend.enqueue(new_tasks(3), max_pending=LIMIT)

    await backend.enqueue(new_tasks(10, queue="other"), max_pending=LIMIT)
    await backend.enqueue(new_tasks(10), max_pending={})
    await backend.enqueue(new_tasks(10), max_pending=None)

    assert len(await everything(backend)) == 33


async def test_each_queue_has_its_own_limit(backend: Backend) -> None:
    limits = {"a": 1, "b": 2}
    await backend.enqueue([new_task(queue="a"), new_task(queue="b"), new_task(queue="b")], max_pending=limits)

    for queue, limit in limits.items():
        with pytest.raises(QueueFullError) as caught:
            await backend.enqueue([new_task(queue=queue)], max_pending=limits)
        assert (caught.value.queue, caught.value.limit) == (queue, limit)


async def test_more_than_the_limit_of_today_may_be_there(backend: Backend) -> None:
    await backend.enqueue(new_tasks(10))

    await backend.enqueue([], max_pending=LIMIT)
    await backend.enqueue([new_task(queue="other")], max_pending=LIMIT)
    assert await is_full(backend)


# -- What counts -----------------------------------------------------------------------------------


async def test_what_runs_or_is_over_does_not_count(backend: Backend) -> None:
    await running(backend)
    await backend.complete([Failed(await running(backend), b"")])
    await backend.enqueue([new_task("a")])
    await backend.cancel(["a"])

    await backend.enqueue(new_tasks(3), max_pending=LIMIT)

    assert await is_full(backend)
    assert len(await reserved_ids(backend, limit=1)) == 1
    assert not await is_full(backend)
    assert await is_full(backend)


async def test_what_is_due_later_counts(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue(new_tasks(3, due_at=clock.now() + HOUR), max_pending=LIMIT)

    assert await is_full(backend)


async def test_what_comes_back_counts_and_is_never_refused(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    given_up = await running(backend)
    await backend.complete([Failed(given_up, b"")])
    await backend.enqueue(new_tasks(3), max_pending=LIMIT)

    await backend.complete([Retried(held, clock.now(), b"error")])
    assert await backend.requeue([given_up.id]) == [given_up.id]

    assert await is_full(backend)
    assert len(await reserved_ids(backend, limit=2)) == 2
    assert await is_full(backend)
    assert len(await reserved_ids(backend, limit=1)) == 1
    assert not await is_full(backend)


async def test_what_is_not_created_does_not_count(backend: Backend) -> None:
    unique = Unique("key")
    full = [new_task("a", unique=unique), new_task("b"), new_task("c")]
    await backend.enqueue(full, max_pending=LIMIT)

    again = await backend.enqueue([*full, new_task("d", unique=unique)], max_pending=LIMIT)

    assert again == [Enqueued(task_id, created=False) for task_id in ("a", "b", "c", "a")]


@pytest.mark.parametrize("spare", [0, 1])
async def test_one_id_or_key_twice_in_a_batch_counts_once(backend: Backend, spare: int) -> None:
    await backend.enqueue(new_tasks(2 - spare))
    batch: list[NewTask] = [
        new_task("a", unique=Unique("key")),
        new_task("a"),
        new_task("b", unique=Unique("key")),
        *new_tasks(spare),
    ]

    answers = await backend.enqueue(batch, max_pending=LIMIT)

    assert sum(answer.created for answer in answers) == 1 + spare
    assert await is_full(backend)


async def test_a_push_of_a_holder_needs_no_room(backend: Backend) -> None:
    await backend.enqueue([new_task("a", unique=Unique("key")), *new_tasks(2)])

    await backend.enqueue(
        [new_task("b", unique=Unique("key", replace=True), payload=b"new")], max_pending=LIMIT
    )

    assert (await record(backend, "a")).payload == b"new"


async def test_clients_at_once_never_put_in_too_many(clients: list[Backend]) -> None:
    async def fill(client: Backend) -> int:
        stored = 0
        for _ in range(5):
            try:
                await client.enqueue(new_tasks(2), max_pending={"default": 25})
            except QueueFullError:
                break
            stored += 2
        return stored

    stored = sum(await asyncio.gather(*map(fill, clients)))

    assert stored == len(await everything(clients[0])) == 24
