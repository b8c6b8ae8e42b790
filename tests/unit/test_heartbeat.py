"""Leases are renewed from a thread of their own; what is lost or cancelled is told where the worker lives."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sitq.backends.base import Bells, Signal
from sitq.config import worker_config
from sitq.context import CurrentTask, bind
from sitq.errors import BackendError
from sitq.events import LoopBlocked, StorageFailed
from sitq.model import CancelTopic, Held, WorkerInfo
from sitq.model import Heartbeat as Answer
from sitq.worker.heartbeat import Heartbeat
from tests.support import PATIENCE, FakeClock

A, B, C = Held("a", 1), Held("b", 2), Held("c", 3)
LEASE = 30.0
INFO = WorkerInfo(host="here", pid=7, started_at=datetime(2026, 1, 1, tzinfo=UTC), concurrency=10)


class Storage:
    """A backend that answers renewals as it is told, with the bells of the real ones."""

    def __init__(self) -> None:
        self.bells = Bells()
        self.listen_errors: list[Exception] = []
        self.infos: list[WorkerInfo | None] = []
        self.answer = Answer()
        self.error: Exception | None = None
        self.asked: list[tuple[str, list[Held], timedelta]] = []
        self.threads: set[int] = set()

    def listen(self, topics: list[CancelTopic]) -> AbstractAsyncContextManager[Signal]:
        if self.listen_errors:
            raise self.listen_errors.pop(0)
        return self.bells.listen(topics)

    async def heartbeat(
        self, worker: str, held: list[Held], lease: timedelta, *, info: WorkerInfo | None = None
    ) -> Answer:
        self.infos.append(info)
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
        self.beside: list[str] = []
        self.heartbeat = Heartbeat(
            worker_config(
                id="w1",
                queues=None,
                strict=False,
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
            describe=lambda: INFO,
            beside=self._beside,
            clock=self.clock,
            emit=self.events.append,
        )

    async def _beside(self) -> None:
        self.beside.append(f"begun on {threading.current_thread().name}")
        try:
            await asyncio.Event().wait()
        finally:
            self.beside.append("ended")

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

    def settle(self) -> None:
        """Wait, blocking this thread, until the round that began last has said when the next one is due."""
        for _ in range(3):  # what it reads in `renew_once`, what it reckons from, and one more
            self.clock.read.clear()
            assert self.clock.read.wait(PATIENCE)

    def one_round(self, span: float) -> None:
        """Let time pass and wait, blocking this thread, until the heartbeat has taken notice.

        The rounds before are to have been counted.
        """
        self.settle()
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


async def test_a_worker_with_nothing_to_do_says_that_it_is_alive() -> None:
    beating = Beating()
    await beating.renew()
    assert beating.storage.asked == [("w1", [], timedelta(seconds=LEASE))]
    assert beating.storage.infos == [INFO]


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


# -- Cancellations ----------------------------------------------------------------------------------


def beats(beating: Beating) -> int:
    """Wait, blocking this thread, for one more renewal."""
    assert beating.rounds.acquire(timeout=PATIENCE)
    return len(beating.storage.asked)


async def test_the_bell_is_answered_at_once_and_once_more_a_moment_later() -> None:
    beating = Beating(A)  # the clock stands still, and the next renewal by time is ten seconds away
    async with beating.beating():
        await asyncio.to_thread(beats, beating)
        beating.storage.answer = Answer(cancelled=frozenset({A}))
        beating.storage.bells.ring_cancels()
        await asyncio.to_thread(beats, beating)
        # What was being reserved when it rang was not known then.
        beating.held[B] = beating.clock.monotonic()
        beating.storage.answer = Answer(cancelled=frozenset({A, B}))
        await asyncio.to_thread(beating.one_round, 0.1)
        async with asyncio.timeout(PATIENCE):
            while B not in beating.cancelled:
                await asyncio.sleep(0)
    assert [held for _, held, _ in beating.storage.asked] == [[A], [A], [A, B], []]


@pytest.mark.parametrize("error", [BackendError("deaf"), ZeroDivisionError("deaf")])
async def test_a_storage_that_does_not_listen_is_asked_all_the_same(error: Exception) -> None:
    beating = Beating(A, lease=0.3)
    beating.storage.listen_errors = [error] * 2
    async with beating.beating():
        for _ in range(3):
            await asyncio.to_thread(beats, beating)
    assert beating.events == [StorageFailed("w1", "listen", "deaf", pytest.approx(0.1))] * 2


# -- The end ----------------------------------------------------------------------------------------


async def test_a_worker_that_stops_leaves_the_list() -> None:
    beating = Beating(A)
    async with beating.beating():
        await asyncio.to_thread(beats, beating)
    assert beating.storage.asked[-1] == ("w1", [], timedelta(0))
    assert beating.storage.infos[-1] == INFO


async def test_a_storage_that_is_away_does_not_keep_a_worker_from_stopping() -> None:
    beating = Beating(A)
    async with beating.beating():
        await asyncio.to_thread(beats, beating)
        beating.storage.error = BackendError("away")
    assert beating.events == [StorageFailed("w1", "leave the list of workers", "away", 0.0)]


async def test_what_runs_beside_it_has_its_thread_and_its_time() -> None:
    beating = Beating(A)
    async with beating.beating():
        pass
    assert beating.beside == ["begun on sitq-heartbeat", "ended"]


# -- The thread -------------------------------------------------------------------------------------


async def test_the_thread_renews_every_third_of_a_lease_and_ends() -> None:
    beating = Beating(A, lease=0.3)
    async with beating.beating():
        await asyncio.to_thread(beats, beating)  # the first one, at once
        for _ in range(2):
            await asyncio.to_thread(beating.one_round, 0.101)
        assert beating.storage.threads.isdisjoint({threading.get_ident()})
        [thread] = [each for each in threading.enumerate() if each.ident in beating.storage.threads]
    thread.join(PATIENCE)  # it says that it has ended with its last breath
    assert not thread.is_alive()
    # The clock stood still otherwise, so there was no other one.
    assert not beating.rounds.acquire(blocking=False)


async def test_a_blocked_loop_is_reported_once_with_the_task_and_the_line() -> None:
    beating = Beating(lease=0.1)

    async def task_that_blocks(reports: int) -> None:
        while len(beating.events) < reports:
            beating.one_round(1)
        for _ in range(3):  # time for a second report, which must not come
            beating.one_round(1)

    async with beating.beating():
        await asyncio.to_thread(beats, beating)
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
        await asyncio.to_thread(beats, beating)
        while not beating.events:
            beating.one_round(1)
    [event] = beating.events
    assert isinstance(event, LoopBlocked)
    assert event.task_id is None


async def test_a_loop_that_answers_is_not_reported() -> None:
    beating = Beating(lease=0.1)
    async with beating.beating():
        await asyncio.to_thread(beats, beating)
        for _ in range(10):
            await asyncio.to_thread(beating.one_round, 0.5)
    assert beating.events == []
