"""The fetcher takes as much as can start, when it is there, and otherwise waits for the next reason to look."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from sitq.config import worker_config
from sitq.errors import BackendError
from sitq.events import StorageFailed, TaskLost
from sitq.model import QueueTopic, Reserved, ReservedTask
from sitq.worker import fetcher as module
from sitq.worker.fetcher import Fetcher
from sitq.worker.slots import Slots
from tests.support import PATIENCE, FakeClock


class Bell:
    """A signal that rings when the test says so, and tells for how long somebody meant to wait for it."""

    def __init__(self) -> None:
        self.waits: list[float | None] = []
        self._rung = asyncio.Event()
        self._changed = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        self._changed.set()
        await self._rung.wait()
        self._rung.clear()
        return True

    async def waited(self, count: int = 1) -> float | None:
        """Until somebody waits for the `count`th time: for how long he means to."""
        async with asyncio.timeout(PATIENCE):
            while len(self.waits) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.waits[count - 1]


class Storage:
    """A backend with so many tasks to hand out."""

    def __init__(self, tasks: int = 0) -> None:
        self.bell = Bell()
        self.tasks = [ReservedTask(f"t{number}", number, "work", "default", b"") for number in range(tasks)]
        self.next_due_at: Any = None
        self.asked: list[tuple[Any, ...]] = []
        self.limits: list[int] = []
        self.topics: list[Any] = []
        self.errors: list[Exception] = []
        self.listen_errors: list[Exception] = []
        self.on_reserve: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def listen(self, topics: Collection[Any]) -> AsyncGenerator[Bell]:
        if self.listen_errors:
            raise self.listen_errors.pop(0)
        self.topics.append(list(topics))
        yield self.bell

    async def reserve(self, worker: str, queues: Any, limit: int, lease: timedelta) -> Reserved:
        self.asked.append((worker, queues, limit, lease))
        self.limits.append(limit)
        self.on_reserve()
        if self.errors:
            raise self.errors.pop(0)
        taken, self.tasks = self.tasks[:limit], self.tasks[limit:]
        return Reserved(taken, self.next_due_at if len(taken) < limit else None)


class Fetching:
    """A fetcher with everything around it; what it hands over keeps its slot until the test ends it."""

    def __init__(self, storage: Storage, *, concurrency: int = 10, idle: bool = False, **given: Any) -> None:
        self.storage = storage
        self.clock = FakeClock()
        self.slots = Slots(concurrency)
        self.events: list[Any] = []
        self.started: list[str] = []
        self.congested = False
        self.unsettled = False
        self.idle = 0
        self.exhausted = 0
        settings: dict[str, Any] = {
            "id": "w1",
            "queues": None,
            "strict": False,
            "lease": 30,
            "poll_interval": 5,
            "shutdown_timeout": 30,
            "max_tasks": None,
        }
        self.fetcher = Fetcher(
            worker_config(concurrency=concurrency, **{**settings, **given}),
            storage,  # type: ignore[arg-type]
            slots=self.slots,
            congested=lambda: self.congested,
            unsettled=lambda: self.unsettled,
            start=self._start,
            idle=self._on_idle if idle else None,
            exhausted=self._on_exhausted,
            clock=self.clock,
            emit=self.events.append,
        )
        self.slots.on_free = self.fetcher.slot_freed

    def _start(self, tasks: list[ReservedTask]) -> None:
        self.started += [task.id for task in tasks]

    def _on_idle(self) -> None:
        self.idle += 1

    def _on_exhausted(self) -> None:
        self.exhausted += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bell]:
        task = asyncio.create_task(self.fetcher.run())
        try:
            yield self.storage.bell
        finally:
            self.fetcher.stop()
            async with asyncio.timeout(PATIENCE):
                await task


# -- How much ---------------------------------------------------------------------------------------


async def test_it_never_asks_for_more_than_can_start() -> None:
    made = Fetching(storage := Storage(tasks=10), concurrency=4)
    made.slots.take()
    async with made.running() as bell:
        await bell.waited(1)
        assert (storage.limits, made.started, made.slots.free) == ([3], ["t0", "t1", "t2"], 0)
        made.slots.give_back(2)
        await bell.waited(2)
        assert storage.limits == [3, 2]
        assert made.started == ["t0", "t1", "t2", "t3", "t4"]


async def test_it_does_not_ask_when_nothing_can_start() -> None:
    made = Fetching(storage := Storage(tasks=1), concurrency=1, poll_interval=7)
    made.slots.take()
    async with made.running() as bell:
        assert await bell.waited() == 7
        assert storage.limits == []


async def test_it_takes_slots_before_it_asks_and_puts_back_what_it_did_not_need() -> None:
    made = Fetching(storage := Storage(tasks=2), concurrency=5)
    free: list[int] = []
    storage.on_reserve = lambda: free.append(made.slots.free)
    async with made.running() as bell:
        await bell.waited()
        assert (free, made.slots.free) == ([0], 3)


async def test_it_asks_for_a_bounded_number_at_once_and_goes_on_without_a_pause() -> None:
    made = Fetching(storage := Storage(tasks=1200), concurrency=2000)
    async with made.running() as bell:
        await bell.waited()
        assert storage.limits == [500, 500, 500]
        assert len(made.started) == 1200


async def test_it_takes_nothing_while_outcomes_pile_up() -> None:
    made = Fetching(storage := Storage(tasks=3))
    made.congested = True
    async with made.running() as bell:
        assert await bell.waited(1) == 5
        assert storage.limits == []
        made.congested = False
        bell.ring()
        await bell.waited(2)
        assert made.started == ["t0", "t1", "t2"]


async def test_what_was_handed_out_a_lease_ago_is_not_started() -> None:
    storage = Storage(tasks=5)
    fetching = Fetching(storage, concurrency=2)
    spans = [30.0, 29.999]
    storage.on_reserve = lambda: fetching.clock.advance(timedelta(seconds=spans.pop(0) if spans else 0))

    async with fetching.running():
        await storage.bell.waited()

    assert fetching.started == ["t2", "t3"]
    assert storage.limits == [2, 2]
    assert fetching.slots.free == 0
    assert fetching.events == [TaskLost(f"t{number}", "work", "default", 1, "w1", 0.0) for number in range(2)]


async def test_max_tasks_are_taken_and_not_one_more() -> None:
    made = Fetching(storage := Storage(tasks=10), concurrency=3, max_tasks=4)
    async with made.running() as bell:
        await bell.waited(1)
        assert made.exhausted == 0
        made.slots.give_back(3)
        await bell.waited(2)
        assert (storage.limits, len(made.started), made.exhausted) == ([3, 1], 4, 1)
        bell.ring()
        await bell.waited(3)
        assert (storage.limits, made.exhausted) == ([3, 1], 1)


async def test_max_tasks_counts_what_was_found_not_what_was_asked_for() -> None:
    made = Fetching(storage := Storage(tasks=2), max_tasks=5)
    async with made.running() as bell:
        await bell.waited(1)
        bell.ring()
        await bell.waited(2)
        assert (storage.limits, made.exhausted) == ([5, 3], 0)


@pytest.mark.parametrize(
    ("queues", "topics"),
    [(None, [QueueTopic(None)]), (["web", "mail"], [QueueTopic("web"), QueueTopic("mail")])],
)
async def test_it_listens_to_the_queues_that_it_takes_from(queues: Any, topics: list[Any]) -> None:
    made = Fetching(storage := Storage(), concurrency=2, queues=queues, lease=12)
    async with made.running() as bell:
        await bell.waited()
        assert storage.topics == [topics]
        assert storage.asked == [("w1", queues and tuple(queues), 2, timedelta(seconds=12))]


# -- When -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("due_in", "pause"),
    [(None, 5.0), (2.5, 2.5), (0.001, 0.001), (5.0, 5.0), (60.0, 5.0)],
)
async def test_it_waits_for_the_next_due_time_and_at_most_the_poll_interval(
    due_in: float | None, pause: float
) -> None:
    made = Fetching(storage := Storage())
    if due_in is not None:
        storage.next_due_at = made.clock.now() + timedelta(seconds=due_in)
    async with made.running() as bell:
        assert await bell.waited() == pytest.approx(pause)


async def test_what_came_due_meanwhile_is_looked_for_at_once() -> None:
    made = Fetching(storage := Storage())
    storage.next_due_at = made.clock.now() + timedelta(seconds=1)

    def time_passes() -> None:
        made.clock.advance(2)
        if len(storage.limits) == 2:
            storage.next_due_at = None

    storage.on_reserve = time_passes
    async with made.running() as bell:
        assert await bell.waited() == 5
        assert len(storage.limits) == 2


async def test_a_storage_with_a_clock_behind_ours_is_not_asked_without_a_pause() -> None:
    made = Fetching(storage := Storage())
    storage.next_due_at = made.clock.now() - timedelta(seconds=1)
    async with made.running() as bell:
        for count in range(1, 16):
            await bell.waited(count)
            bell.ring()
        await bell.waited(16)
        assert bell.waits[:3] == [0.001, 0.002, 0.004]
        assert bell.waits[15] == 5
        assert len(storage.limits) == 17


async def test_a_ring_makes_it_look_again() -> None:
    made = Fetching(storage := Storage())
    async with made.running() as bell:
        await bell.waited(1)
        bell.ring()
        await bell.waited(2)
        assert len(storage.limits) == 2


async def test_a_freed_slot_is_no_reason_to_look_if_none_was_missing() -> None:
    made = Fetching(storage := Storage(tasks=1))
    async with made.running() as bell:
        await bell.waited()
        made.slots.give_back()
        assert not bell._rung.is_set()
        assert len(storage.limits) == 1


async def test_idle_is_told_when_nothing_is_due_and_nothing_runs() -> None:
    made = Fetching(Storage(tasks=1), idle=True)
    async with made.running() as bell:
        await bell.waited(1)
        bell.ring()
        await bell.waited(2)
        assert made.idle == 0  # it still runs
        made.slots.give_back()
        await bell.waited(3)
        assert made.idle == 1


async def test_it_is_not_idle_while_an_outcome_is_on_its_way() -> None:
    # It may bring the task back, due at once.
    made = Fetching(Storage(), idle=True)
    made.unsettled = True
    async with made.running() as bell:
        await bell.waited(1)
        assert made.idle == 0
        made.unsettled = False
        made.fetcher.settled()
        await bell.waited(2)
        assert made.idle == 1


async def test_an_outcome_that_is_stored_while_it_looks_makes_it_look_again_for_the_end() -> None:
    made = Fetching(storage := Storage(), idle=True)
    made.unsettled = True

    def settle() -> None:
        if made.unsettled:
            made.unsettled = False
            made.fetcher.settled()

    storage.on_reserve = settle
    async with made.running() as bell:
        await bell.waited(2)
        assert len(storage.limits) == 2
        assert made.idle == 1


# -- When the storage is away -----------------------------------------------------------------------


async def test_a_storage_that_fails_is_reported_and_asked_again_after_a_pause() -> None:
    made = Fetching(storage := Storage(tasks=1))
    storage.errors = [BackendError("away")]
    async with made.running() as bell:
        assert await bell.waited(1) == 1
        assert made.events == [StorageFailed("w1", "take tasks", "away", 1)]
        assert made.slots.unused
        bell.ring()
        await bell.waited(2)
        assert made.started == ["t0"]


async def test_a_storage_that_fails_does_not_count_as_idle() -> None:
    made = Fetching(storage := Storage(), idle=True)
    storage.errors = [BackendError("away")]
    async with made.running() as bell:
        await bell.waited(1)
        assert made.idle == 0
        bell.ring()
        await bell.waited(2)
        assert made.idle == 1


async def test_a_storage_that_does_not_listen_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_AFTER_ERROR", 0.0)
    made = Fetching(storage := Storage(tasks=1))
    storage.listen_errors = [BackendError("away"), BackendError("still away")]
    async with made.running() as bell:
        await bell.waited()
        assert made.events == [
            StorageFailed("w1", "listen", "away", 0.0),
            StorageFailed("w1", "listen", "still away", 0.0),
        ]
        assert made.started == ["t0"]


async def test_a_bug_in_the_storage_gives_the_slots_back_and_ends_it() -> None:
    made = Fetching(storage := Storage())
    storage.errors = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        await made.fetcher.run()
    assert made.slots.unused


# -- The end ----------------------------------------------------------------------------------------


async def test_stop_while_it_waits_ends_it() -> None:
    made = Fetching(storage := Storage())
    run = asyncio.create_task(made.fetcher.run())
    await storage.bell.waited()
    made.fetcher.stop()
    await asyncio.wait_for(run, PATIENCE)
    assert len(storage.limits) == 1


async def test_stop_before_it_runs_ends_it_without_a_look() -> None:
    made = Fetching(storage := Storage(tasks=1))
    made.fetcher.stop()
    await asyncio.wait_for(made.fetcher.run(), PATIENCE)
    assert (storage.limits, storage.topics) == ([], [])


async def test_what_is_reserved_when_it_is_stopped_is_handed_over() -> None:
    made = Fetching(storage := Storage(tasks=2), concurrency=1)
    storage.on_reserve = made.fetcher.stop
    await asyncio.wait_for(made.fetcher.run(), PATIENCE)
    assert (made.started, storage.limits, made.slots.free) == (["t0"], [1], 0)
