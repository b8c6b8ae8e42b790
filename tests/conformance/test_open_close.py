"""open and close: idempotent, and nothing is forgotten in between."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from sitq.backends.base import Backend
from sitq.errors import BackendConnectionError
from sitq.model import (
    Concurrency,
    Enqueued,
    Held,
    NewNote,
    NoteKind,
    QueueTopic,
    Rate,
    Retried,
    Succeeded,
    TaskQuery,
    Unique,
    Until,
    WorkerInfo,
)
from tests.conformance.conftest import CLIENTS, only
from tests.stores import Store
from tests.support import (
    HOUR,
    LEASE,
    FakeClock,
    everything,
    finish,
    new_task,
    new_tasks,
    record,
    reserve_one,
    reserved_ids,
    running,
)


async def listen(backend: Backend) -> None:
    async with backend.listen([QueueTopic()]):
        pass


CALLS: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "enqueue": lambda backend: backend.enqueue([new_task()]),
    "reserve": lambda backend: backend.reserve("w1", None, 1, LEASE),
    "heartbeat": lambda backend: backend.heartbeat("w1", [Held("a", 1)], LEASE),
    "complete": lambda backend: backend.complete([Succeeded(Held("a", 1), b"")]),
    "cancel": lambda backend: backend.cancel(["a"]),
    "requeue": lambda backend: backend.requeue(["a"]),
    "find": lambda backend: backend.find(TaskQuery()),
    "notes": lambda backend: backend.notes("a"),
    "listen": listen,
    "prune": lambda backend: backend.prune(1),
    "set_paused": lambda backend: backend.set_paused("a", True),
    "stats": lambda backend: backend.stats(),
    "workers": lambda backend: backend.workers(),
    "save": lambda backend: backend.save({"a": b""}),
    "load": lambda backend: backend.load(""),
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


async def fill(backend: Backend, clock: FakeClock) -> None:
    """Something of everything that a storage keeps besides tasks."""
    rate, concurrency = Rate("key", 1, HOUR), Concurrency("key", 1)
    held = await running(backend, new_task("bounded", rate=rate, concurrency=concurrency))
    info = WorkerInfo(host="host", pid=1, started_at=clock.now(), concurrency=1, queues=("a",), cpu=0.5)
    await backend.heartbeat("w1", [held], LEASE, notes=[NewNote(held, NoteKind.LOG, b"said")], info=info)
    await backend.enqueue(
        [
            new_task("until the end", unique=Unique("end"), due_at=clock.now() + HOUR),
            new_task("until then", unique=Unique("then", clock.now() + HOUR)),
            new_task("paced", rate=rate),
            new_task("held up", concurrency=concurrency),
        ]
    )
    await running(backend, new_task("until the start", unique=Unique("start", Until.START)))
    await backend.cancel(["until then"])
    await backend.set_paused("resting", True)
    await backend.save({"document": b"\x00"})


async def check_filled(backend: Backend, clock: FakeClock) -> None:
    """What `fill` put there still works."""
    held_keys = [new_task(f"second {key}", unique=Unique(key)) for key in ("end", "then")]
    assert [answer.id for answer in await backend.enqueue(held_keys)] == ["until the end", "until then"]
    free = await backend.enqueue([new_task("second start", unique=Unique("start"), queue="resting")])
    assert free == [Enqueued("second start", created=True)]
    assert await reserved_ids(backend) == []
    assert [note.data for note in await backend.notes("bounded")] == [b"said"]
    [worker] = await backend.workers()
    assert (worker.id, worker.info.queues, worker.alive_until) == ("w1", ("a",), clock.now() + LEASE)
    assert await backend.load("") == {"document": b"\x00"}

    await finish(backend, "bounded")
    assert await reserved_ids(backend) == ["held up"]
    assert await backend.prune(10, ids=["until then", "bounded"]) == 1
    assert await backend.notes("bounded") == []
    clock.advance(HOUR)
    assert "paced" in await reserved_ids(backend)


@only(survives_close=True)
async def test_the_same_object_opened_again_forgets_nothing_else(backend: Backend, clock: FakeClock) -> None:
    await fill(backend, clock)

    await backend.close()
    await backend.open()

    await check_filled(backend, clock)


@only(shared=True)
async def test_a_new_object_on_the_same_store_forgets_nothing_else(
    backend: Backend, store: Store, tmp_path: Path, clock: FakeClock
) -> None:
    await fill(backend, clock)
    await backend.close()

    again = store.make(tmp_path, clock)
    await again.open()

    await check_filled(again, clock)
    await again.close()


@only(survives_close=True)
async def test_positions_of_notes_go_on_after_a_reopening(backend: Backend) -> None:
    held = await running(backend, new_task(result_ttl=timedelta(0)))
    await backend.complete([Succeeded(held, b"")], notes=[NewNote(held, NoteKind.LOG, b"")])
    [old] = await backend.notes(held.id)
    await backend.prune(10)

    await backend.close()
    await backend.open()

    held = await running(backend)
    await backend.heartbeat("w1", [], LEASE, notes=[NewNote(held, NoteKind.LOG, b"")])
    [new] = await backend.notes(held.id)
    assert new.position > old.position


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
