"""Takes work from the storage: as much as can start, when it is there.

Waits for a ring, for the next due time that the storage told, or for the poll interval, whichever comes first.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from sitq.backends.base import Backend, Signal
from sitq.clock import Clock
from sitq.config import WorkerConfig
from sitq.errors import BackendError
from sitq.events import Emit, StorageFailed, TaskLost
from sitq.model import QueueTopic, Reserved, ReservedTask
from sitq.worker.shares import Shares, take
from sitq.worker.slots import Slots

_LARGEST_RESERVE: Final = 500
_PAUSE_AFTER_ERROR: Final = 1.0
_SHORTEST_PAUSE: Final = 0.001


class Fetcher:
    """Reserves tasks and hands them over.

    Args:
        slots: Taken before reserving, so that nothing is reserved that cannot start.
        congested: True while outcomes pile up and no new work should be taken.
        start: Takes reserved tasks, and their slots with them.
        unsettled: True while an outcome is on its way, which may bring work back.
        idle: Called when nothing is due and nothing runs; None if nobody wants to know.
        exhausted: Called when `max_tasks` have been handed over.
    """

    def __init__(
        self,
        config: WorkerConfig,
        backend: Backend,
        *,
        slots: Slots,
        congested: Callable[[], bool],
        unsettled: Callable[[], bool],
        start: Callable[[list[ReservedTask]], object],
        idle: Callable[[], None] | None,
        exhausted: Callable[[], None],
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._config = config
        self._backend = backend
        self._slots = slots
        self._congested = congested
        self._unsettled = unsettled
        self._start = start
        self._idle = idle
        self._exhausted = exhausted
        self._clock = clock
        self._emit = emit
        self._lease = timedelta(seconds=config.lease)
        self._shares = None if config.weights is None else Shares(config.weights)
        self._left = config.max_tasks
        self._signal: Signal | None = None
        self._overdue_pause = 0.0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take nothing more. `run` returns soon; what it reserved by then is handed over."""
        self._stopping.set()
        self._wake()

    def slot_freed(self) -> None:
        """Look again, if it was a slot that was missing, or if this may have been the last task."""
        if self._slots.awaited or self._idle is not None:
            self._wake()

    def settled(self) -> None:
        """Look again, if somebody wants to know of the end: no outcome is on its way any more."""
        if self._idle is not None:
            self._wake()

    def _wake(self) -> None:
        if self._signal is not None:
            self._signal.ring()

    async def run(self) -> None:
        """Fetch until `stop`. Must not be cancelled: a reservation whose answer nobody hears is held for a lease."""
        while not self._stopping.is_set():
            try:
                await self._listen_and_fetch()
            except BackendError as error:
                self._emit(StorageFailed(self._config.id, "listen", str(error), _PAUSE_AFTER_ERROR))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _PAUSE_AFTER_ERROR)

    async def _listen_and_fetch(self) -> None:
        topics = [QueueTopic(queue) for queue in self._config.queues or (None,)]
        async with self._backend.listen(topics) as signal:
            self._signal = signal
            while not self._stopping.is_set():
                pause = await self._fetch()
                if pause > 0:
                    await signal.wait(pause)

    async def _fetch(self) -> float:
        """Reserve what can start and start it. Returns the most seconds to wait before looking again."""
        limit = self._limit()
        self._slots.awaited = limit == 0
        if limit == 0:
            return self._config.poll_interval
        # Before the look: what comes back meanwhile is seen by the next one only.
        quiet = self._slots.unused and not self._unsettled()
        self._slots.take(limit)
        tasks: list[ReservedTask] = []
        try:
            tasks, next_due_at = await take(self._config, self._shares, limit, self._reserve)
        except BackendError as error:
            self._emit(StorageFailed(self._config.id, "take tasks", str(error), _PAUSE_AFTER_ERROR))
            return _PAUSE_AFTER_ERROR
        finally:
            self._slots.put_back(limit - len(tasks))
        self._start(tasks)
        if self._left is not None:
            self._left -= len(tasks)
            if self._left == 0:
                self._exhausted()
        if not tasks and self._idle is not None and quiet and self._slots.unused:
            self._idle()
        return 0.0 if len(tasks) == limit else self._pause(next_due_at)

    async def _reserve(self, queues: Sequence[str] | None, limit: int) -> Reserved:
        while True:
            asked_at = self._clock.monotonic()
            reserved = await self._backend.reserve(self._config.id, queues, limit, self._lease)
            if not reserved.tasks or self._clock.monotonic() - asked_at < self._config.lease:
                return reserved
            # The worker was stopped meanwhile. Others may have these by now, and nothing of ours would count.
            for task in reserved.tasks:
                self._emit(TaskLost(task.id, task.name, task.queue, task.attempt, self._config.id, 0.0))

    def _limit(self) -> int:
        if self._congested():
            return 0
        limit = min(self._slots.free, _LARGEST_RESERVE)
        return limit if self._left is None else min(limit, self._left)

    def _pause(self, next_due_at: datetime | None) -> float:
        until_due = None if next_due_at is None else (next_due_at - self._clock.now()).total_seconds()
        if until_due is not None and until_due <= 0:
            # Just become due, or the storage's clock is behind ours: that must not become a busy loop.
            pause = self._overdue_pause
            self._overdue_pause = max(pause * 2, _SHORTEST_PAUSE)
        else:
            pause = self._config.poll_interval if until_due is None else until_due
            self._overdue_pause = 0.0
        return min(pause, self._config.poll_interval)
