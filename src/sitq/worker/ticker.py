"""Turns the ticks of schedules into tasks. Every worker does it, none leads: a tick is a task id, which is unique."""

import asyncio
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import batched
from typing import Final, NamedTuple

from sitq.backends.base import Backend
from sitq.clock import Clock
from sitq.errors import BackendError, TaskSerializationError, ValidationError
from sitq.events import Emit, ScheduleFailed, StorageFailed, TaskEnqueued, TickDropped, TicksMissed
from sitq.model import NewTask, TaskId
from sitq.schedule import due, next_tick
from sitq.schedules import Entry, Stored, decode, load_schedules, save_last, schedule_id, tick_task

TICK_INTERVAL: Final = 5.0
"""How long a schedule that was defined elsewhere may go unseen."""

type Rebind = Callable[[bytes, str, TaskId], bytes]
"""Makes of the payload of a schedule that of a task."""

_JITTER: Final = 0.1
_BATCH: Final = 1_000


class Round(NamedTuple):
    """What one look did: how many tasks it stored, and when the next tick of any schedule is."""

    enqueued: int
    next_at: datetime | None


class _Tick(NamedTuple):
    at: datetime
    schedule: str
    task: NewTask


class Ticker:
    """Enqueues a task for each tick that is due. Any number of workers may do it at once.

    A worker that dies between the task and the note that the tick is settled leaves the tick to the others: they make
    the same task again, which changes nothing.
    """

    def __init__(
        self,
        worker: str,
        backend: Backend,
        clock: Clock,
        emit: Emit,
        *,
        interval: float = TICK_INTERVAL,
        rebind: Rebind | None = None,
    ) -> None:
        self._worker = worker
        self._backend = backend
        self._clock = clock
        self._emit = emit
        self._interval = interval
        self._rebind = rebind
        # The next tick of each schedule as it was when it was looked at; None if there is none to wait for.
        self._next: dict[Stored, datetime | None] = {}

    async def run(self) -> None:
        """Enqueue until cancelled. Looks at each tick, and besides each `interval` seconds for what has changed.

        The looks are a little jittered: who comes first makes the task, and the others find it settled.
        """
        while True:
            pause = self._interval
            try:
                done = await self.run_once()
            except BackendError as error:
                self._emit(StorageFailed(self._worker, "enqueue what is scheduled", str(error), pause))
            else:
                if done.next_at is not None:
                    pause = min(pause, max(0.0, (done.next_at - self._clock.now()).total_seconds()))
            await asyncio.sleep(pause + random.uniform(0.0, _JITTER))  # noqa: S311

    async def run_once(self) -> Round:
        """Enqueue what is due now.

        Raises:
            BackendError: The storage failed. Doing it again is safe.
        """
        now = self._clock.now()
        stored = await load_schedules(self._backend)
        coming: dict[Stored, datetime | None] = {}
        ticks: list[_Tick] = []
        settled: dict[str, datetime] = {}
        for one in stored:
            known = self._next.get(one)
            if one in self._next and (known is None or known > now):
                coming[one] = known
            else:
                coming[one] = self._look_at(one, now, ticks, settled)
        enqueued = await self._store(ticks)
        if settled:
            await save_last(self._backend, settled)
        self._next = coming  # not before: after an error everything is looked at again
        return Round(enqueued, min(filter(None, coming.values()), default=None))

    def _look_at(
        self, stored: Stored, now: datetime, ticks: list[_Tick], settled: dict[str, datetime]
    ) -> datetime | None:
        """Add what is due of one schedule, and return its next tick. What is wrong with it stays its own trouble."""
        try:
            entry = decode(stored)
            if entry.paused:
                return None
            found = due(entry.schedule, entry.settled, now)
            coming = next_tick(entry.schedule, found.handled or entry.settled)
            ticks += [_Tick(tick, stored.name, self._task(entry, tick)) for tick in found.run]
        except (ValidationError, TaskSerializationError) as error:
            self._emit(ScheduleFailed(self._worker, stored.name, str(error)))
            return None
        if found.handled is not None:
            settled[stored.name] = found.handled
        if found.missed:
            policy = entry.schedule.misfire
            self._emit(TicksMissed(self._worker, stored.name, entry.settled, policy, len(found.run)))
        return coming

    def _task(self, entry: Entry, tick: datetime) -> NewTask:
        task = tick_task(entry, tick)
        if self._rebind is None:
            return task
        return task._replace(payload=self._rebind(task.payload, schedule_id(entry.schedule.name), task.id))

    async def _store(self, ticks: Iterable[_Tick]) -> int:
        enqueued = 0
        for batch in batched(ticks, _BATCH, strict=False):
            answers = await self._backend.enqueue([tick.task for tick in batch])
            for tick, answer in zip(batch, answers, strict=True):
                if answer.created:
                    enqueued += 1
                    self._emit(TaskEnqueued(tick.task.id, tick.task.name, tick.task.queue))
                elif answer.id != tick.task.id:
                    self._emit(TickDropped(self._worker, tick.schedule, tick.at, answer.id))
        return enqueued
