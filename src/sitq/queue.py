"""`TaskQueue`: the face of sitq. Turns calls into stored tasks, and stored tasks into results."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Never, Self, Unpack, get_args, overload

from sitq.backends import open_backend
from sitq.backends.base import Backend, Within
from sitq.carrying import ContextProvider, capture, check_providers
from sitq.checks import Duration, integer, label, seconds
from sitq.deadletters import discard_all, requeue_all, selection
from sitq.declared import Declared, declare, declared, schedule_name
from sitq.details import TaskDetails, details
from sitq.emitter import Emitter
from sitq.enqueuer import Enqueuer
from sitq.errors import QueueClosedError, TaskNotFoundError, TaskTimeoutError, ValidationError
from sitq.events import Event, EventHandler, TaskEnqueued, TaskRequeued
from sitq.executors import RunnerFactory, check_executor, check_runners
from sitq.handle import TaskHandle
from sitq.ids import new_id
from sitq.links import depends, is_linked, unfold
from sitq.model import (
    DEFAULT_MAX_CRASHES,
    DEFAULT_QUEUE,
    DEFAULT_RESULT_TTL,
    NOTES_KEPT,
    Edge,
    NewTask,
    Stats,
    Status,
    TaskId,
    TaskQuery,
    TaskRecord,
    TaskTopic,
    WorkerRecord,
    make,
)
from sitq.options import UNSET, GivenDefaults, GivenOptions, TaskOptions
from sitq.query import check_task_id, task_query
from sitq.result import Result, as_result
from sitq.schedule import Misfire, Overlap, make_schedule
from sitq.schedules import (
    ScheduleRecord,
    find_schedule,
    list_schedules,
    remove_schedule,
    save_schedules,
    schedule_id,
    set_schedule_paused,
)
from sitq.serialization import Purpose, Serializer, make_codec
from sitq.stream import Streamed, stream
from sitq.task import Call, CallCheck, Task, checked_call, has_parameter, made_call
from sitq.terms import NO_TERMS, terms
from sitq.within import TransactionEnqueuer

if TYPE_CHECKING:
    import sqlite3

    import aiosqlite

DEFAULT_PATH: Final = "sitq.db"
DEFAULT_MAX_PAYLOAD: Final = 1024 * 1024
_POLL_INTERVAL: Final = 1.0
_ALL_NOTES: Final = sum(NOTES_KEPT.values())
_SETTLE_TIMEOUT: Final = 5.0
"""How long handlers of events may take to end when the queue closes."""
_NO_OPTIONS: Final = TaskOptions()


class TaskQueue:
    """Tasks in one storage: enqueue them here, run them with a `Worker`, here or in another process.

    Use it as `async with TaskQueue("app.db") as queue`, or call `open` and `close`. It opens itself at the first use.

    Args:
        backend: Path of a SQLite file (created if missing), a URL, or a `Backend`. `sitq.db` by default.
        max_payload: Largest encoded call or result, in bytes.
        max_pending: How many tasks may be pending, for each queue or for those in a mapping by name. An `enqueue` that
            would exceed it raises `QueueFullError`. It bounds what this object enqueues; give it to all producers.
        runners: Executors of your own by name, each a factory that gets a worker's concurrency and returns a `Runner`;
            give them to all producers and workers.
        serializer: How calls and results become bytes: `cloudpickle`, `json`, `msgpack` or a `Serializer`. What another
            one wrote is refused. Give the same to producers, workers and readers.
        also_reads: Serializers whose bytes are read besides, for as long as there are tasks of theirs.
        context_providers: Carry parts of the caller's surroundings, such as context variables, structlog's or a trace,
            to the runs of tasks; see `ContextProvider`. Give the same to the queues of producers and workers.

    Attributes:
        runners: As given.
        emitter: Hands out the events of this queue and its workers; `on` adds to it.
        codec: The serializer with its limit, for workers.
        declared: The schedules that `cron` declared, by name. They are stored when the queue is opened.

    Raises:
        ValidationError: The URL, `max_payload`, `max_pending`, `runners`, `serializer`, `also_reads` or
            `context_providers` is not usable.
    """

    def __init__(
        self,
        backend: str | os.PathLike[str] | Backend = DEFAULT_PATH,
        *,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        max_pending: int | Mapping[str, int] | None = None,
        runners: Mapping[str, RunnerFactory] | None = None,
        serializer: str | Serializer = "cloudpickle",
        also_reads: Collection[str | Serializer] = (),
        context_providers: Iterable[ContextProvider] = (),
    ) -> None:
        if not isinstance(max_payload, int) or isinstance(max_payload, bool) or max_payload < 1:
            raise ValidationError(
                f"max_payload is {max_payload!r}: give a size in bytes, an int of 1 or more"
            )
        if isinstance(backend, str | os.PathLike):
            backend = open_backend(backend)
        elif not callable(getattr(backend, "reserve", None)):
            raise ValidationError(
                f"backend is a {type(backend).__qualname__}: give a path, a URL or a Backend"
            )
        self.backend: Final[Backend] = backend
        self.max_payload: Final = max_payload
        self.codec: Final = make_codec(serializer, also_reads, max_payload)
        self._max_pending: Final = _max_pending(max_pending)
        self._check = CallCheck()
        self.runners: Final = check_runners(runners)
        self.context_providers: Final = check_providers(context_providers)
        self.emitter: Final = Emitter()
        self.declared: Final[dict[str, Declared]] = {}
        self._open = False
        self._closed = False

    # -- Opening and closing -----------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, create or migrate the schema, store what `cron` declared. Idempotent; opens a closed queue again.

        Raises:
            BackendConnectionError: The storage cannot be opened; the message says why and what to do.
        """
        was_open = self._open
        await self.backend.open()
        self.emitter.bind()
        self._open, self._closed = True, False
        if self.declared:
            try:
                await self._save(self.declared.values())
            except BaseException:
                if not was_open:
                    await self.close()
                raise

    async def close(self) -> None:
        """Finish what was handed over, wait up to 5 s for handlers of events, release the storage. Idempotent."""
        await self.emitter.settle(_SETTLE_TIMEOUT)  # before, since a handler may use this queue
        self._open, self._closed = False, True
        await self.backend.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> Never:
        raise TypeError("a TaskQueue cannot travel with a task: open one inside the task, by its path")

    async def _ready(self) -> Backend:
        if not self._open:
            if self._closed:
                raise QueueClosedError(
                    "this queue is closed: use it inside its `async with`, or open it again with open()"
                )
            await self.open()
        return self.backend

    # -- Putting tasks in --------------------------------------------------------------------------

    @overload
    async def enqueue[R](self, call: Call[R], /, *, eta: datetime | None = None) -> TaskHandle[R]: ...
    @overload
    async def enqueue[R](
        self, func: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, eta: datetime | None, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue[R](
        self, func: Callable[..., R], /, *args: Any, eta: datetime | None, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue[**P, R](
        self, func: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    async def enqueue[**P, R](
        self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    async def enqueue(self, func: Any, /, *args: Any, eta: Any = None, **kwargs: Any) -> TaskHandle[Any]:
        """Store a call. When this returns the task is durable.

        Args:
            func: Any callable: `def`, `async def`, lambda, class, bound method, `@task`. Or a `call(func, ...)`, alone.
            args, kwargs: Its arguments. A handle or a `call(...)` among them, or as an element of a list, tuple or dict
                among them, stands for the result of that task: this one waits for it and gets the value. Calls become
                tasks of their own, stored together with this one. `str(handle)` passes the plain id.
            eta: Earliest start, an aware datetime. With it type checkers do not check the arguments; `options(eta=...)`
                keeps them checked and offers everything else.

        Raises:
            ValidationError: Not a callable, arguments that do not fit it, a naive `eta`.
            ParentNotFoundError: A handle among the arguments is of a task that is not in this store.
            TaskSerializationError: An argument cannot be pickled; the message names it.
            ContextProviderError: A context provider failed; the message names it.
            PayloadTooLargeError: The encoded call is larger than `max_payload`.
            QueueClosedError: The queue is closed.
            BackendError: The storage failed; unless its class says otherwise the outcome is unknown.
        """
        if isinstance(func, Call):
            options = _NO_OPTIONS if eta is None else TaskOptions(eta=eta)
            return (await self._enqueue([made_call(func, args, kwargs)], options))[0]
        if has_parameter(func, "eta"):
            raise ValidationError(
                "this function has a parameter of its own named `eta`, which enqueue() would take as "
                "the time to start: "
                "use queue.options(...).enqueue(func, ...), where every argument belongs to the function"
            )
        made: Call[Any] = Call(func, args, kwargs)
        options = _NO_OPTIONS if eta is None else TaskOptions(eta=eta)
        if is_linked(made):
            return (await self._enqueue([made], options))[0]
        carried = capture(self.context_providers) if self.context_providers else None
        task = self._new_task(made, options, carried=carried)
        backend = self.backend if self._open else await self._ready()
        bounds = None if self._max_pending is None else self._bounds([task])
        [stored] = await backend.enqueue([task], max_pending=bounds)
        if stored.created and self.emitter.wants(TaskEnqueued):
            self.emitter(TaskEnqueued(task.id, task.name, task.queue))
        return TaskHandle(stored.id, self)

    async def enqueue_many[R](self, calls: Iterable[Call[R]], /) -> list[TaskHandle[R]]:
        """Store a batch of `call(func, ...)`, all or none, in order. Errors as for `enqueue`."""
        return await self._enqueue(calls, _NO_OPTIONS)

    def options(self, **given: Unpack[GivenOptions]) -> "Enqueuer":
        """A view of this queue that enqueues with these options; see `TaskOptions` for what there is.

        Raises:
            ValidationError: An option is unknown, out of range, or contradicts another; names the option and the fix.
        """
        return Enqueuer(self._enqueue, TaskOptions(**given))

    def within(self, connection: "aiosqlite.Connection | sqlite3.Connection", /) -> TransactionEnqueuer:
        """A view of this queue that enqueues in the open transaction of your connection to the queue's file.

        The tasks are there if and only if you commit; workers are woken after it. Nothing here commits or rolls back,
        and a call that raises leaves your transaction as it was. Without an open transaction sqlite3's legacy
        transaction control begins one, as before any statement that writes. An `aiosqlite` connection does the work on
        its own thread, a `sqlite3` connection on that of the caller. No `TaskEnqueued` is told.

        Raises:
            BackendUnsupportedError: The storage is not a SQLite file. Here; the others by calls of the view, besides
                those of `enqueue`.
            ValidationError: The connection is closed, read-only, of another thread or to another file, or commits each
                statement by itself.
            QueueClosedError: The queue is not open: it cannot open itself in the middle of a transaction.
            BackendTimeoutError: The write lock was not to be had, or your transaction can no longer write.
        """
        inside = self.backend.within(connection)

        async def enqueue[R](calls: Iterable[Call[R]], options: TaskOptions) -> list[TaskHandle[R]]:
            return await self._enqueue(calls, options, inside)

        return TransactionEnqueuer(enqueue)

    async def _enqueue[R](
        self, calls: Iterable[Call[R]], options: TaskOptions, within: Within | None = None
    ) -> list[TaskHandle[R]]:
        if not isinstance(calls, Iterable):
            raise ValidationError(
                f"calls is a {type(calls).__qualname__}: give calls, as in [call(func, 1), call(func, 2)]"
            )
        calls = [checked_call(call) for call in calls]
        if options.id is not None and len(calls) > 1:
            raise ValidationError(f"id is {options.id!r} for {len(calls)} tasks: give an id to one task only")
        carried = capture(self.context_providers) if self.context_providers else None
        if not depends(options, calls):
            return await self._store(
                [self._new_task(call, options, carried=carried) for call in calls], within
            )
        steps, places = unfold(calls, options)
        handles = await self._store([self._new_task(*step, carried=carried) for step in steps], within)
        return [handles[place] for place in places]

    async def _store_within(self, tasks: list[NewTask], within: Within) -> list[TaskHandle[Any]]:
        if not self._open:
            raise QueueClosedError(
                "this queue is not open: open it before your transaction begins, since it may have to wait for it"
            )
        answers = await within.enqueue(tasks, max_pending=self._bounds(tasks)) if tasks else []
        return [TaskHandle(stored.id, self) for stored in answers]

    async def _store(self, tasks: list[NewTask], within: Within | None = None) -> list[TaskHandle[Any]]:
        if within is not None:
            return await self._store_within(tasks, within)
        backend = self.backend if self._open else await self._ready()
        if not tasks:
            return []
        answers = await backend.enqueue(tasks, max_pending=self._bounds(tasks))
        told = self.emitter.wants(TaskEnqueued)
        handles: list[TaskHandle[Any]] = []
        for task, stored in zip(tasks, answers, strict=True):
            if stored.created and told:
                self.emitter(TaskEnqueued(task.id, task.name, task.queue))
            handles.append(TaskHandle(stored.id, self))
        return handles

    def _bounds(self, tasks: list[NewTask]) -> Mapping[str, int] | None:
        if isinstance(self._max_pending, int):
            return {task.queue: self._max_pending for task in tasks}
        return self._max_pending

    def _new_task(
        self,
        call: Call[Any],
        given: TaskOptions,
        task_id: TaskId | None = None,
        edges: tuple[Edge, ...] = (),
        *,
        carried: Mapping[str, Any] | None = None,
        schedule: str | None = None,
    ) -> NewTask:
        name = self._check(call)
        func: Any = call.func
        options = given.over(func.options) if isinstance(func, Task) else given
        queue = DEFAULT_QUEUE if options.queue is None else options.queue
        known = NO_TERMS
        if options is not _NO_OPTIONS:
            known = terms(options, name=name, queue=queue, now=datetime.now(UTC))
            if known.rules.executor is not None:
                check_executor(known.rules.executor, self.runners)
        if edges and known.unique is not None and known.unique.replace:
            raise ValidationError(
                f"debounce of {name} and a task that it depends on both say when to start: give one of them"
            )
        rules = known.rules if carried is None else known.rules._replace(carried=carried)
        task_id = task_id or options.id or new_id()
        # One that may take the place of another gets that one's id.
        whose = None if known.unique is not None and known.unique.replace else task_id
        if schedule is None:
            payload = self.codec.encode_call(call, options.context, rules, whose)
        else:
            payload = self.codec.encode_call(call, options.context, rules, schedule, Purpose.SCHEDULE)
        fields = (
            task_id,
            name,
            payload,
            queue,
            0 if options.priority is None else options.priority,
            known.due_at,
            DEFAULT_MAX_CRASHES if options.max_crashes is None else options.max_crashes,
            DEFAULT_RESULT_TTL if options.result_ttl is UNSET else options.result_ttl,
            options.metadata,
            known.unique,
            known.concurrency,
            known.rate,
            edges,
        )
        return make(NewTask, fields)

    # -- Looking at them ---------------------------------------------------------------------------

    @overload
    async def get_result[R](self, task_id: TaskHandle[R], timeout: Duration | None = None) -> Result[R]: ...
    @overload
    async def get_result(self, task_id: TaskId, timeout: Duration | None = None) -> Result[Any]: ...
    async def get_result(self, task_id: TaskId, timeout: Duration | None = None) -> Result[Any]:
        """The task as it stands; with a `timeout` (seconds or timedelta) it waits for the end first.

        Raises:
            TaskNotFoundError: Unknown id, or pruned.
            TaskTimeoutError: It has not finished in time; it goes on.
            TaskSerializationError: The value cannot be read here: its module is missing, or another Python wrote it.
        """
        if timeout is None:
            record = await self._record(task_id, with_bytes=True)
        else:
            check_task_id(task_id)
            record = await self._ended(task_id, seconds(timeout, "timeout"))
        if record.cancelled_by is None:
            return as_result(record, self.codec)
        return as_result(record, self.codec, await self.backend.get_result(record.cancelled_by))

    async def _ended(self, task_id: TaskId, wait: float) -> TaskRecord:
        """The record of a task, once it has finished. Raises `TaskTimeoutError` if that takes longer than `wait`."""
        backend = await self._ready()
        deadline = asyncio.get_running_loop().time() + wait
        async with backend.listen([TaskTopic(task_id)]) as signal:
            while True:
                record = await self._record(task_id, with_bytes=True)
                if record.status.finished:
                    return record
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise TaskTimeoutError(
                        f"task {task_id} is still {record.status} after {wait:g} s; it goes on, ask again later"
                        + ("" if record.status.value == "running" else ". Does a worker take from its queue?")
                    )
                await signal.wait(min(left, _POLL_INTERVAL))
                await self._ready()

    async def get_status(self, task_id: TaskId) -> Status:
        """Where the task is in its life. Raises `TaskNotFoundError` for an unknown id."""
        return (await self._record(task_id)).status

    async def get(self, task_id: TaskId) -> TaskDetails:
        """Everything that is stored about a task, but its bytes. Raises `TaskNotFoundError` for an unknown id."""
        record = await self._record(task_id, with_bytes=True)
        return details(record, await (await self._ready()).notes(task_id, limit=_ALL_NOTES), self.codec)

    async def find(
        self,
        *,
        status: Status | Collection[Status] | None = None,
        queue: str | None = None,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[TaskRecord]:
        """List tasks, newest first. Everything given must match.

        Args:
            status: One state or several.
            since, until: Enqueued from `since` on and before `until`; aware datetimes.
            before: For the next page: the `seq` of the last record of this one.
            limit: Page size, 1 to 10,000.

        Raises:
            ValidationError: An argument is out of range, or a datetime is naive.
        """
        query = task_query(
            status=status, queue=queue, name=name, since=since, until=until, before=before, limit=limit
        )
        return await (await self._ready()).find(query)

    async def stats(self) -> Stats:
        """How many tasks of each state are in each queue."""
        return await (await self._ready()).stats()

    async def events(self, task_id: TaskId, *, after: str | None = None) -> AsyncGenerator[Streamed]:
        """What happens to a task, until it has finished: changes of state, progress, lines, partial results.

        Readable from any process. Of progress the last is kept, of lines and values the newest 1,000: that is what a
        reader who comes late will see.

        Args:
            after: The `cursor` of the last entry that the reader has had, to go on behind it.

        Raises:
            TaskNotFoundError: Unknown id, or pruned.
            ValidationError: `after` is no cursor.
            TaskSerializationError: An entry cannot be read with the serializer of this queue.
        """
        check_task_id(task_id)
        backend = await self._ready()
        entries = stream(backend, lambda: self._record(task_id, with_bytes=True), task_id, after, self.codec)
        async with aclosing(entries):  # a reader may leave early
            async for entry in entries:
                yield entry

    def on[E](self, kind: type[E], /) -> Callable[[EventHandler[E]], EventHandler[E]]:
        """Call the decorated function, plain or async, with each event of this kind, such as `TaskFailed`.

        It hears of what happens in this process: to this queue, and to workers made with it. What it raises is logged
        and hurts nobody. A plain function runs where the event happens, so it must be quick.

        Raises:
            ValidationError: Not a kind of event.
        """
        if kind not in get_args(Event.__value__):
            raise ValidationError(f"{kind!r} is no kind of event: take one from sitq.events")

        def decorate(handler: EventHandler[E]) -> EventHandler[E]:
            self.emitter.on(kind, handler)
            return handler

        return decorate

    # -- Steering ----------------------------------------------------------------------------------

    async def cancel(self, task_id: TaskId, timeout: Duration | None = None) -> Status:
        """Cancel a task: one that has not started never will; a running one is asked to stop; a finished one stays.

        A running coroutine is cancelled, a plain function sees it in `current_task().cancelled`. Whatever ends it first
        counts, so it may still succeed.

        Args:
            timeout: Wait so long (seconds or timedelta) for a running task to end.

        Returns the status after the call.

        Raises:
            TaskNotFoundError: Unknown id, or pruned.
            TaskTimeoutError: It runs on after `timeout`.
        """
        check_task_id(task_id)
        wait = None if timeout is None else seconds(timeout, "timeout")
        statuses = await (await self._ready()).cancel([task_id])
        if task_id not in statuses:
            raise TaskNotFoundError(task_id)
        if wait is None or statuses[task_id].finished:
            return statuses[task_id]
        return (await self._ended(task_id, wait)).status

    async def requeue(
        self,
        ids: TaskId | Collection[TaskId] | None = None,
        *,
        status: Status | Collection[Status] | None = None,
        queue: str | None = None,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[TaskId]:
        """Give failed and cancelled tasks a new run, with all its attempts: those with these ids, or all that match.

        Args:
            status: Failed by default.
            queue, name, since, until: As in `find`.

        Returns the ids of those that got one. A task in another state stays as it is, and so does one whose unique key
        another task holds by now, or one that depends on a task that failed and gets no new run here. Those that were
        cancelled with a task do not come back with it: `status=["failed", "cancelled"]` takes all of them.

        Raises:
            ValidationError: Neither ids nor a filter, or both.
        """
        query = selection(ids, status=status, queue=queue, name=name, since=since, until=until)
        done = await requeue_all(await self._ready(), query)
        for task in done:
            self.emitter(TaskRequeued(task.id, task.name, task.queue))
        return [task.id for task in done]

    async def discard(
        self,
        ids: TaskId | Collection[TaskId] | None = None,
        *,
        status: Status | Collection[Status] | None = None,
        queue: str | None = None,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """Delete failed and cancelled tasks, chosen as in `requeue`. Tells how many.

        One on which others depend that stay, and have not succeeded, stays as well.
        """
        query = selection(ids, status=status, queue=queue, name=name, since=since, until=until)
        return await discard_all(await self._ready(), query)

    async def pause(self, queue: str) -> None:
        """Start nothing more from this queue, in no worker, until `resume`. What runs goes on. Kept in the store."""
        await (await self._ready()).set_paused(label(queue, "queue"), True)

    async def resume(self, queue: str) -> None:
        """Start tasks from this queue again."""
        await (await self._ready()).set_paused(label(queue, "queue"), False)

    async def workers(self) -> list[WorkerRecord]:
        """The workers that were alive within the last day; one is taken for dead when its `alive_until` has passed."""
        return await (await self._ready()).workers()

    # -- What repeats ------------------------------------------------------------------------------

    def cron[F: Callable[[], Any]](
        self,
        cron: str,
        /,
        *,
        tz: str = "UTC",
        name: str | None = None,
        misfire: Misfire = "latest",
        overlap: Overlap | None = None,
        **options: Unpack[GivenDefaults],
    ) -> Callable[[F], F]:
        """Declare that a function runs by a cron expression: `@queue.cron("0 3 * * *", tz="Europe/Berlin")`.

        It stays what it is. The schedule is stored when the queue is opened, by a worker too, and from then on any
        worker of the store makes its tasks. A declaration that is taken out of the code leaves the schedule behind, for
        `remove_schedule`.

        Args:
            name: What the schedule is called; `module.qualname` or the name of the `@task` by default.
            cron, tz, misfire, overlap, options: As for `schedule`.

        Raises:
            ValidationError: The function needs arguments, another function has the name, and as for `schedule`.
        """

        def decorate(func: F) -> F:
            given = make_schedule(
                schedule_name(func, name), cron=cron, tz=tz, misfire=misfire, overlap=overlap
            )
            declare(self.declared, declared(given, Call(func, (), {}), TaskOptions(**options)))
            return func

        return decorate

    async def schedule(
        self,
        name: str,
        call: Call[Any],
        *,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        misfire: Misfire = "latest",
        overlap: Overlap | None = None,
        **options: Unpack[GivenDefaults],
    ) -> ScheduleRecord:
        """Make a call again and again. When this returns the schedule is stored; workers make its tasks.

        One with this name is replaced. If it repeats as before it goes on where it is.

        Args:
            name: 1 to 150 characters.
            call: `call(func, ...)`.
            cron: Five fields, six with seconds first, or an alias such as `@daily`. Needs the extra `cron`. Where
                clocks change, a local time that is skipped runs once, right after, and one that is repeated runs once.
            every: Seconds or a timedelta, 1 s or more, counted from 1970-01-01 00:00 UTC. Excludes `cron`.
            tz: Name of the time zone of `cron`.
            misfire: Which of the ticks run that no worker was there for: the `latest`, `all` (the newest 1,000), or
                with `skip` the latest if it is no older than 60 s.
            overlap: What becomes of a tick while the task of an earlier one has not ended: `skip` drops it, with `wait`
                it runs afterwards, with `allow` beside it. By default `skip`, and `wait` with `misfire="all"`.
            options: Of the tasks, as for `@task`; they are kept for an hour at least, whatever `result_ttl` says.

        Raises:
            ValidationError: An argument is not usable; the message names it and the fix.
            TaskSerializationError, PayloadTooLargeError, QueueClosedError, BackendError: As for `enqueue`.
        """
        given = make_schedule(name, cron=cron, every=every, tz=tz, misfire=misfire, overlap=overlap)
        new = declared(given, call, TaskOptions(**options))
        if is_linked(call):
            raise ValidationError(
                "call has a handle or a call among its arguments, and a schedule makes it again and again: enqueue "
                "what depends on each other inside the task"
            )
        backend = await self._ready()
        await self._save([new])
        return await find_schedule(backend, name, datetime.now(UTC))

    async def schedules(self) -> list[ScheduleRecord]:
        """All schedules of the store, by name. Raises `ValidationError` if one cannot be read here; it says why."""
        return await list_schedules(await self._ready(), datetime.now(UTC))

    async def pause_schedule(self, name: str) -> None:
        """Make no tasks until `resume_schedule`. Raises `ScheduleNotFoundError` for an unknown name."""
        await set_schedule_paused(await self._ready(), name, True, datetime.now(UTC))

    async def resume_schedule(self, name: str) -> None:
        """Go on with the next tick; none counts as missed. Raises `ScheduleNotFoundError` for an unknown name."""
        await set_schedule_paused(await self._ready(), name, False, datetime.now(UTC))

    async def remove_schedule(self, name: str) -> None:
        """Forget a schedule; tasks that it made stay. One that the code declares comes back when a queue is opened.

        Raises `ScheduleNotFoundError` for an unknown name.
        """
        await remove_schedule(await self._ready(), name)

    async def _save(self, new: Iterable[Declared]) -> None:
        made = [
            (one.schedule, self._new_task(one.call, one.options, schedule=schedule_id(one.schedule.name)))
            for one in new
        ]
        await save_schedules(self.backend, made, datetime.now(UTC))

    async def _record(self, task_id: TaskId, *, with_bytes: bool = False) -> TaskRecord:
        check_task_id(task_id)
        backend = await self._ready()
        found = await backend.find(TaskQuery(ids=[task_id], limit=1, with_bytes=with_bytes))
        if not found:
            raise TaskNotFoundError(task_id)
        return found[0]


def _max_pending(given: int | Mapping[str, int] | None) -> int | Mapping[str, int] | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {label(name, "max_pending"): _bound(count) for name, count in given.items()}
    return _bound(given)


def _bound(count: int) -> int:
    return integer(count, "max_pending", minimum=1, maximum=2**31)
