"""Many clients at once: one winner for everything that only one can have."""

import asyncio
from collections import Counter
from datetime import timedelta
from itertools import chain

import pytest

from sitq.backends.base import Backend
from sitq.model import (
    Enqueued,
    Failed,
    Heartbeat,
    Held,
    NewNote,
    NoteKind,
    Released,
    Status,
    Succeeded,
    Unique,
)
from tests.support import (
    HOUR,
    LEASE,
    MINUTE,
    FakeClock,
    bounded,
    everything,
    new_task,
    new_tasks,
    paced,
    record,
    running,
)

ROUNDS = range(20)


@pytest.mark.parametrize("limit", [1, 7, 200])
async def test_each_task_goes_to_one_worker(clients: list[Backend], limit: int) -> None:
    tasks = new_tasks(200)
    await clients[0].enqueue(tasks)

    async def take_all(client: Backend, worker: str) -> list[str]:
        taken = []
        while found := (await client.reserve(worker, None, limit, LEASE)).tasks:
            taken += [task.id for task in found]
        return taken

    workers = [take_all(client, f"w{number}") for number, client in enumerate(clients * 4)]
    taken = Counter(chain.from_iterable(await asyncio.gather(*workers)))

    assert taken == dict.fromkeys((task.id for task in tasks), 1)


async def test_each_reservation_has_a_fence_of_its_own(clients: list[Backend]) -> None:
    await clients[0].enqueue([new_task("a")])
    fences = []

    async def take_and_release(client: Backend) -> None:
        for _ in range(10):
            for task in (await client.reserve("w", None, 1, LEASE)).tasks:
                fences.append(task.fence)
                await client.complete([Released(task.held)])

    await asyncio.gather(*map(take_and_release, clients))

    assert len(fences) == len(set(fences))
    assert (await record(clients[0], "a")).fence == max(fences)


async def test_a_lost_lease_goes_to_one_worker(clients: list[Backend], clock: FakeClock) -> None:
    for _ in ROUNDS:
        await running(clients[0], task := new_task())
        clock.advance(LEASE)

        found = await asyncio.gather(*(client.reserve("w2", None, 1, LEASE) for client in clients))

        [second] = [task for reserved in found for task in reserved.tasks]
        assert (second.id, second.crashes) == (task.id, 1)
        await clients[0].complete([Succeeded(second.held, b"")])


async def test_one_id_is_stored_once(clients: list[Backend]) -> None:
    for number in ROUNDS:
        tasks = [new_task(f"{number}", payload=b"%d" % client) for client in range(len(clients))]

        answers = await asyncio.gather(
            *(client.enqueue([task]) for client, task in zip(clients, tasks, strict=True))
        )

        [winner] = [index for index, [answer] in enumerate(answers) if answer.created]
        assert (await record(clients[0], f"{number}")).payload == tasks[winner].payload


async def test_batches_that_overlap_store_each_id_once(clients: list[Backend]) -> None:
    tasks = new_tasks(50)

    answers = await asyncio.gather(
        *(client.enqueue(tasks[shift:] + tasks[:shift]) for shift, client in enumerate(clients))
    )

    assert Counter(answer.id for answer in chain(*answers) if answer.created) == {
        task.id: 1 for task in tasks
    }
    assert len(await everything(clients[0])) == 50


async def test_of_two_outcomes_for_one_reservation_one_counts(clients: list[Backend]) -> None:
    for _ in ROUNDS:
        held = await running(clients[0])

        success, failure = await asyncio.gather(
            clients[0].complete([Succeeded(held, b"result")]), clients[1].complete([Failed(held, b"error")])
        )

        assert success.accepted + failure.accepted == 1
        stored = await record(clients[0], held.id)
        assert stored.status is (Status.SUCCESS if success.accepted else Status.FAILED)
        assert (stored.result is None) is (stored.error is not None)


async def test_a_cancel_and_a_success_agree(clients: list[Backend]) -> None:
    for _ in ROUNDS:
        held = await running(clients[0])

        answer, completed = await asyncio.gather(
            clients[1].cancel([held.id]), clients[0].complete([Succeeded(held, b"result")])
        )

        assert completed.accepted == 1
        stored = await record(clients[0], held.id)
        assert stored.status is Status.SUCCESS
        assert stored.cancel_requested is (answer[held.id] is Status.RUNNING)


async def test_a_cancel_and_a_release_leave_nothing_to_run(clients: list[Backend]) -> None:
    for _ in ROUNDS:
        held = await running(clients[0])

        await asyncio.gather(clients[1].cancel([held.id]), clients[0].complete([Released(held)]))

        assert (await record(clients[0], held.id)).status is Status.CANCELLED


async def test_a_cancel_and_a_reservation_agree(clients: list[Backend]) -> None:
    for _ in ROUNDS:
        await clients[0].enqueue([task := new_task()])

        answer, found = await asyncio.gather(
            clients[0].cancel([task.id]), clients[1].reserve("w1", None, 1, LEASE)
        )

        started = [reserved.id for reserved in found.tasks]
        assert started == ([task.id] if answer[task.id] is Status.RUNNING else [])
        stored = await record(clients[0], task.id)
        assert (stored.status, stored.cancel_requested) == (answer[task.id], bool(started))
        await clients[1].complete([Succeeded(reserved.held, b"") for reserved in found.tasks])


async def test_a_late_heartbeat_and_a_new_reservation_agree(clients: list[Backend], clock: FakeClock) -> None:
    for _ in ROUNDS:
        held = await running(clients[0])
        clock.advance(LEASE)

        beat, found = await asyncio.gather(
            clients[0].heartbeat("w1", [held], LEASE), clients[1].reserve("w2", None, 1, LEASE)
        )

        if found.tasks:
            assert beat == Heartbeat(lost=frozenset({held}))
            held = found.tasks[0].held
        else:
            assert beat == Heartbeat()
        assert (await clients[0].complete([Succeeded(held, b"")])).accepted == 1


async def test_a_late_success_and_a_new_reservation_agree(clients: list[Backend], clock: FakeClock) -> None:
    for _ in ROUNDS:
        held = await running(clients[0])
        clock.advance(LEASE)

        completed, found = await asyncio.gather(
            clients[0].complete([Succeeded(held, b"first")]), clients[1].reserve("w2", None, 1, LEASE)
        )

        assert completed.accepted + len(found.tasks) == 1
        await clients[1].complete([Succeeded(task.held, b"second") for task in found.tasks])
        assert (await record(clients[0], held.id)).result == (b"second" if found.tasks else b"first")


async def test_one_key_has_one_holder(clients: list[Backend]) -> None:
    for number in ROUNDS:
        tasks = [new_task(unique=Unique(f"{number}")) for _ in clients]

        answers = await asyncio.gather(
            *(client.enqueue([task]) for client, task in zip(clients, tasks, strict=True))
        )

        [winner] = [answer.id for [answer] in answers if answer.created]
        assert [answer.id for [answer] in answers] == [winner] * len(clients)
    assert len(await everything(clients[0])) == len(ROUNDS)


async def test_an_end_and_the_next_of_its_key_agree(clients: list[Backend]) -> None:
    for number in ROUNDS:
        unique = Unique(f"{number}")
        held = await running(clients[0], new_task(unique=unique))

        _, [answer] = await asyncio.gather(
            clients[0].complete([Succeeded(held, b"")]), clients[1].enqueue([new_task(unique=unique)])
        )

        assert answer.created is (answer.id != held.id)
        [after] = await clients[0].enqueue([new_task(unique=unique)])
        assert after.created is not answer.created


async def test_a_push_and_a_reservation_agree(clients: list[Backend]) -> None:
    for number in ROUNDS:
        unique = Unique(f"{number}", replace=True)
        await clients[0].enqueue([new_task(f"{number}", unique=unique, payload=b"old")])

        found, [answer] = await asyncio.gather(
            clients[0].reserve("w1", None, 1, LEASE),
            clients[1].enqueue([new_task(unique=unique, payload=b"new")]),
        )

        [reserved] = found.tasks
        assert answer == Enqueued(f"{number}", created=False)
        assert (await record(clients[0], f"{number}")).payload == reserved.payload


async def test_never_more_run_than_may(clients: list[Backend]) -> None:
    await clients[0].enqueue([bounded(limit=3) for _ in range(100)])
    runs: set[Held] = set()
    ended = 0

    async def work(client: Backend, worker: str) -> None:
        nonlocal ended
        while ended < 100:
            found = (await client.reserve(worker, None, 2, LEASE)).tasks
            runs.update(task.held for task in found)
            assert len(runs) <= 3
            await asyncio.sleep(0)
            runs.difference_update(task.held for task in found)
            await client.complete([Succeeded(task.held, b"") for task in found])
            ended += len(found)

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(work(client, f"w{number}"))

    assert ended == 100


async def test_never_more_start_than_may(clients: list[Backend], clock: FakeClock) -> None:
    await clients[0].enqueue([paced(count=3) for _ in range(30)])

    for _ in range(10):
        found = await asyncio.gather(*(client.reserve("w", None, 2, HOUR) for client in clients))

        assert sum(len(reserved.tasks) for reserved in found) == 3
        clock.advance(MINUTE)


async def test_requeueing_at_once_is_one_new_run(clients: list[Backend]) -> None:
    for _ in ROUNDS:
        held = await running(clients[0])
        await clients[0].complete([Failed(held, b"error")])

        answers = await asyncio.gather(*(client.requeue([held.id]) for client in clients))

        assert sorted(map(len, answers)) == [0] * (len(clients) - 1) + [1]
        assert len(await clients[0].notes(held.id)) == 1
        await clients[0].cancel([held.id])


async def test_notes_at_once_have_places_of_their_own(clients: list[Backend]) -> None:
    held = [await running(client) for client in clients]

    async def tell(client: Backend, hold: Held) -> None:
        for number in range(10):
            await client.heartbeat("w", [], LEASE, notes=[NewNote(hold, NoteKind.LOG, b"%d" % number)] * 3)

    await asyncio.gather(*map(tell, clients, held))

    notes = [await clients[0].notes(hold.id) for hold in held]
    assert all([note.data for note in each] == [b"%d" % (n // 3) for n in range(30)] for each in notes)
    positions = [note.position for each in notes for note in each]
    assert len(positions) == len(set(positions))


async def test_pruning_at_once_counts_each_task_once(clients: list[Backend]) -> None:
    await clients[0].enqueue(new_tasks(100, result_ttl=timedelta(0)))
    reserved = (await clients[0].reserve("w1", None, 100, LEASE)).tasks
    await clients[0].complete([Succeeded(task.held, b"") for task in reserved])

    pruned = await asyncio.gather(*(client.prune(40) for client in clients))

    assert sum(pruned) == 100
    assert await everything(clients[0]) == []


async def test_everything_at_once_ends_every_task_once(clients: list[Backend]) -> None:
    ended: Counter[str] = Counter()

    async def add(client: Backend) -> None:
        for _ in range(20):
            await client.enqueue(new_tasks(5))

    async def work(client: Backend) -> None:
        while sum(ended.values()) < 20 * 5 * len(clients):
            found = (await client.reserve("w", None, 7, LEASE)).tasks
            await client.heartbeat("w", [task.held for task in found], LEASE)
            completed = await client.complete([Succeeded(task.held, task.payload) for task in found])
            assert completed == (len(found), ())
            ended.update(task.id for task in found)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(add(client))
            group.create_task(work(client))

    stored = await everything(clients[0])
    assert ended == {task.id: 1 for task in stored}
    assert all((task.status, task.result) == (Status.SUCCESS, task.payload) for task in stored)
    assert (await clients[0].stats()).stale_outcomes == 0
    assert (await reserve_nothing(clients)) == []


async def reserve_nothing(clients: list[Backend]) -> list[object]:
    return [task for client in clients for task in (await client.reserve("w", None, 1, LEASE)).tasks]
