"""SQLite: durable, embedded, shared by the processes of one machine through one file.

One writer thread with group commit, one reader thread with a connection of its own, a doorbell between processes.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, get_args

from sitq.backends.base import Backend, Bells, Signal, Within
from sitq.backends.sqlite import (
    damage,
    enqueue,
    files,
    notes,
    queries,
    registry,
    reports,
    reserve,
    schema,
    upkeep,
)
from sitq.backends.sqlite.database import Database
from sitq.backends.sqlite.errors import DamagedError, checked, translated
from sitq.backends.sqlite.lane import Lane
from sitq.backends.sqlite.listeners import Listeners
from sitq.backends.sqlite.notes import Written
from sitq.backends.sqlite.place import Place
from sitq.backends.sqlite.reports import Pulse
from sitq.backends.sqlite.reserve import Reservation
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import MICROSECOND, micros
from sitq.backends.sqlite.watch import Watch
from sitq.backends.sqlite.within import Guest, Host
from sitq.clock import Clock, SystemClock
from sitq.errors import BackendConnectionError, BackendError, SitqError, ValidationError
from sitq.model import (
    Completed,
    Enqueued,
    Heartbeat,
    Held,
    NewNote,
    NewTask,
    Note,
    Outcome,
    Reserved,
    Stats,
    Status,
    TaskId,
    TaskQuery,
    TaskRecord,
    Topic,
    WorkerInfo,
    WorkerRecord,
)

type Durability = Literal["full", "fast"]

MEMORY: Final = ":memory:"
_LOG_LIMIT: Final = 64 * 1024 * 1024

logger = logging.getLogger("sitq.sqlite")


class SQLiteBackend(Backend):
    """Tasks in one SQLite file.

    Args:
        path: The file; created if missing, readable by its owner alone. `":memory:"` is private to this object and gone
            with it: for tests.
        durability: `"full"` syncs each commit to the disk, so what was acknowledged survives power loss if the device
            honours syncs. `"fast"` does not: what was acknowledged survives the death of any process, but the
            last moments may roll back on power loss. The file stays consistent either way.
        busy_timeout: Seconds to wait for another process's write transaction before `BackendTimeoutError`.
        allow_network_fs: Open a file on a network file system all the same. Only for a single process.
        clock: Where `now` comes from.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "sitq.db",
        *,
        durability: Durability = "full",
        busy_timeout: float = 5.0,
        allow_network_fs: bool = False,
        clock: Clock | None = None,
    ) -> None:
        if durability not in get_args(Durability.__value__):
            raise ValidationError(
                f"durability is {durability!r}; choose 'full' (survives power loss) or 'fast'"
            )
        if not (isinstance(busy_timeout, int | float) and busy_timeout >= 0):
            raise ValidationError(f"busy_timeout is {busy_timeout!r}; give seconds, 0 or more")
        self.path = os.fspath(path)
        self.durability = durability
        self._busy_timeout = busy_timeout
        self._allow_network_fs = allow_network_fs
        self._clock = clock or SystemClock()
        self._in_memory = self.path == MEMORY
        # What the path means now: the folder may change, and two names of one file must share its lock.
        try:
            self._file = Path(self.path).resolve()
            beside = self._file.with_name(self._file.name + "-lock")
        except (OSError, ValueError) as error:  # a name that is too long, links that lead back
            raise ValidationError(
                f"path is {self.path!r:.200} ({error!s:.200}): give the path of a file"
            ) from error
        lock = None if self._in_memory else beside
        self._lock = files.WriteLock(lock, timeout=busy_timeout)
        self._place = Place(None if self._in_memory else self._file)
        self._opening = asyncio.Lock()
        self._open = False
        self._bells = Bells()
        self._listeners = Listeners(self._bells)

    # -- Opening and closing -----------------------------------------------------------------------

    async def open(self) -> None:
        files.check_sqlite_version()
        async with self._opening:
            if self._open:
                return
            try:
                await to_the_end(self._start())
            except asyncio.CancelledError:
                await to_the_end(self._stop())
                raise
            self._open = True

    async def _start(self) -> None:
        self._place.forget()
        self._writer = Lane(
            self._connect_writer,
            transact=True,
            lock=self._lock,
            place=self._place,
            durable=self.durability == "full",
            after_commit=lambda db: self._ring(db, self._listeners.committed()),
        )
        self._watch = Watch(self._writer, self._ring)
        # A memory database belongs to its connection, so there it reads on the writer's.
        self._reader = (
            self._writer if self._in_memory else Lane(self._connect, transact=False, place=self._place)
        )
        try:
            await self._writer.start()
            if self._reader is not self._writer:
                await self._reader.start()
                await self._listeners.doorbell.open()
        except BaseException as error:
            await self._stop()
            known = translated(error)
            if known is error:
                raise
            known.add_note(f"while opening {self.path}")
            raise known from error

    def _connect(self) -> sqlite3.Connection:
        # The lane uses it on one thread only, but closes it from another when the interpreter ends.
        db = sqlite3.connect(
            MEMORY if self._in_memory else self._file,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=Database,
        )
        db.execute("PRAGMA temp_store = MEMORY")
        return db

    def _connect_writer(self) -> sqlite3.Connection:
        if not self._in_memory and not self._place.is_known:  # else it may not be created again
            files.prepare(self._file, allow_network_fs=self._allow_network_fs)
            files.warn_of_old_sqlite()
        self._place.take_database()
        db = self._connect()
        try:
            # Changing the journal mode does not wait for other processes that are doing the same, hence the lock.
            with self._lock.held():
                if not self._in_memory:
                    schema.let_shrink(db)
                    db.execute("PRAGMA journal_mode = WAL")
                db.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
                # macOS: without these a sync reaches the drive, but not what is behind the drive's cache.
                db.execute("PRAGMA fullfsync = 1")
                db.execute("PRAGMA checkpoint_fullfsync = 1")
                db.execute("PRAGMA synchronous = NORMAL")
                schema.migrate(db)
                # SQLite opens for reading alone what it cannot open for writing at that moment, and says nothing.
                db.execute("UPDATE sitq_meta SET value = value WHERE false")
            self._place.take_log()
        except BaseException:
            db.close()
            raise
        return db

    async def close(self) -> None:
        async with self._opening:
            if self._open:
                self._open = False
                await to_the_end(self._stop())

    async def _stop(self) -> None:
        await self._watch.stop()
        if self._listeners.listed_at is not None:
            await self._retire(self._listeners.listed_at)
        self._listeners.close()
        if self._reader is not self._writer:
            await self._reader.stop()
        await self._writer.stop()
        self._listeners.silence()
        self._lock.close()

    async def _retire(self, port: int) -> None:
        """Take this process off the list of listeners. If that fails, the others find out by themselves."""
        try:
            await self._writer.run(
                lambda db: db.execute("DELETE FROM sitq_listeners WHERE port = ?", (port,)).close()
            )
        except BackendError:
            logger.debug("could not take port %s off the list of listeners", port, exc_info=True)

    def _lane(self, lane: Literal["read", "write"]) -> Lane:
        if not self._open:
            raise BackendConnectionError(
                f"the backend of {self.path} is not open: call open() or use `async with`"
            )
        return self._writer if lane == "write" else self._reader

    # -- The protocol ------------------------------------------------------------------------------

    async def enqueue(
        self, tasks: Sequence[NewTask], *, max_pending: Mapping[str, int] | None = None
    ) -> list[Enqueued]:
        if not max_pending and enqueue.are_plain(tasks):
            return await self._lane("write").run_together(
                self._store, tasks, durable=True, landed=enqueue.are_stored
            )
        done = await self._change(
            lambda db, rings: enqueue.enqueue_carefully(db, tasks, max_pending or {}, self._now(), rings),
            landed=enqueue.are_stored,
        )
        if isinstance(done, SitqError):
            raise done
        return done

    def _store(self, db: sqlite3.Connection, batches: Sequence[Sequence[NewTask]]) -> list[list[Enqueued]]:
        self._listeners.ringer.forget(db)
        return enqueue.enqueue(db, batches, self._now(), self._listeners.rings)

    async def reserve(
        self,
        worker: str,
        queues: Sequence[str] | None,
        limit: int,
        lease: timedelta,
        *,
        ids: Collection[TaskId] | None = None,
    ) -> Reserved:
        now = self._now()
        wanted = Reservation(worker, queues, ids, limit, now, now + lease // MICROSECOND)

        def take(db: sqlite3.Connection) -> Reserved:
            # A worker that is idle may send no heartbeats, and yet wants to be rung.
            self._listeners.refresh_if_old(db, now)
            return reserve.reserve(db, wanted, self._listeners.rings)

        try:
            return await self._reserve(take, worker)
        except BackendError as error:
            # One task that cannot be read, or not be taken, must not keep the others from being handed out.
            if not isinstance(error, DamagedError) and not isinstance(
                error.__cause__, sqlite3.IntegrityError
            ):
                raise
            if not await self._change(checked(lambda db, rings: damage.set_aside(db, now, rings))):
                raise
            return await self._reserve(take, worker)

    async def _reserve(self, take: Callable[[sqlite3.Connection], Reserved], worker: str) -> Reserved:
        # Not synced: a reservation that is forgotten by a power loss was made by a worker that died with it.
        return await self._lane("write").run(
            checked(take),
            landed=lambda db, reserved: reserve.are_reserved(db, worker, reserved),
        )

    async def heartbeat(
        self,
        worker: str,
        held: Sequence[Held],
        lease: timedelta,
        *,
        notes: Sequence[NewNote] = (),
        info: WorkerInfo | None = None,
    ) -> Heartbeat:
        now = self._now()
        pulse = Pulse(worker, held, notes, info, now, now + lease // MICROSECOND)

        def renew(db: sqlite3.Connection) -> tuple[Heartbeat, Written | None]:
            self._listeners.refresh(db, now)
            return reports.heartbeat(db, pulse, self._listeners.rings)

        return (await self._lane("write").run(checked(renew), landed=reports.are_noted))[0]

    async def complete(self, outcomes: Sequence[Outcome], *, notes: Sequence[NewNote] = ()) -> Completed:
        now = self._now()
        done = await self._change(
            checked(lambda db, rings: reports.complete(db, outcomes, notes, now, rings)),
            landed=reports.are_noted,
        )
        return done[0]

    async def cancel(self, ids: Collection[TaskId]) -> dict[TaskId, Status]:
        now = self._now()
        return await self._change(checked(lambda db, rings: upkeep.cancel(db, ids, now, rings)))

    async def requeue(self, ids: Collection[TaskId]) -> list[TaskId]:
        now = self._now()
        return await self._change(
            checked(lambda db, rings: upkeep.requeue(db, ids, now, rings)), landed=upkeep.are_requeued
        )

    async def find(self, query: TaskQuery) -> list[TaskRecord]:
        return await self._lane("read").run(checked(lambda db: queries.find(db, query)))

    async def notes(self, task_id: TaskId, *, after: int = 0, limit: int = 1_000) -> list[Note]:
        return await self._lane("read").run(checked(lambda db: notes.read(db, task_id, after, limit)))

    async def prune(self, limit: int, *, ids: Collection[TaskId] | None = None) -> int:
        now = self._now()
        return await self._lane("write").run(checked(lambda db: upkeep.prune(db, now, limit, ids)))

    async def set_paused(self, queue: str, paused: bool) -> None:
        await self._change(lambda db, rings: registry.set_paused(db, queue, paused, rings))

    async def stats(self) -> Stats:
        now = self._now()
        return await self._lane("read").run(checked(lambda db: queries.stats(db, now)))

    async def workers(self) -> list[WorkerRecord]:
        now = self._now()
        return await self._lane("read").run(checked(lambda db: registry.workers(db, now)))

    async def save(self, documents: Mapping[str, bytes | None]) -> None:
        await self._change(lambda db, _: registry.save(db, documents))

    async def load(self, prefix: str) -> dict[str, bytes]:
        return await self._lane("read").run(checked(lambda db: registry.load(db, prefix)))

    def within(self, connection: object, /) -> Within:
        return Guest(
            Host(
                None if self._in_memory else self._file,
                check=lambda: self._lane("write").check(),
                now=self._now,
                written=self._watched,
            ),
            connection,
        )

    def _watched(self, rings: Rings) -> None:
        self._watch.add(rings)

    async def _change[T](
        self,
        operation: Callable[[sqlite3.Connection, Rings], T],
        landed: Callable[[sqlite3.Connection, T], bool] | None = None,
    ) -> T:
        """Run an operation that is acknowledged as durable and may ring."""

        def change(db: sqlite3.Connection) -> T:
            self._listeners.ringer.forget(db)
            return operation(db, self._listeners.rings)

        return await self._lane("write").run(change, durable=True, landed=landed)

    def _now(self) -> int:
        return micros(self._clock.now())

    # -- Wake-ups ----------------------------------------------------------------------------------

    def listen(self, topics: Collection[Topic]) -> AbstractAsyncContextManager[Signal]:
        return self._listen(topics)

    @asynccontextmanager
    async def _listen(self, topics: Collection[Topic]) -> AsyncGenerator[Signal]:
        kinds = {type(topic) for topic in topics}
        lane = self._lane("write")
        announcement = self._listeners.announce(kinds, self._now())
        if announcement is not None:
            try:
                await lane.run(announcement)
            except BaseException:  # a caller that left, above all
                self._listeners.take_back(kinds)
                raise
        async with self._bells.listen(topics) as signal:
            yield signal

    def _ring(self, db: sqlite3.Connection, rings: Rings) -> None:
        self._listeners.ring_here(rings)
        if not self._in_memory:
            self._listeners.ring_others(db, rings)


async def to_the_end[T](work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if the caller is cancelled meanwhile, and raise the cancellation then.

    A thread and a connection that were opened or closed half-way would belong to nobody.
    """
    task = asyncio.ensure_future(work)
    cut_off: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cut_off = error
    if cut_off is None or task.cancelled():
        return task.result()
    task.exception()  # looked at, so that nobody is told that it was never retrieved
    raise cut_off
