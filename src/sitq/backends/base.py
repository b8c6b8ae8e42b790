"""The one protocol of the storage, and the wake-up helper that every backend can stand on.

A backend stores opaque bytes and applies outcomes. It decides nothing: whether a task is retried, given up or
timed out is computed above it. To write a new one: implement `Backend`, run the conformance suite
(`tests/conformance`), done.
"""

import asyncio
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

from sitq.errors import BackendUnsupportedError
from sitq.model import (
    CancelTopic,
    Completed,
    Edge,
    Enqueued,
    Failed,
    Heartbeat,
    Held,
    NewNote,
    NewTask,
    Note,
    Outcome,
    QueueTopic,
    Reserved,
    Stats,
    Status,
    Succeeded,
    TaskId,
    TaskQuery,
    TaskRecord,
    TaskTopic,
    Topic,
    WorkerInfo,
    WorkerRecord,
)


class Signal:
    """A latch that rings when something may have changed.

    Subscribe, then look, then wait: a ring between the look and the wait is not lost. Rings may be spurious.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._event = asyncio.Event()
        self._rung = False

    def ring(self) -> None:
        """Ring. Callable from any thread; a second ring before the waiter woke up costs nothing."""
        if self._rung:
            return
        self._rung = True
        if threading.get_ident() == self._thread:
            self._event.set()  # at once: the waiter runs one turn earlier, together with whoever rang
            return
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the listener's loop is closed: nobody is left to be woken
            pass

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring, for `timeout` seconds at most. True if it rang; the latch is reset."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        # Reset before the caller looks again: a ring that comes during the look sets it anew.
        self._event.clear()
        self._rung = False
        return True


class Bells:
    """Who listens to what inside this process. Listeners come and go on their own loops; rings come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str | None, set[Signal]] = {}
        self._tasks: dict[TaskId, set[Signal]] = {}
        self._cancels: dict[None, set[Signal]] = {}

    @asynccontextmanager
    async def listen(self, topics: Collection[Topic]) -> AsyncGenerator[Signal]:
        signal = Signal()
        with self._lock:
            for topic in topics:
                self._place(topic).add(signal)
        try:
            yield signal
        finally:
            with self._lock:
                for topic in topics:
                    self._remove(topic, signal)

    def _place(self, topic: Topic) -> set[Signal]:
        match topic:
            case QueueTopic(queue):
                return self._queues.setdefault(queue, set())
            case TaskTopic(task_id):
                return self._tasks.setdefault(task_id, set())
            case CancelTopic():  # pragma: no branch: all kinds of topics are named, says the type checker
                return self._cancels.setdefault(None, set())

    def _remove(self, topic: Topic, signal: Signal) -> None:
        place = self._place(topic)
        place.discard(signal)
        match topic:
            case QueueTopic(queue) if not place:
                self._queues.pop(queue, None)
            case TaskTopic(task_id) if not place:
                self._tasks.pop(task_id, None)
            case _:
                pass

    def ring_queues(self, queues: Iterable[str]) -> None:
        """Work was added to these queues."""
        if self._queues:
            self._ring(self._queues, [None, *queues])

    def ring_tasks(self, task_ids: Iterable[TaskId]) -> None:
        """These tasks finished or have new notes."""
        if self._tasks:
            self._ring(self._tasks, task_ids)

    def ring_cancels(self) -> None:
        """Some running task was asked to cancel."""
        self._ring(self._cancels, [None])

    def ring_all(self) -> None:
        """Wake every listener, for a close or when it is not known what changed."""
        self._ring(self._queues, list(self._queues))
        self._ring(self._tasks, list(self._tasks))
        self.ring_cancels()

    def _ring[K](self, places: dict[K, set[Signal]], keys: Iterable[K]) -> None:
        with self._lock:
            signals = [signal for key in keys for signal in places.get(key, ())]
        for signal in signals:
            signal.ring()


def join(edges: Sequence[Edge], names: Mapping[TaskId, TaskId]) -> list[Edge]:
    """The edges by the ids that their parents really have. Those to one parent accept what all of them accept."""
    accepts: dict[TaskId, frozenset[Status]] = {}
    for parent, accepted in edges:
        name = names[parent]
        accepts[name] = accepts.get(name, accepted) & accepted
    return [Edge(names[edge.parent], accepts[names[edge.parent]]) for edge in edges]


def no_notes() -> Sequence[NewNote]:
    """Nothing to say."""
    return ()


class Within(Protocol):
    """What a storage writes in an open transaction of the application, through its connection.

    It is there if and only if the application commits; nothing here begins, commits or rolls back a transaction of the
    application. Each call is all or nothing inside it: one that raises leaves it as it was. What a commit makes due is
    rung after it, as if it had been written without the application; a rollback may ring, too.
    """

    @property
    @abstractmethod
    def blocking(self) -> bool:
        """Whether the connection blocks who calls it. Then these coroutines never wait for anything: `finished` runs
        them on the thread of the caller, with a loop or without.
        """

    @abstractmethod
    async def enqueue(
        self, tasks: Sequence[NewTask], *, max_pending: Mapping[str, int] | None = None
    ) -> list[Enqueued]:
        """As `Backend.enqueue`; durable with the commit of the application."""

    @abstractmethod
    async def complete(
        self, outcome: Succeeded, *, notes: Callable[[], Sequence[NewNote]] = no_notes
    ) -> bool:
        """As `Backend.complete`, but once only: False if the fence is not current or the task does not run any more,
        were it by the same outcome, so that what the application writes beside it is not committed twice.

        `notes` is called when nobody else can write any more, so that those are known that came in before.
        """


def finished[T](work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for anything to its end, here and now."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise RuntimeError(f"{work!r} waits, and there is nobody to wait for it")


class Backend(Protocol):
    """Durable home of tasks. Stores opaque bytes, applies outcomes, decides nothing.

    Methods take batches and are atomic: all of one call happens, or nothing. An exception other than
    `StorageFullError` and `BackendTimeoutError` from a write means its outcome is unknown; every write here
    may be repeated safely. `heartbeat` is also called from another thread's event loop than the one that
    called `open`.

    A task with edges waits until each of its parents has finished, and whatever ends the last one releases it in the
    same transaction: it is pending then, due at its `due_at` or now, and its queue is rung. A parent that ends in a
    state that the edge does not accept cancels the child at once if that is waiting, and what waits for the child, and
    so on: all in the same transaction, nearest first, and rung. Each carries the id of the first one that failed or was
    cancelled as `cancelled_by`. A parent that is retried, released or requeued has not finished.
    """

    @abstractmethod
    async def open(self) -> None:
        """Connect; create or migrate the schema under a lock. Idempotent. Refuses a schema newer than this code."""

    @abstractmethod
    async def close(self) -> None:
        """Wake every listener, finish what was handed over, release connections. Idempotent."""

    @abstractmethod
    async def enqueue(
        self, tasks: Sequence[NewTask], *, max_pending: Mapping[str, int] | None = None
    ) -> list[Enqueued]:
        """Store all or none, in order. A task whose id is already there is left as it is, `created=False`.

        A task whose unique key is held is not stored: the answer is the id of the holder, `created=False`. If it is to
        replace, and the holder was never reserved, the holder gets its payload and `due_at`; not if either of them has
        edges.

        The parents of a task that is stored are in the store, or were earlier in `tasks`: else `ParentNotFoundError` is
        raised, and nothing is stored. A parent in `tasks` that was not stored, because of its unique key, stands for
        the holder. If all parents have finished already the task is pending; if one of them in a state that is not
        accepted, the task is stored as cancelled.

        `max_pending` bounds queues by name: one that would have more pending tasks afterwards, and got a new one,
        raises `QueueFullError`, and nothing is stored. Tasks that wait do not count, and a release is never refused.

        When this returns the tasks are durable. Rings the queues that received work, after the commit.
        """

    @abstractmethod
    async def reserve(
        self,
        worker: str,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,
        *,
        ids: Collection[TaskId] | None = None,
    ) -> Reserved:
        """Hand up to `limit` tasks with `due_at <= now` to this worker: best priority first, then `due_at`, then `seq`.

        `queues=None` means every queue. `ids` narrows the choice to these tasks. Each task becomes running,
        due again when the lease ends, with attempt + 1 and a new fence. One that was already running has lost
        its lease: crashes + 1.

        Queues that are paused are passed over. So are tasks whose `concurrency` or `rate` does not allow a start now:
        each start counts at once, so one call never hands out too many; a running task whose lease ran out is not a
        start. Tasks that are held up cost later calls nothing and hold up nobody else. What ends a run lets
        the next of its key in; those of a rate come when it is their time.

        If fewer than `limit` were found, the answer says when the next task of these queues will be due, or allowed by
        its rate; what was just taken counts with the end of its lease.
        """

    @abstractmethod
    async def heartbeat(
        self,
        worker: str,
        held: Sequence[Held],
        lease: timedelta,
        *,
        notes: Sequence[NewNote] = (),
        info: WorkerInfo | None = None,
    ) -> Heartbeat:
        """Renew what is still held, from now on for `lease`. Tells what is lost and what was asked to cancel.

        `notes` are stored in order if their fence is current and their task runs, the others are dropped; their tasks
        are rung after the commit. `info` keeps the worker in the list of `workers`, alive for `lease` from now on; a
        lease of zero takes it off the list.
        """

    @abstractmethod
    async def complete(self, outcomes: Sequence[Outcome], *, notes: Sequence[NewNote] = ()) -> Completed:
        """Apply each outcome whose fence is current, all in one transaction; report the others as stale and count them.

        `notes` are stored first, as by `heartbeat`. Each `Retried` and `Crashed` leaves its error as a note.

        Sending an accepted outcome again is accepted again and changes nothing, so a lost reply may be repeated.
        A task that goes back to pending has no worker and no start any more; one that ends keeps them. A success
        clears the error of an earlier attempt.
        A crashed one stays running, without a worker, and is due now: the next `reserve` counts the crash. Until then
        it keeps its fence, but nobody holds it: another outcome under it is stale, a heartbeat finds it lost, and its
        notes are dropped. It keeps its place under a concurrency limit, as one does whose lease ran out.
        A task that was asked to cancel while running and is retried or released becomes cancelled instead of pending.
        Rings finished tasks, and queues that got work back, after the commit.
        """

    @abstractmethod
    async def cancel(self, ids: Collection[TaskId]) -> dict[TaskId, Status]:
        """Waiting and pending tasks become cancelled now and never start; running ones are flagged for `heartbeat`.

        Finished ones stay as they are. Answers with the status after the call; unknown ids are left out. Rings the
        tasks that ended, and `CancelTopic` if one runs, after the commit.
        """

    @abstractmethod
    async def requeue(self, ids: Collection[TaskId]) -> list[TaskId]:
        """Give failed and cancelled tasks a new run: pending, due now, no attempts, no crashes, no start and no end.

        Leaves a note with the error so far. A task in another state, and one whose unique key was taken by another
        meanwhile, stays as it is. Taken in the order of `seq`, each as its parents are then: with one that has not
        finished it waits, and with one that ended in a state that is not accepted it stays as it is. Children that were
        cancelled do not come back with their parent. Answers with those that were requeued, in the order of `seq`.
        Rings their queues, after the commit.
        """

    @abstractmethod
    async def find(self, query: TaskQuery) -> list[TaskRecord]:
        """The matching tasks, newest first (by `seq`), at most `query.limit`."""

    @abstractmethod
    async def notes(self, task_id: TaskId, *, after: int = 0, limit: int = 1_000) -> list[Note]:
        """The notes of a task with a position beyond `after`, oldest first. Each task keeps `NOTES_KEPT` of a kind."""

    @abstractmethod
    def listen(self, topics: Collection[Topic]) -> AbstractAsyncContextManager[Signal]:
        """A latch that rings when something under `topics` may have changed, once the context is entered.

        A hint: a ring may be spurious or lost, correctness rests on looking again.
        """

    @abstractmethod
    async def prune(self, limit: int, *, ids: Collection[TaskId] | None = None) -> int:
        """Delete up to `limit` finished tasks whose `result_ttl` has passed since they finished. Tells how many.

        Of a failed task `keep_for` counts if it is longer. What is deleted gives its space back, soon or at once.

        With `ids` these finished tasks are deleted, whatever their `result_ttl`. A task that holds a unique key until
        an instant stays until then. A task stays as long as one stays that depends on it and has not succeeded: that
        may still run, or be requeued, and needs it then. What depends on each other may go in one call. Also forgets
        workers that have been dead for a day.
        """

    @abstractmethod
    async def set_paused(self, queue: str, paused: bool) -> None:
        """From now on `reserve` passes over this queue, or takes from it again. Rings a queue that goes on."""

    @abstractmethod
    async def stats(self) -> Stats:
        """Counts per queue and state."""

    @abstractmethod
    async def workers(self) -> list[WorkerRecord]:
        """The workers that were alive within the last day, longest known first."""

    @abstractmethod
    async def save(self, documents: Mapping[str, bytes | None]) -> None:
        """Store documents under their names, all or none; None removes. For schedules and the like: few and small."""

    @abstractmethod
    async def load(self, prefix: str) -> dict[str, bytes]:
        """The documents whose name starts with `prefix`, by name, sorted."""

    def within(self, connection: object, /) -> Within:
        """What can be written in the open transaction of this connection, which belongs to the application.

        Raises:
            BackendUnsupportedError: This storage shares no transaction with anybody.
            ValidationError: Not a connection of the kind that this storage knows.
        """
        raise BackendUnsupportedError(
            f"{type(self).__name__} cannot write in a transaction of yours: a SQLite file can, in those of sqlite3 and "
            "aiosqlite connections to the same file. Nothing was written"
        )

    # -- For people who drive a backend by hand ---------------------------------------------------

    async def mark_success(self, held: Held, result: bytes) -> bool:
        """Complete one task with a result. False if the reservation was stale."""
        return (await self.complete([Succeeded(held, result)])).accepted == 1

    async def mark_failure(self, held: Held, error: bytes) -> bool:
        """Complete one task as failed. False if the reservation was stale."""
        return (await self.complete([Failed(held, error)])).accepted == 1

    async def get_result(self, task_id: TaskId) -> TaskRecord | None:
        """The record with its bytes, or None for an unknown id."""
        found = await self.find(TaskQuery(ids=[task_id], with_bytes=True))
        return found[0] if found else None
