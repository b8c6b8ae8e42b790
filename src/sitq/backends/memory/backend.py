"""The contract of `Backend` in readable Python: for tests, for a first try, and to measure others by.

Everything lives in this process and ends with it. One lock, held for the whole of each call and never across
an await, makes each call atomic and lets `heartbeat` come from another thread.
"""

import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count, islice

from sitq.backends.base import Backend, Bells, Signal, join
from sitq.backends.memory import records
from sitq.backends.memory.edges import Edges
from sitq.backends.memory.keys import Keys
from sitq.backends.memory.limits import Limits
from sitq.backends.memory.notes import Notes
from sitq.clock import Clock, SystemClock
from sitq.errors import BackendConnectionError, ParentNotFoundError, QueueFullError
from sitq.model import (
    Completed,
    Crashed,
    Edge,
    Enqueued,
    Failed,
    Heartbeat,
    Held,
    NewNote,
    NewTask,
    Note,
    NoteKind,
    Outcome,
    QueueStats,
    Reserved,
    ReservedTask,
    Retried,
    Stats,
    Status,
    TaskId,
    TaskQuery,
    TaskRecord,
    Topic,
    WorkerInfo,
    WorkerRecord,
    leads_to,
)

type _Turn = tuple[int, datetime, int, TaskId]

_IN_TURN = frozenset({Status.PENDING, Status.RUNNING})
_DEAD_FOR = timedelta(days=1)
"""How long a dead worker is remembered."""


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
        self._kept_failed: dict[TaskId, timedelta] = {}
        self._turns: list[_Turn] = []  # the tasks that wait for nobody, sorted: the order of `reserve`
        self._pending: Counter[str] = Counter()  # tasks by queue
        self._keys = Keys()
        self._limits = Limits()
        self._edges = Edges()
        self._notes = Notes()
        self._paused: set[str] = set()
        self._workers: dict[str, WorkerRecord] = {}  # longest known first
        self._documents: dict[str, bytes] = {}
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

    async def enqueue(
        self, tasks: Sequence[NewTask], *, max_pending: Mapping[str, int] | None = None
    ) -> list[Enqueued]:
        with self._opened():
            now = self._clock.now()
            # What is wrong with a task shows here, and a full queue below, before the first one is stored.
            batch = [records.created(task, next(self._seqs), now) for task in tasks]
            plan = self._plan(tasks, batch, now)
            self._check_room(plan, max_pending or {})
            rings = [
                self._store(task, record, answer, now)
                for task, (record, answer) in zip(tasks, plan, strict=True)
            ]
        self._ring_queues(queue for queue in rings if queue is not None)
        return [answer for _, answer in plan]

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
            reserved = [
                self._hand_out(task, worker, now, lease) for task in self._choose(queues, ids, limit, now)
            ]
            if len(reserved) < limit:
                # After the handing out, so that what was taken counts with the end of its lease.
                opening = (self._limits.opens_at(task) for task in self._agenda(queues))
                next_due_at = min((at for at in opening if at is not None), default=None)
        return Reserved(reserved, next_due_at)

    async def heartbeat(
        self,
        worker: str,
        held: Sequence[Held],
        lease: timedelta,
        *,
        notes: Sequence[NewNote] = (),
        info: WorkerInfo | None = None,
    ) -> Heartbeat:
        lost: set[Held] = set()
        cancelled: set[Held] = set()
        with self._opened():
            now = self._clock.now()
            for hold in held:
                task = self._running(hold)
                if task is None:
                    lost.add(hold)
                    continue
                self._put(replace(task, due_at=now + lease))
                if task.cancel_requested:
                    cancelled.add(hold)
            noted = self._write_down(notes, now)
            if info is not None and lease:
                self._workers[worker] = WorkerRecord(
                    id=worker, info=info, seen_at=now, alive_until=now + lease
                )
            elif info is not None:
                self._workers.pop(worker, None)
        self._bells.ring_tasks(noted)
        return Heartbeat(frozenset(lost), frozenset(cancelled))

    async def complete(self, outcomes: Sequence[Outcome], *, notes: Sequence[NewNote] = ()) -> Completed:
        stale: list[Held] = []
        changed: list[TaskRecord] = []
        with self._opened():
            now = self._clock.now()
            noted = self._write_down(notes, now)
            for outcome in outcomes:
                task = self._tasks.get(outcome.held.id)
                if task is None or task.fence != outcome.held.fence:
                    stale.append(outcome.held)
                elif records.is_held(task):
                    if isinstance(outcome, Retried | Crashed):
                        self._notes.write(task, NoteKind.ATTEMPT, outcome.error, now)
                        noted.add(task.id)
                    if isinstance(outcome, Failed):
                        self._kept_failed[task.id] = outcome.keep_for
                    task = records.after(task, outcome, now)
                    changed.append(self._put(records.placed(task, waits=self._edges.waits(task.id))))
                elif records.come_to(task) is not leads_to(outcome, task.cancel_requested):
                    stale.append(outcome.held)
                # Else it was sent again because the reply was lost: accepted, and nothing is left to do.
            self._stale_outcomes += len(stale)
            let_in = self._queues_that_wait_for(changed)
            changed += self._follow(changed, now)
        self._bells.ring_tasks(noted.union(task.id for task in changed if task.status.finished))
        self._ring_queues(let_in.union(task.queue for task in changed if task.status is Status.PENDING))
        return Completed(len(outcomes) - len(stale), tuple(stale))

    async def cancel(self, ids: Collection[TaskId]) -> dict[TaskId, Status]:
        ended: list[TaskRecord] = []
        with self._opened():
            now = self._clock.now()
            for task in self._known(ids):
                if task.status is Status.RUNNING:
                    self._put(replace(task, cancel_requested=True))
                elif not task.status.finished:
                    ended.append(self._put(records.finished(task, Status.CANCELLED, now)))
            changed = ended + self._follow(ended, now)
            answer = {task.id: task.status for task in self._known(ids)}
        self._bells.ring_tasks(task.id for task in changed if task.status.finished)
        self._ring_queues(task.queue for task in changed if task.status is Status.PENDING)
        if Status.RUNNING in answer.values():
            self._bells.ring_cancels()
        return answer

    async def requeue(self, ids: Collection[TaskId]) -> list[TaskId]:
        again: list[TaskRecord] = []
        with self._opened():
            now = self._clock.now()
            for task in sorted(self._known(ids), key=lambda task: task.seq):
                if task.status not in (Status.FAILED, Status.CANCELLED) or self._edges.refused(task.id):
                    continue
                if self._keys.take(task, now):
                    self._notes.write(task, NoteKind.REQUEUED, task.error or b"", now)
                    self._limits.expect(task)
                    new_run = records.requeued(task, now)
                    again.append(self._put(records.placed(new_run, waits=self._edges.waits(task.id))))
        self._bells.ring_tasks(task.id for task in again)
        self._ring_queues(task.queue for task in again if task.status is Status.PENDING)
        return [task.id for task in again]

    async def find(self, query: TaskQuery) -> list[TaskRecord]:
        with self._opened():
            newest_first: Iterable[TaskRecord] = reversed(self._tasks.values())
            if query.ids is not None:
                newest_first = sorted(self._known(query.ids), key=lambda task: -task.seq)
            found = list(islice((task for task in newest_first if records.matches(task, query)), query.limit))
        if query.with_bytes:
            return found
        return [replace(task, payload=None, result=None, error=None) for task in found]

    async def notes(self, task_id: TaskId, *, after: int = 0, limit: int = 1_000) -> list[Note]:
        with self._opened():
            return self._notes.read(task_id, after, limit)

    def listen(self, topics: Collection[Topic]) -> AbstractAsyncContextManager[Signal]:
        with self._opened():
            return self._bells.listen(topics)

    async def prune(self, limit: int, *, ids: Collection[TaskId] | None = None) -> int:
        with self._opened():
            now = self._clock.now()
            tasks = list(self._tasks.values()) if ids is None else self._known(ids)
            # The newest first: so what depends on others goes before them, and they may go in the same call.
            tasks.sort(key=lambda task: -task.seq)
            over = (task for task in tasks if self._may_go(task, now, by_hand=ids is not None))
            gone = [self._remove(task) for task in islice(over, limit)]
            unfinished = [task for task in self._tasks.values() if not task.status.finished]
            self._limits.forget({task.rate.key for task in unfinished if task.rate}, now)
            self._workers = {worker.id: worker for worker in self._remembered(now)}
        return len(gone)

    async def set_paused(self, queue: str, paused: bool) -> None:
        with self._opened():
            if paused:
                self._paused.add(queue)
            else:
                self._paused.discard(queue)
        if not paused:
            self._bells.ring_queues([queue])

    async def stats(self) -> Stats:
        counts: dict[str, Counter[Status]] = {}
        oldest: dict[str, datetime] = {}
        with self._opened():
            now = self._clock.now()
            for queue in self._paused:
                counts[queue] = Counter()
            for task in self._tasks.values():
                counts.setdefault(task.queue, Counter())[task.status] += 1
                if task.status is Status.PENDING and task.due_at and task.due_at <= now:
                    oldest[task.queue] = min(task.due_at, oldest.get(task.queue, now))
            queues = [
                QueueStats(name, dict(counts[name]), oldest.get(name), name in self._paused)
                for name in sorted(counts)
            ]
            return Stats(tuple(queues), self._stale_outcomes)

    async def workers(self) -> list[WorkerRecord]:
        with self._opened():
            return self._remembered(self._clock.now())

    async def save(self, documents: Mapping[str, bytes | None]) -> None:
        # What is wrong with a document shows here, before the first one is stored.
        added = {name: memoryview(data).tobytes() for name, data in documents.items() if data is not None}
        with self._opened():
            self._documents.update(added)
            for name in documents.keys() - added.keys():
                self._documents.pop(name, None)

    async def load(self, prefix: str) -> dict[str, bytes]:
        with self._opened():
            return {name: data for name, data in sorted(self._documents.items()) if name.startswith(prefix)}

    # -- Helpers; all but the last are for the holder of the lock ---------------------------------

    @contextmanager
    def _opened(self) -> Generator[None]:
        with self._lock:
            if not self._is_open:
                raise BackendConnectionError("MemoryBackend is not open: call `await backend.open()` first")
            yield

    def _known(self, ids: Collection[TaskId]) -> list[TaskRecord]:
        return [self._tasks[task_id] for task_id in dict.fromkeys(ids) if task_id in self._tasks]

    def _running(self, held: Held) -> TaskRecord | None:
        task = self._tasks.get(held.id)
        return task if task and task.fence == held.fence and records.is_held(task) else None

    def _put(self, task: TaskRecord) -> TaskRecord:
        """Store the task in place of its former self. Every change goes through here."""
        former = self._tasks.get(task.id)
        if former is not None:
            if former.status in _IN_TURN:
                del self._turns[bisect_left(self._turns, _turn(former))]
            self._pending[former.queue] -= former.status is Status.PENDING
            if former.status is Status.RUNNING and task.status is not Status.RUNNING:
                self._limits.leave(former)
        if task.status in _IN_TURN:
            insort(self._turns, _turn(task))
        self._pending[task.queue] += task.status is Status.PENDING
        self._keys.settle(task)
        if former is not None and former.status.finished is not task.status.finished:
            self._edges.settle(task)
        self._tasks[task.id] = task
        return task

    def _remove(self, task: TaskRecord) -> TaskRecord:
        del self._tasks[task.id], self._result_ttls[task.id]
        self._kept_failed.pop(task.id, None)
        self._keys.forget(task)
        self._edges.forget(task)
        self._notes.forget(task.id)
        return task

    def _follow(self, ended: Collection[TaskRecord], now: datetime) -> list[TaskRecord]:
        """Release or cancel those who waited for these, and so on, nearest first. Returns all that changed."""
        changed: list[TaskRecord] = []
        while ended:
            children = self._known(self._edges.children(ended))
            # All of them are looked at before the first one is changed.
            after = [
                records.followed(task, self._culprit(task), now)
                for task in children
                if task.status is Status.WAITING
                and (self._edges.refused(task.id) or not self._edges.waits(task.id))
            ]
            ended = [self._put(task) for task in after]
            changed += ended
        return changed

    def _culprit(self, task: TaskRecord) -> TaskId | None:
        """Because of whom a task is to be cancelled: a parent, or the one because of whom that was cancelled."""
        refused = self._edges.refused(task.id)
        return None if refused is None else self._tasks[refused].cancelled_by or refused

    def _plan(
        self, tasks: Sequence[NewTask], batch: Sequence[TaskRecord], now: datetime
    ) -> list[tuple[TaskRecord, Enqueued]]:
        """Who of the batch is new, and in which state, and who was there before it. Changes nothing."""
        plan: list[tuple[TaskRecord, Enqueued]] = []
        new: dict[TaskId, TaskRecord] = {}
        known: dict[TaskId, TaskRecord] = {}  # of the batch, each as itself or as who holds its key
        keys = Keys()  # that the batch takes
        for task, pending in zip(tasks, batch, strict=True):
            record, holder = pending, None
            if task.id in self._tasks or task.id in new:
                holder = task.id
            elif record.unique is not None:
                holder = self._keys.holder(record.unique.key, now) or keys.holder(record.unique.key, now)
            if holder is None:
                if task.edges:
                    record = self._behind(task.edges, record, known, now)
                keys.take(record, now)
                keys.settle(record)
                new[task.id] = record
            known[task.id] = record if holder is None else self._tasks.get(holder) or new[holder]
            plan.append((record, Enqueued(holder or task.id, created=holder is None)))
        return plan

    def _behind(
        self, edges: Sequence[Edge], record: TaskRecord, known: Mapping[TaskId, TaskRecord], now: datetime
    ) -> TaskRecord:
        """A new task as its parents make it: pending, waiting, or cancelled already.

        Raises:
            ParentNotFoundError: A parent is neither stored nor earlier in the batch.
        """
        parents: dict[TaskId, TaskRecord] = {}
        for edge in edges:
            found = known.get(edge.parent) or self._tasks.get(edge.parent)
            if found is None:
                raise ParentNotFoundError(edge.parent)
            parents[edge.parent] = found
        joined = join(edges, {name: parent.id for name, parent in parents.items()})
        record = replace(record, parents=tuple(edge.parent for edge in joined))
        for edge, parent in zip(joined, (parents[edge.parent] for edge in edges), strict=True):
            if parent.status.finished and parent.status not in edge.accepts:
                return records.followed(record, parent.cancelled_by or parent.id, now)
        return records.placed(record, waits=any(not each.status.finished for each in parents.values()))

    def _check_room(
        self, plan: Sequence[tuple[TaskRecord, Enqueued]], max_pending: Mapping[str, int]
    ) -> None:
        new = Counter(task.queue for task, answer in plan if answer.created and task.status is Status.PENDING)
        for queue, number in new.items():
            if queue in max_pending and self._pending[queue] + number > max_pending[queue]:
                raise QueueFullError(queue, max_pending[queue])

    def _store(self, task: NewTask, record: TaskRecord, answer: Enqueued, now: datetime) -> str | None:
        """Do what was planned for one task. Tells the queue in which work became due or moved."""
        if answer.created:
            if record.parents:
                names = {edge.parent: parent for edge, parent in zip(task.edges, record.parents, strict=True)}
                self._edges.add(record.id, join(task.edges, names), self._known(record.parents))
            self._keys.take(record, now)
            self._put(record)
            self._result_ttls[task.id] = task.result_ttl
            self._limits.expect(record)
            return record.queue if record.status is Status.PENDING else None
        holder = self._tasks[answer.id]
        never_reserved = holder.status is Status.PENDING and not holder.fence
        alone = not task.edges and not holder.parents
        if answer.id == task.id or not (task.unique and task.unique.replace and never_reserved and alone):
            return None
        return self._put(records.replaced(holder, record)).queue

    def _agenda(
        self, queues: Collection[str] | None, ids: Collection[TaskId] | None = None
    ) -> Iterator[TaskRecord]:
        """The unfinished tasks of these queues, or those of `ids` among them, in the order of `reserve`."""
        turns = self._turns
        if ids is not None:
            turns = sorted(_turn(task) for task in self._known(ids) if task.status in _IN_TURN)
        for *_, task_id in turns:
            task = self._tasks[task_id]
            if task.queue not in self._paused and (queues is None or task.queue in queues):
                yield task

    def _choose(
        self, queues: Collection[str] | None, ids: Collection[TaskId] | None, limit: int, now: datetime
    ) -> list[TaskRecord]:
        chosen: list[TaskRecord] = []
        for task in self._agenda(queues, ids):
            if len(chosen) == limit:
                break
            opens_at = self._limits.opens_at(task)
            if opens_at is not None and opens_at <= now:
                self._limits.start(task, now)  # at once: the next one of its key meets it
                chosen.append(task)
        return chosen

    def _hand_out(self, task: TaskRecord, worker: str, now: datetime, lease: timedelta) -> ReservedTask:
        return records.handed_out(self._put(records.taken(task, worker, next(self._fences), now, lease)))

    def _write_down(self, notes: Sequence[NewNote], now: datetime) -> set[TaskId]:
        noted: set[TaskId] = set()
        for note in notes:
            task = self._running(note.held)
            if task is not None:
                self._notes.write(task, note.kind, note.data, now)
                noted.add(task.id)
        return noted

    def _queues_that_wait_for(self, ended: Collection[TaskRecord]) -> set[str]:
        """The queues of those whom the end of these runs may let in."""
        keys = {task.concurrency.key for task in ended if task.concurrency is not None}
        if not keys:
            return set()
        pending = (task for task in self._agenda(None) if task.status is Status.PENDING)
        return {task.queue for task in pending if task.concurrency and task.concurrency.key in keys}

    def _may_go(self, task: TaskRecord, now: datetime, *, by_hand: bool) -> bool:
        if task.finished_at is None or self._keys.holds(task, now):
            return False
        if any(child.status is not Status.SUCCESS for child in self._known(self._edges.children([task]))):
            return False
        ttl = self._result_ttls[task.id]
        if ttl is not None and task.status is Status.FAILED:
            ttl = max(ttl, self._kept_failed.get(task.id, ttl))
        return by_hand or (ttl is not None and task.finished_at + ttl <= now)

    def _remembered(self, now: datetime) -> list[WorkerRecord]:
        return [worker for worker in self._workers.values() if now < worker.alive_until + _DEAD_FOR]

    def _ring_queues(self, queues: Iterable[str]) -> None:
        if names := set(queues):  # without any, the bell of "every queue" stays silent, too
            self._bells.ring_queues(names)


def _turn(task: TaskRecord) -> _Turn:
    assert task.due_at is not None
    return task.priority, task.due_at, task.seq, task.id
