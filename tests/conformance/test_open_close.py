"""open and close: idempotent, and nothing is forgotten in between."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sitq.backends.base import Backend
from sitq.errors import BackendConnectionError
from sitq.model import Held, QueueTopic, Retried, Succeeded, TaskQuery
from tests.conformance.conftest import CLIENTS, Store, only
from tests.support import LEASE, FakeClock, everything, new_task, new_tasks, record, reserve_one, running


async def listen(backend: Backend) -> None:
    async with backend.listen([QueueTopic()]):
        pass


CALLS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "enqueue": lambda backend: backend.enqueue([new_task()]),
    "reserve": lambda backend: backend.reserve("w1", None, 1, LEASE),
    "heartbeat": lambda backend: backend.heartbeat("w1", [Held("a", 1)], LEASE),
    "complete": lambda backend: backend.complete([Succeeded(Held("a", 1), b"")]),
    "cancel": lambda backend: backend.cancel(["a"]),
    "find": lambda backend: backend.find(TaskQuery()),
    "listen": listen,
    "prune": lambda backend: backend.prune(1),
    "stats": lambda backend: backend.stats(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_backend_that_was_never_opened_says_so(
    call: Callable[[Backend], Awaitable[object]], store: Store, tmp_path: Path, clock: FakeClock
) -> None:
    backend = store.make(tmp_path, clock)

    with pytest.raises(BackendConnectionError, match="is not open"):
        await call(backend)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_closed_backend_says_so(
    call: Callable[[Backend], Awaitable[object]], backend: Backend
) -> None:
    await backend.close()

    with pytest.raises(BackendConnectionError, match="is not open"):
        await call(backend)


async def test_opening_twice_is_opening_once(backend: Backend) -> None:
    await backend.enqueue([new_task("a")])

    await backend.open()
    await asyncio.gather(backend.open(), backend.open())

    assert (await record(backend, "a")).id == "a"


async def test_closing_twice_is_closing_once(backend: Backend) -> None:
    await backend.close()
    await backend.close()

    with pytest.raises(BackendConnectionError, match="not open"):
        await backend.stats()


async def test_closing_what_was_never_opened_is_nothing(
    store: Store, tmp_path: Path, clock: FakeClock
) -> None:
    backend = store.make(tmp_path, clock)

    await backend.close()

    await backend.open()
    assert (await backend.stats()).queues == ()
    await backend.close()


async def test_close_finishes_what_was_handed_over(store: Store, tmp_path: Path, clock: FakeClock) -> None:
    backend = store.make(tmp_path, clock)
    await backend.open()
    calls = [asyncio.ensure_future(backend.enqueue([task])) for task in new_tasks(20)]
    await asyncio.sleep(0)

    await backend.close()

    answers = await asyncio.gather(*calls)
    assert all(created for [(_, created)] in answers)


@only(survives_close=True)
async def test_the_same_object_opened_again_sees_everything(backend: Backend) -> None:
    await backend.enqueue(new_tasks(3))
    await reserve_two_and_finish_one(backend)
    before = await everything(backend), await backend.stats()

    await backend.close()
    await backend.open()

    assert (await everything(backend), await backend.stats()) == before


@only(shared=True)
async def test_a_new_object_on_the_same_store_sees_everything(
    backend: Backend, store: Store, tmp_path: Path, clock: FakeClock
) -> None:
    await backend.enqueue(new_tasks(3))
    await reserve_two_and_finish_one(backend)
    before = await everything(backend), await backend.stats()
    await backend.close()

    again = store.make(tmp_path, clock)
    await again.open()

    assert (await everything(again), await again.stats()) == before
    await again.close()


@only(survives_close=True)
async def test_fences_go_on_after_a_reopening(backend: Backend, clock: FakeClock) -> None:
    first = await running(backend)
    await backend.complete([Retried(first, clock.now(), b"")])

    await backend.close()
    await backend.open()

    assert (await reserve_one(backend)).fence > first.fence


@only(survives_close=True)
async def test_stale_outcomes_stay_counted_after_a_reopening(backend: Backend) -> None:
    await backend.complete([Succeeded(Held("nobody", 1), b"")])

    await backend.close()
    await backend.open()

    assert (await backend.stats()).stale_outcomes == 1


@only(shared=True)
async def test_what_one_client_did_the_others_see(clients: list[Backend]) -> None:
    for client in clients:
        await client.enqueue([new_task()])

    seen = [await everything(client) for client in clients]

    assert len(seen[0]) == CLIENTS
    assert all(tasks == seen[0] for tasks in seen)


@only(shared=True)
async def test_many_clients_open_a_new_store_at_once(store: Store, tmp_path: Path, clock: FakeClock) -> None:
    clients = [store.make(tmp_path, clock) for _ in range(8)]

    await asyncio.gather(*(client.open() for client in clients))

    for client in clients:
        await client.enqueue([new_task()])
    assert len(await everything(clients[0])) == 8
    for client in clients:
        await client.close()


async def reserve_two_and_finish_one(backend: Backend) -> None:
    first, _ = (await backend.reserve("w1", None, 2, LEASE)).tasks
    await backend.complete([Succeeded(first.held, b"result"), Succeeded(Held("nobody", 1), b"")])
