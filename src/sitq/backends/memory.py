"""The contract of `Backend` in readable Python: for tests, for a first try, and to measure others by.

Everything lives in this process and ends with it. One lock, held for the whole of each call and never across
an await, makes each call atomic and lets `heartbeat` come from another thread.
"""

import json
import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, islice

from sitq.backends.base import Backend, Bells, Signal
from sitq.clock import Clock, SystemClock
from sitq.errors import BackendConnectionError
from sitq.model import (
    Cancelled,
    Completed,
    Enqueued,
    Failed,
    Heartbeat,
    Held,
    NewTask,
    Outcome,
    QueueStats,
    Released,
    Reserved,
    ReservedTask,
    Retried,
    Stats,
    Status,
    Succeeded,
    TaskId,
    TaskQuery,
    TaskRecord,
    Topic,
    leads_to,
)

type _Turn = tuple[int, datetime, int, TaskId]


class MemoryBackend(Backend):
    """Tasks in dicts. Closing and opening the same object keeps them."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._bells = Bells()
        self._lock = threading.Lock()
        # The rest belongs to the holder of the lock.
        self._is_open = False
        self._tasks: dict[TaskId, TaskRecord] = {}  # oldest first
        self._result_ttls: dict[TaskId, timedelta | None] = {}
        self._turns: list[_Turn] = []  # the unfinished tasks, sorted: the order of `reserve`
        self._seqs = count(1)
        self._fences = count(1)  # of the store, not of a task: an id that is used again gets new ones
        self._stale_outcomes = 0

    async def open(self) -> None:
        with self._lock:
            self._is_open = True

    async def close(self) -> None:
        with self._lock:
            self._is_open = False
        self._bells.ring_all()

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        answers: list[Enqueued] = []
        with self._opened():
            now = self._clock.now()
            # What is wrong with a task shows here, before the first one is stored.
            records = [_record(task, next(self._seqs), now) for task in tasks]
            for task, record in zip(tasks, records, strict=True):
                created = task.id not in self._tasks
                if created:
                    self._put(record)
                    self._result_ttls[task.id] = task.result_ttl
                answers.append(Enqueued(task.id, created))
        self._ring_queues(task.queue for task, answer in zip(tasks, answers, strict=True) if answer.created)
        return answers

    async def reserve(
        self,
        worker: str,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,
        *,
        ids: Collection[TaskId] | None = None,
    ) -> Reserved:
        next_due_at = None
        with self._opened():
            now = self._clock.now()
            due = (task_id for due_at, task_id in self._agenda(queues, ids) if due_at <= now)
            reserved = [self._hand_out(task_id, worker, now, lease) for task_id in list(islice(due, limit))]
            if len(reserved) < limit:
                # After the handing out, so that what was taken counts with the end of its lease.
                next_due_at = min((due_at for due_at, _ in self._agenda(queues)), default=None)
        return Reserved(reserved, next_due_at)

    async def heartbeat(self, worker: str, held: Sequence[Held], lease: timedelta) -> Heartbeat:
        lost: set[Held] = set()
        cancelled: set[Held] = set()
        with self._opened():
            due_at = self._clock.now() + lease
            for hold in held:
                task = self._tasks.get(hold.id)
                if task is None or task.fence != hold.fence or task.status is not Status.RUNNING:
                    lost.add(hold)
                    continue
                self._put(replace(task, due_at=due_at))
                if task.cancel_requested:
                    cancelled.add(hold)
        return Heartbeat(frozenset(lost), frozenset(cancelled))

    async def complete(self, outcomes: Sequence[Outcome]) -> Completed:
        stale: list[Held] = []
        changed: list[TaskRecord] = []
        with self._opened():
            now = self._clock.now()
            for outcome in outcomes:
                task = self._tasks.get(outcome.held.id)
                if task is None or task.fence != outcome.held.fence:
                    stale.append(outcome.held)
                elif task.status is Status.RUNNING:
                    changed.append(self._put(_after(task, outcome, now)))
                elif task.status is not leads_to(outcome, task.cancel_requested):
                    stale.append(outcome.held)
                # Else it was sent again because the reply was lost: accepted, and nothing is left to do.
            self._stale_outcomes += len(stale)
        self._bells.ring_tasks(task.id for task in changed if task.status.finished)
        self._ring_queues(task.queue for task in changed if not task.status.finished)
        return Completed(len(outcomes) - len(stale), tuple(stale))

    async def cancel(self, ids: Collection[TaskId]) -> dict[TaskId, Status]:
        ended: list[TaskId] = []
        with self._opened():
            now = self._clock.now()
            for task in self._known(ids):
                if task.status is Status.RUNNING:
                    self._put(replace(task, cancel_requested=True))
                elif not task.status.finished:
                    self._put(_finished(task, Status.CANCELLED, now))
                    ended.append(task.id)
            answer = {task.id: task.status for task in self._known(ids)}
        self._bells.ring_tasks(ended)
        return answer

    async def find(self, query: TaskQuery) -> list[TaskRecord]:
        with self._opened():
            newest_first: Iterable[TaskRecord] = reversed(self._tasks.values())
            if query.ids is not None:
                newest_first = sorted(self._known(query.ids), key=lambda task: -task.seq)
            found = list(islice((task for task in newest_first if _matches(task, query)), query.limit))
        if query.with_bytes:
            return found
        return [replace(task, payload=None, result=None, error=None) for task in found]

    def listen(self, topics: Collection[Topic]) -> AbstractAsyncContextManager[Signal]:
        with self._opened():
            return self._bells.listen(topics)

    async def prune(self, limit: int) -> int:
        with self._opened():
            now = self._clock.now()
            expired = [task.id for task in self._tasks.values() if self._has_expired(task, now)][:limit]
            for task_id in expired:
                del self._tasks[task_id], self._result_ttls[task_id]
        return len(expired)

    async def stats(self) -> Stats:
        counts: dict[str, Counter[Status]] = {}
        oldest: dict[str, datetime] = {}
        with self._opened():
            now = self._clock.now()
            for task in self._tasks.values():
                counts.setdefault(task.queue, Counter())[task.status] += 1
                if task.status is Status.PENDING and task.due_at and task.due_at <= now:
                    oldest[task.queue] = min(task.due_at, oldest.get(task.queue, now))
            queues = [QueueStats(name, dict(counts[name]), oldest.get(name)) for name in sorted(counts)]
            return Stats(tuple(queues), self._stale_outcomes)

    # -- Helpers; all but the last are for the holder of the lock ---------------------------------

    @contextmanager
    def _opened(self) -> Generator[None]:
        with self._lock:
            if not self._is_open:
                raise BackendConnectionError("MemoryBackend is not open: call `await backend.open()` first")
            yield

    def _known(self, ids: Collection[TaskId]) -> list[TaskRecord]:
        return [self._tasks[task_id] for task_id in dict.fromkeys(ids) if task_id in self._tasks]

    def _put(self, task: TaskRecord) -> TaskRecord:
        """Store the task in place of its former self. Every change goes through here."""
        former = self._tasks.get(task.id)
        if former is not None and former.due_at is not None:
            del self._turns[bisect_left(self._turns, _turn(former))]
        if task.due_at is not None:
            insort(self._turns, _turn(task))
        self._tasks[task.id] = task
        return task

    def _agenda(
        self, queues: Collection[str] | None, ids: Collection[TaskId] | None = None
    ) -> Iterator[tuple[datetime, TaskId]]:
        """The unfinished tasks of these queues, or those of `ids` among them, in the order of `reserve`."""
        turns = (
            self._turns if ids is None else sorted(_turn(task) for task in self._known(ids) if task.due_at)
        )
        for _, due_at, _, task_id in turns:
            if queues is None or self._tasks[task_id].queue in queues:
                yield due_at, task_id

    def _hand_out(self, task_id: TaskId, worker: str, now: datetime, lease: timedelta) -> ReservedTask:
        task = self._tasks[task_id]
        task = self._put(
            replace(
                task,
                status=Status.RUNNING,
                worker=worker,
                fence=next(self._fences),
                attempt=task.attempt + 1,
                crashes=task.crashes + (task.status is Status.RUNNING),
                started_at=now,
                due_at=now + lease,
            )
        )
        return ReservedTask(
            id=task.id,
            fence=task.fence,
            name=task.name,
            queue=task.queue,
            payload=task.payload or b"",
            attempt=task.attempt,
            crashes=task.crashes,
            max_crashes=task.max_crashes,
            metadata=task.metadata,
            cancel_requested=task.cancel_requested,
        )

    def _has_expired(self, task: TaskRecord, now: datetime) -> bool:
        ttl = self._result_ttls[task.id]
        return ttl is not None and task.finished_at is not None and task.finished_at + ttl <= now

    def _ring_queues(self, queues: Iterable[str]) -> None:
        if names := set(queues):  # without any, the bell of "every queue" stays silent, too
            self._bells.ring_queues(names)


def _turn(task: TaskRecord) -> _Turn:
    assert task.due_at is not None
    return task.priority, task.due_at, task.seq, task.id


def _record(task: NewTask, seq: int, now: datetime) -> TaskRecord:
    # By way of JSON, as a store on disk would keep it: whatever the caller does to the object later.
    metadata = None if task.metadata is None else json.loads(json.dumps(dict(task.metadata)))
    return TaskRecord(
        seq=seq,
        id=task.id,
        name=task.name,
        queue=task.queue,
        status=Status.PENDING,
        priority=task.priority,
        attempt=0,
        crashes=0,
        max_crashes=task.max_crashes,
        fence=0,
        worker=None,
        enqueued_at=now,
        due_at=(task.due_at or now).astimezone(UTC),
        started_at=None,
        finished_at=None,
        metadata=metadata,
        payload=task.payload,
    )


def _after(task: TaskRecord, outcome: Outcome, now: datetime) -> TaskRecord:
    match outcome:
        case Succeeded(_, result):
            task = replace(task, result=result, error=None)
        case Failed(_, error) | Retried(_, _, error):
            task = replace(task, error=error)
        case Cancelled(_, error):
            # Without a reason of its own it leaves the error of the attempt before.
            task = replace(task, error=task.error if error is None else error)
        case Released():
            pass
    if task.cancel_requested or not isinstance(outcome, Retried | Released):
        return _finished(task, leads_to(outcome, task.cancel_requested), now)
    return replace(
        task,
        status=Status.PENDING,
        worker=None,
        attempt=task.attempt - isinstance(outcome, Released),
        started_at=None,
        due_at=(outcome.at or now).astimezone(UTC),
    )


def _finished(task: TaskRecord, status: Status, now: datetime) -> TaskRecord:
    return replace(task, status=status, due_at=None, finished_at=now)


def _matches(task: TaskRecord, query: TaskQuery) -> bool:
    return (
        (query.statuses is None or task.status in query.statuses)
        and (query.queue is None or task.queue == query.queue)
        and (query.name is None or task.name == query.name)
        and (query.since is None or task.enqueued_at >= query.since)
        and (query.until is None or task.enqueued_at < query.until)
        and (query.before is None or task.seq < query.before)
    )
