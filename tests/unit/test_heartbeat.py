"""Leases are renewed from a thread of their own; what is lost or cancelled is told where the worker lives."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from sitq.config import worker_config
from sitq.context import CurrentTask, bind
from sitq.errors import BackendError
from sitq.events import LoopBlocked, StorageFailed
from sitq.model import Heartbeat as Answer
from sitq.model import Held
from sitq.worker.heartbeat import Heartbeat
from tests.support import PATIENCE, FakeClock

A, B, C = Held("a", 1), Held("b", 2), Held("c", 3)
LEASE = 30.0


class Storage:
    """A backend that answers renewals as it is told."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.error: Exception | None = None
        self.asked: list[tuple[str, list[Held], timedelta]] = []
        self.threads: set[int] = set()

    async def heartbeat(self, worker: str, held: list[Held], lease: timedelta) -> Answer:
        self.asked.append((worker, held, lease))
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        return self.answer


class ReadClock(FakeClock):
    """Tells when somebody has read it: until then moving it goes unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()

    def monotonic(self) -> float:
        now = super().monotonic()
        self.read.set()
        return now


class Beating:
    """A heartbeat with everything around it. Made on the worker's loop."""

    def __init__(self, *held: Held, lease: float = LEASE) -> None:
        self.storage = Storage()
        self.clock = ReadClock()
        self.held = {one: self.clock.monotonic() for one in held}
        self.rounds = threading.Semaphore(0)
        self.lost: list[Held] = []
        self.cancelled: list[Held] = []
        self.threads: set[int] = set()
        self.events: list[Any] = []
        self.heartbeat = Heartbeat(
            worker_config(
                id="w1",
                queues=None,
                concurrency=10,
                lease=lease,
                poll_interval=1,
                shutdown_timeout=30,
                max_tasks=None,
            ),
            self.storage,  # type: ignore[arg-type]
            held=self._held,
            lost=lambda held: self._told(self.lost, held),
            cancelled=lambda held: self._told(self.cancelled, held),
            clock=self.clock,
            emit=self.events.append,
        )

    def _held(self) -> dict[Held, float]:
        self.rounds.release()
        return dict(self.held)

    def _told(self, into: list[Held], held: Collection[Held]) -> None:
        assert asyncio.get_running_loop()
        self.threads.add(threading.get_ident())
        into.extend(sorted(held))

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """The thread runs, and has read the clock for the first time."""
        self.clock.read.clear()
        await self.heartbeat.start()
        try:
            assert await asyncio.to_thread(self.clock.read.wait, PATIENCE)
            yield
        finally:
            await self.heartbeat.stop()

    def one_round(self, span: float) -> None:
        """Let time pass and wait, blocking this thread, until the heartbeat has taken notice."""
        self.clock.advance(span)
        assert self.rounds.acquire(timeout=PATIENCE)

    async def renew(self) -> None:
        """One renewal on another thread with a loop of its own. What it has to tell has arrived when this returns."""
        await asyncio.to_thread(lambda: asyncio.run(self.heartbeat.renew_once()))

    async def renew_after(self, span: float) -> list[Held]:
        """Renew when some time has passed; returns what has been given up so far."""
        self.clock.advance(span)
        await self.renew()
        return self.lost


# -- Renewals ---------------------------------------------------------------------------------------


async def test_everything_held_is_renewed_for_a_lease() -> None:
    beating = Beating(A, B)
    await beating.renew()
    assert beating.storage.asked == [("w1", [A, B], timedelta(seconds=LEASE))]
    assert (beating.lost, beating.cancelled, beating.events) == ([], [], [])


async def test_without_anything_held_the_storage_is_left_alone() -> None:
    beating = Beating()
    await beating.renew()
    assert beating.storage.asked == []


async def test_lost_and_cancelled_are_told_on_the_loop_of_the_worker() -> None:
    beating = Beating(A, B, C)
    beating.storage.answer = Answer(lost=frozenset({A}), cancelled=frozenset({B, C}))
    await beating.renew()
    assert (beating.lost, beating.cancelled) == ([A], [B, C])
    assert beating.threads == {threading.get_ident()}
    assert threading.get_ident() not in beating.storage.threads


@pytest.mark.parametrize("error", [BackendError("away"), ZeroDivisionError("away")])
async def test_a_failed_renewal_is_reported_and_costs_nothing_yet(error: Exception) -> None:
    beating = Beating(A)
    beating.storage.error = error
    await beating.renew()
    assert beating.events == [StorageFailed("w1", "renew leases", "away", LEASE / 3)]
    assert (beating.lost, beating.cancelled) == ([], [])


async def test_what_was_never_renewed_is_given_up_a_lease_after_its_start() -> None:
    beating = Beating(A)
    beating.storage.error = BackendError("away")
    assert await beating.renew_after(LEASE - 1) == []
    assert await beating.renew_after(1) == [A]


async def test_what_was_renewed_is_given_up_a_lease_after_its_last_renewal() -> None:
    beating = Beating(A)
    assert await beating.renew_after(20) == []
    beating.storage.error = BackendError("away")
    assert await beating.renew_after(LEASE - 1) == []
    assert await beating.renew_after(1) == [A]


async def test_only_what_is_a_lease_old_is_given_up() -> None:
    beating = Beating(A)
    beating.storage.error = BackendError("away")
    beating.clock.advance(10)
    beating.held[B] = beating.clock.monotonic()
    assert await beating.renew_after(20) == [A]
    del beating.held[A]  # the worker has stopped it
    assert await beating.renew_after(9) == [A]
    assert await beating.renew_after(1) == [A, B]


async def test_a_renewal_that_works_again_in_time_loses_nothing() -> None:
    beating = Beating(A)
    beating.storage.error = BackendError("away")
    assert await beating.renew_after(LEASE - 1) == []
    beating.storage.error = None
    assert await beating.renew_after(0) == []
    beating.storage.error = BackendError("away")
    assert await beating.renew_after(LEASE - 1) == []


async def test_a_new_reservation_of_a_task_does_not_inherit_the_renewals_of_the_old_one() -> None:
    beating = Beating(A)
    await beating.renew()
    again = Held(A.id, A.fence + 1)
    beating.clock.advance(25)
    beating.held = {again: beating.clock.monotonic()}
    beating.storage.error = BackendError("away")
    assert await beating.renew_after(LEASE - 1) == []
    assert await beating.renew_after(1) == [again]


# -- The thread -------------------------------------------------------------------------------------


async def test_the_thread_renews_every_third_of_a_lease_and_ends() -> None:
    beating = Beating(A, lease=0.3)
    async with beating.beating():
        for _ in range(2):
            await asyncio.to_thread(beating.one_round, 0.101)
        [thread] = [each for each in threading.enumerate() if each.ident in beating.storage.threads]
    thread.join(PATIENCE)  # it says that it has ended with its last breath
    assert not thread.is_alive()
    # The clock stood still otherwise, so there was no third one.
    assert not beating.rounds.acquire(blocking=False)
    assert beating.storage.threads.isdisjoint({threading.get_ident()})


async def test_a_blocked_loop_is_reported_once_with_the_task_and_the_line() -> None:
    beating = Beating(lease=0.1)

    async def task_that_blocks(reports: int) -> None:
        while len(beating.events) < reports:
            beating.one_round(1)
        for _ in range(3):  # time for a second report, which must not come
            beating.one_round(1)

    async with beating.beating():
        for reports in (1, 2):  # once for each time
            await asyncio.get_running_loop().create_task(
                task_that_blocks(reports), context=bind(CurrentTask("id-1", "work", "default", 1))
            )
            assert len(beating.events) == reports
    for event in beating.events:
        assert isinstance(event, LoopBlocked)
        assert (event.worker, event.task_id) == ("w1", "id-1")
        assert event.seconds >= 1
        assert "one_round" in event.stack
        assert "task_that_blocks" in event.stack


async def test_a_loop_that_is_blocked_by_no_task_of_the_queue_is_reported_without_one() -> None:
    beating = Beating(lease=0.1)
    async with beating.beating():
        while not beating.events:
            beating.one_round(1)
    [event] = beating.events
    assert isinstance(event, LoopBlocked)
    assert event.task_id is None


async def test_a_loop_that_answers_is_not_reported() -> None:
    beating = Beating(lease=0.1)
    async with beating.beating():
        for _ in range(10):
            await asyncio.to_thread(beating.one_round, 0.5)
    assert beating.events == []
