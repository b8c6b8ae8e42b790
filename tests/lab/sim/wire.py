"""The way of a process to the storage: slow, lossy, and written down."""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from enum import Enum
from typing import Any, NamedTuple

from sitq.backends.base import Backend
from sitq.errors import BackendConnectionError, BackendTimeoutError
from sitq.model import (
    Completed,
    Enqueued,
    Heartbeat,
    Held,
    NewTask,
    Outcome,
    Released,
    Retried,
    Succeeded,
    TaskRecord,
)
from tests.lab.history.entries import History, Reported, Requeued, Reserved, Sent, Stored, Wanted
from tests.lab.sim.promises import Extra, Renewed
from tests.lab.sim.world import EPOCH, Process


class Fate(Enum):
    """What becomes of a call."""

    GOOD = "good"
    BEFORE = "failed and not done"
    AFTER = "done and failed"
    LATER = "failed and done later"
    TWICE = "done twice"


LATE = "late"
"""What the asyncio tasks are called that do later what has failed."""

BAD = (Fate.BEFORE, Fate.AFTER, Fate.AFTER, Fate.LATER, Fate.TWICE)
REPEATABLE = frozenset({"enqueue", "heartbeat", "complete", "cancel", "prune"})
"""Writes that may come twice or late without asking for something else by then."""


class Weather(NamedTuple):
    """How bad it is, for each call, from 0 to 1.

    Attributes:
        fails: It meets a bad fate.
        slow: It takes seconds.
        lag: A way takes milliseconds. Other ways take no time.
    """

    fails: float = 0.0
    slow: float = 0.0
    lag: float = 0.1


class Wire:
    """A backend as one process sees it. Each call takes its time on the way there and on the way back.

    Args:
        own: The inner one is of this process alone, and is opened and closed with it.

    Attributes:
        late: How many calls have failed and are still to be done.
        unanswered: The reservations whose outcomes were sent, and the storage has not said that it has them.
    """

    def __init__(
        self,
        process: Process,
        inner: Backend,
        weather: Weather,
        history: History,
        extra: Extra,
        *,
        own: bool,
    ) -> None:
        self._process = process
        self._world = process.world
        self._inner = inner
        self._own = own
        self.weather = weather
        self._history = history
        self._extra = extra
        self._in_doubt: set[Held] = set()
        self.unanswered: set[Held] = set()
        self.late = 0

    # -- What is written down ----------------------------------------------------------------------

    async def enqueue(self, tasks: Sequence[NewTask], **bounds: Any) -> list[Enqueued]:
        asked = self._world.time()
        answers: list[Enqueued] = await self._call("enqueue", tasks, **bounds)
        answered = self._world.time()
        keyed = [answer for task, answer in zip(tasks, answers, strict=True) if task.unique]
        self._history.stored += [Stored(*answer, asked, answered) for answer in keyed]
        return answers

    async def reserve(self, *args: Any, **kwargs: Any) -> Any:
        asked = self._world.time()
        answer = await self._call("reserve", *args, **kwargs)
        times = (self._process.pid, asked, self._world.time())
        self._history.reserved += [
            Reserved(task.id, task.fence, task.attempt, task.crashes, *times) for task in answer.tasks
        ]
        return answer

    async def complete(self, outcomes: Sequence[Outcome], **notes: Any) -> Any:
        now = self._world.time()
        self._history.sent += [_announced(outcome, now) for outcome in outcomes]
        self.unanswered.update(outcome.held for outcome in outcomes)
        try:
            answer = await self._call("complete", outcomes, **notes)
        except BaseException:
            self._in_doubt.update(outcome.held for outcome in outcomes)
            raise
        self.unanswered.difference_update(outcome.held for outcome in outcomes)
        for outcome in outcomes:
            accepted = outcome.held not in answer.stale
            # It may have been accepted before, and what it led to is over: then it is refused now.
            if accepted or outcome.held not in self._in_doubt:
                self._history.reported.append(Reported(*outcome.held, type(outcome).__name__, accepted))
        return answer

    async def requeue_as_seen(self, ended: Sequence[TaskRecord]) -> None:
        """Give tasks another run that ended as they are given here."""
        fences = {task.id: task.fence for task in ended}
        self._history.wanted += map(Wanted, fences, fences.values())
        done = await self._call("requeue", [*fences])
        answered = self._world.time()
        self._history.requeued += [Requeued(task_id, fences[task_id], answered) for task_id in done]

    async def heartbeat(self, worker: str, held: Sequence[Held], *args: Any, **kwargs: Any) -> Heartbeat:
        asked = self._world.time()
        answer: Heartbeat = await self._call("heartbeat", worker, held, *args, **kwargs)
        self._extra.renewed += [Renewed(*one, asked, one in answer.lost) for one in held]
        # In an order that does not depend on how this process hashes.
        in_order: Any = Heartbeat(*(tuple(sorted(each)) for each in answer))
        return in_order

    # -- The way -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def listen(self, topics: Any) -> Any:
        if self._fate("listen") is not Fate.GOOD:
            raise BackendConnectionError("nobody answers")
        async with self._inner.listen(topics) as signal:
            yield signal

    async def open(self) -> None:
        if self._own:
            await self._inner.open()

    async def close(self) -> None:
        if self._own:
            await self._inner.close()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, *args, **kwargs)

        return call

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        fate = self._fate(name)
        self._world.tell(self._process.name, name, fate.name)
        await self._transit()
        if fate is Fate.BEFORE:
            raise BackendTimeoutError("nobody answered in time")
        apply = getattr(self._inner, name)
        if fate is Fate.LATER:
            loop = self._process.loop
            self.late += 1
            late = self._late(apply, args, kwargs)
            loop.call_soon(_begin, loop, late, context=Context())
            raise BackendConnectionError("the connection is lost")
        answer = await apply(*args, **kwargs)
        if fate is Fate.TWICE:
            again = await apply(*args, **kwargs)
            if name == "complete":
                self._extra.refused += _refused(args[0], answer, again)
        await self._transit()
        if fate is Fate.AFTER:
            raise BackendConnectionError("the connection is lost")
        self._world.tell(self._process.name, name, "answered")
        return answer

    def _fate(self, name: str) -> Fate:
        rng = self._world.rng
        if rng.random() >= self.weather.fails:
            return Fate.GOOD
        fate = BAD[int(rng.random() * len(BAD))]
        if fate in (Fate.LATER, Fate.TWICE) and name not in REPEATABLE:
            fate = Fate.AFTER
        self._world.met[f"calls {fate.value}"] += 1
        return fate

    async def _transit(self) -> None:
        rng = self._world.rng
        span = (rng.random() - 1.0 + self.weather.lag) * 0.01
        if self.weather.slow and rng.random() < self.weather.slow:
            span = rng.random() * 3.0
        if span > 0:
            await asyncio.sleep(span)

    async def _late(self, apply: Any, args: Any, kwargs: Any) -> None:
        await asyncio.sleep(self._world.rng.random() * 2.0)
        try:
            await apply(*args, **kwargs)
        except Exception:  # nobody waits for it
            self._world.met["late calls refused"] += 1
        finally:
            self.late -= 1


def _refused(outcomes: Sequence[Outcome], first: Completed, second: Completed) -> list[Held]:
    """The successes that were accepted, and not when they came again."""
    successes = {one.held for one in outcomes if isinstance(one, Succeeded)}
    return sorted((successes - set(first.stale)) & set(second.stale))


def _begin(loop: Any, work: Any) -> None:
    loop.create_task(work, name=LATE)


def _announced(outcome: Outcome, now: float) -> Sent:
    due = None
    if isinstance(outcome, Retried | Released):
        due = now if outcome.at is None else (outcome.at - EPOCH).total_seconds()
    return Sent(*outcome.held, type(outcome).__name__, now, due)
