"""heartbeat: renews what is still held, and tells what is lost and what shall stop."""

import asyncio

import pytest

from sitq.backends.base import Backend
from sitq.model import Failed, Heartbeat, Held, Released, Retried, Status, Succeeded
from tests.support import LEASE, FakeClock, everything, new_task, record, reserve_one, reserved_ids, running

HALF = LEASE / 2


async def test_a_renewal_counts_from_now(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    clock.advance(HALF)

    assert await backend.heartbeat("w1", [held], LEASE) == Heartbeat()

    assert (await record(backend, "a")).due_at == clock.now() + LEASE
    clock.advance(LEASE - 0.1 * LEASE)
    assert await reserved_ids(backend) == []
    clock.advance(LEASE)
    assert await reserved_ids(backend) == ["a"]


async def test_a_renewal_changes_nothing_else(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    before = await record(backend, "a")
    clock.advance(HALF)

    await backend.heartbeat("w1", [held], LEASE)

    after = await record(backend, "a")
    assert (after.status, after.fence, after.attempt, after.crashes, after.worker, after.started_at) == (
        before.status,
        before.fence,
        before.attempt,
        before.crashes,
        before.worker,
        before.started_at,
    )


async def test_a_renewal_may_be_shorter_than_the_lease_before(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))

    await backend.heartbeat("w1", [held], LEASE / 10)

    assert (await record(backend, "a")).due_at == clock.now() + LEASE / 10


async def test_a_lease_that_ran_out_unnoticed_is_renewed(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    clock.advance(2 * LEASE)

    assert await backend.heartbeat("w1", [held], LEASE) == Heartbeat()

    assert await reserved_ids(backend, worker="w2") == []


async def test_nothing_held(backend: Backend) -> None:
    assert await backend.heartbeat("w1", [], LEASE) == Heartbeat()


async def test_one_reservation_twice_in_a_call(backend: Backend) -> None:
    held = await running(backend)

    assert await backend.heartbeat("w1", [held, held], LEASE) == Heartbeat()


# -- Lost ------------------------------------------------------------------------------------------


async def test_a_lease_that_another_worker_took_is_lost(backend: Backend, clock: FakeClock) -> None:
    first = await running(backend, new_task("a"))
    clock.advance(LEASE)
    await reserve_one(backend, "w2")
    before = await record(backend, "a")
    clock.advance(HALF)

    assert await backend.heartbeat("w1", [first], LEASE) == Heartbeat(lost=frozenset({first}))

    assert await record(backend, "a") == before


async def test_a_lease_that_the_same_worker_took_again_is_lost(backend: Backend, clock: FakeClock) -> None:
    first = await running(backend, new_task("a"))
    clock.advance(LEASE)
    second = (await reserve_one(backend, "w1")).held

    assert await backend.heartbeat("w1", [first, second], LEASE) == Heartbeat(lost=frozenset({first}))


async def test_what_does_not_run_is_lost(backend: Backend, clock: FakeClock) -> None:
    retried, released, done, failed, cancelled = [await running(backend) for _ in range(5)]
    await backend.complete(
        [
            Retried(retried, clock.now(), b""),
            Released(released),
            Succeeded(done, b""),
            Failed(failed, b""),
            Retried(cancelled, clock.now(), b""),
        ]
    )
    await backend.cancel([cancelled.id])
    before = await everything(backend)
    held = [retried, released, done, failed, cancelled, Held("unknown", 1)]

    assert await backend.heartbeat("w1", held, LEASE) == Heartbeat(lost=frozenset(held))

    assert await everything(backend) == before


async def test_the_rest_is_renewed_beside_what_is_lost(backend: Backend, clock: FakeClock) -> None:
    held = [await running(backend) for _ in range(3)]
    clock.advance(HALF)

    answer = await backend.heartbeat("w1", [held[0], Held(held[1].id, held[1].fence - 1), held[2]], LEASE)

    assert answer.lost == {Held(held[1].id, held[1].fence - 1)}
    due = [(await record(backend, hold.id)).due_at for hold in held]
    assert due == [clock.now() + LEASE, clock.now() + HALF, clock.now() + LEASE]


async def test_a_lost_lease_is_no_stale_outcome(backend: Backend) -> None:
    await backend.heartbeat("w1", [Held("unknown", 1)], LEASE)

    assert (await backend.stats()).stale_outcomes == 0


# -- Cancel requests -------------------------------------------------------------------------------


async def test_a_cancel_request_is_told_until_the_task_ends(backend: Backend) -> None:
    held, other = await running(backend), await running(backend)
    await backend.cancel([held.id])

    for _ in range(2):
        answer = await backend.heartbeat("w1", [held, other], LEASE)
        assert answer == Heartbeat(cancelled=frozenset({held}))

    await backend.complete([Succeeded(held, b"")])
    assert await backend.heartbeat("w1", [held], LEASE) == Heartbeat(lost=frozenset({held}))


async def test_a_cancel_request_is_no_news_for_who_lost_the_lease(backend: Backend, clock: FakeClock) -> None:
    first = await running(backend)
    clock.advance(LEASE)
    second = (await reserve_one(backend, "w2")).held
    await backend.cancel([first.id])

    assert await backend.heartbeat("w1", [first], LEASE) == Heartbeat(lost=frozenset({first}))
    assert await backend.heartbeat("w2", [second], LEASE) == Heartbeat(cancelled=frozenset({second}))


# -- From elsewhere --------------------------------------------------------------------------------


async def test_from_the_event_loop_of_another_thread(backend: Backend, clock: FakeClock) -> None:
    held, asked = await running(backend), await running(backend)
    await backend.cancel([asked.id])
    clock.advance(HALF)

    answer = await asyncio.to_thread(
        lambda: asyncio.run(backend.heartbeat("w1", [held, asked, Held("unknown", 1)], LEASE))
    )

    assert answer == Heartbeat(frozenset({Held("unknown", 1)}), frozenset({asked}))
    assert (await record(backend, held.id)).due_at == clock.now() + LEASE
    assert (await record(backend, held.id)).status is Status.RUNNING


@pytest.mark.parametrize("threads", [2, 4])
async def test_from_several_threads_while_this_one_works(backend: Backend, threads: int) -> None:
    held = [await running(backend) for _ in range(20)]

    async def renew_often() -> list[Heartbeat]:
        return [await backend.heartbeat("w1", held, LEASE) for _ in range(20)]

    beats = [asyncio.to_thread(lambda: asyncio.run(renew_often())) for _ in range(threads)]
    enqueues = asyncio.gather(*(backend.enqueue([new_task()]) for _ in range(50)))
    answers = await asyncio.gather(*beats)
    await enqueues

    assert all(answer == Heartbeat() for answers_of_one in answers for answer in answers_of_one)
    assert len(await everything(backend)) == 70
