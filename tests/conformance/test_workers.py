"""workers: who works here, as they said with their last heartbeat, and until when they are believed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from sitq.backends.base import Backend
from sitq.model import Heartbeat, WorkerInfo, WorkerRecord
from tests.support import HOUR, LEASE, FakeClock, record, running

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


def about(clock: FakeClock, **fields: object) -> WorkerInfo:
    defaults: dict[str, object] = {"host": "host", "pid": 1, "started_at": clock.now(), "concurrency": 4}
    return WorkerInfo(**{**defaults, **fields})  # type: ignore[arg-type]


async def beat(backend: Backend, worker: str, info: WorkerInfo, lease: timedelta = LEASE) -> None:
    assert await backend.heartbeat(worker, [], lease, info=info) == Heartbeat()


async def known(backend: Backend) -> list[str]:
    return [worker.id for worker in await backend.workers()]


async def test_nobody_works(backend: Backend) -> None:
    assert await backend.workers() == []


async def test_what_a_worker_says(backend: Backend, clock: FakeClock) -> None:
    info = WorkerInfo(
        host="größe.example",
        pid=4_194_304,
        started_at=clock.now() - HOUR,
        concurrency=100,
        queues=("images", "大きさ"),
        running=("task-1", "task-2"),
        cpu=0.123_456_789,
        memory=2**40,
    )
    clock.advance(0.000_001)

    await beat(backend, "w1", info)

    [worker] = await backend.workers()
    assert worker == WorkerRecord(id="w1", info=info, seen_at=clock.now(), alive_until=clock.now() + LEASE)
    offsets = {each.utcoffset() for each in (worker.info.started_at, worker.seen_at, worker.alive_until)}
    assert offsets == {timedelta(0)}


@pytest.mark.parametrize("queues", [None, (), ("a",)], ids=["all", "none", "one"])
async def test_what_a_worker_leaves_out(
    backend: Backend, clock: FakeClock, queues: tuple[str, ...] | None
) -> None:
    info = about(clock, queues=queues)

    await beat(backend, "w1", info)

    [worker] = await backend.workers()
    assert worker.info == info
    assert (worker.info.running, worker.info.cpu, worker.info.memory) == ((), None, None)


async def test_each_heartbeat_replaces_what_was_said(backend: Backend, clock: FakeClock) -> None:
    first = about(clock, running=("a", "b"), cpu=0.5)
    await beat(backend, "w1", first)
    clock.advance(LEASE / 3)
    second = replace(first, running=("c",), cpu=None, memory=5)

    await beat(backend, "w1", second, HOUR)

    [worker] = await backend.workers()
    assert worker == WorkerRecord(id="w1", info=second, seen_at=clock.now(), alive_until=clock.now() + HOUR)


async def test_what_it_holds_is_renewed_in_the_same_call(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    clock.advance(LEASE / 2)

    assert await backend.heartbeat("w1", [held], LEASE, info=about(clock)) == Heartbeat()

    assert (await record(backend, held.id)).due_at == clock.now() + LEASE
    assert await known(backend) == ["w1"]


async def test_without_info_nothing_is_said(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    await backend.heartbeat("w1", [held], LEASE)
    assert await known(backend) == []

    await beat(backend, "w1", about(clock))
    before = await backend.workers()
    clock.advance(LEASE / 2)
    await backend.heartbeat("w1", [held], LEASE)

    assert await backend.workers() == before


async def test_the_longest_known_comes_first(backend: Backend, clock: FakeClock) -> None:
    for worker in ("w2", "w3", "w1"):
        await beat(backend, worker, about(clock))
        clock.advance(1)

    await beat(backend, "w2", about(clock))
    await beat(backend, "w3", about(clock))

    assert await known(backend) == ["w2", "w3", "w1"]


async def test_all_clients_see_all_workers(clients: list[Backend], clock: FakeClock) -> None:
    for number, client in enumerate(clients):
        await beat(client, f"w{number}", about(clock))
        clock.advance(1)

    for client in clients:
        assert await known(client) == [f"w{number}" for number in range(len(clients))]


@pytest.mark.parametrize("worker", ["größe 大きさ \N{SNOWMAN}", "a'b\"c;--", "a\nb", " ", "x" * 1000])
async def test_a_worker_id_is_any_text(backend: Backend, clock: FakeClock, worker: str) -> None:
    await beat(backend, worker, about(clock))

    assert await known(backend) == [worker]


# -- Gone ------------------------------------------------------------------------------------------


async def test_a_lease_of_zero_is_a_goodbye(backend: Backend, clock: FakeClock) -> None:
    await beat(backend, "w1", about(clock))
    await beat(backend, "w2", about(clock))

    await beat(backend, "w1", about(clock), timedelta(0))

    assert await known(backend) == ["w2"]


async def test_a_goodbye_twice_and_of_a_stranger(backend: Backend, clock: FakeClock) -> None:
    await beat(backend, "w1", about(clock))

    for worker in ("w1", "w1", "w2"):
        await beat(backend, worker, about(clock), timedelta(0))

    assert await known(backend) == []


async def test_who_comes_back_is_known_anew(backend: Backend, clock: FakeClock) -> None:
    for worker in ("w1", "w2"):
        await beat(backend, worker, about(clock))
    await beat(backend, "w1", about(clock), timedelta(0))

    await beat(backend, "w1", about(clock))

    assert await known(backend) == ["w2", "w1"]


async def test_who_died_is_listed_for_a_day(backend: Backend, clock: FakeClock) -> None:
    await beat(backend, "w1", about(clock))
    before = await backend.workers()

    clock.advance(LEASE + DAY - MICROSECOND)
    await backend.prune(10)
    assert await backend.workers() == before

    clock.advance(MICROSECOND)
    assert await backend.workers() == []


async def test_prune_forgets_who_has_been_dead_for_a_day(backend: Backend, clock: FakeClock) -> None:
    await beat(backend, "dead", about(clock))
    await beat(backend, "other", about(clock))
    clock.advance(LEASE + DAY + MICROSECOND)
    await beat(backend, "alive", about(clock))

    assert await backend.prune(10) == 0
    await beat(backend, "dead", about(clock))

    assert await known(backend) == ["alive", "dead"]  # it was forgotten, so it is known anew


@pytest.mark.parametrize("arguments", [(0, None), (10, ["unknown"])], ids=["no limit left", "ids"])
async def test_any_prune_forgets_them(
    backend: Backend, clock: FakeClock, arguments: tuple[int, list[str] | None]
) -> None:
    await beat(backend, "dead", about(clock))
    clock.advance(LEASE + DAY + MICROSECOND)
    await beat(backend, "alive", about(clock))
    limit, ids = arguments

    assert await backend.prune(limit, ids=ids) == 0
    await beat(backend, "dead", about(clock))

    assert await known(backend) == ["alive", "dead"]
