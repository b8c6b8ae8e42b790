"""SQLite: durable, embedded, shared by the processes of one machine through one file.

One writer thread with group commit, one reader thread with a connection of its own, a doorbell between processes.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

from sitq.backends.base import Backend, Bells, Signal
from sitq.backends.sqlite import files, queries, schema, statements
from sitq.backends.sqlite.doorbell import Doorbell, Ringer
from sitq.backends.sqlite.errors import translated
from sitq.backends.sqlite.lane import Lane, Operation
from sitq.backends.sqlite.schema import MICROSECOND, micros
from sitq.backends.sqlite.statements import Reservation, Rings
from sitq.clock import Clock, SystemClock
from sitq.errors import BackendConnectionError, BackendError, ValidationError
from sitq.model import (
    Completed,
    Enqueued,
    Heartbeat,
    Held,
    NewTask,
    Outcome,
    QueueTopic,
    Reserved,
    Stats,
    Status,
    TaskId,
    TaskQuery,
    TaskRecord,
    TaskTopic,
    Topic,
)

type Durability = Literal["full", "fast"]

MEMORY: Final = ":memory:"
_LOG_LIMIT: Final = 64 * 1024 * 1024
_LISTENER_REFRESH: Final = timedelta(seconds=60)
_LISTENER_LIFETIME: Final = timedelta(minutes=10)

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
        except ValueError as error:
            raise ValidationError(f"path is {self.path!r} ({error}): give the path of a file") from error
        lock = None if self._in_memory else self._file.with_name(self._file.name + "-lock")
        self._lock = files.WriteLock(lock, timeout=busy_timeout)
        self._opening = asyncio.Lock()
        self._open = False
        # Filled by operations and read after their commit, both on the writer's thread.
        self._rings = Rings()
        self._ringer = Ringer()
        self._bells = Bells()
        self._doorbell = Doorbell(self._bells)
        self._announced: dict[type[Topic], int] = {}
        self._refreshed_at = 0

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
        self._writer = Lane(
            self._connect_writer,
            transact=True,
            lock=self._lock,
            durable=self.durability == "full",
            after_commit=self._ring,
        )
        # A memory database belongs to its connection, so there it reads on the writer's.
        self._reader = self._writer if self._in_memory else Lane(self._connect, transact=False)
        try:
            await self._writer.start()
            if self._reader is not self._writer:
                await self._reader.start()
                await self._doorbell.open()
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
        )
        db.execute("PRAGMA temp_store = MEMORY")
        return db

    def _connect_writer(self) -> sqlite3.Connection:
        if not self._in_memory:
            files.prepare(self._file, allow_network_fs=self._allow_network_fs)
            files.warn_of_old_sqlite()
        db = self._connect()
        try:
            # Changing the journal mode does not wait for other processes that are doing the same, hence the lock.
            with self._lock.held():
                if not self._in_memory:
                    db.execute("PRAGMA journal_mode = WAL")
                db.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
                # macOS: without these a sync reaches the drive, but not what is behind the drive's cache.
                db.execute("PRAGMA fullfsync = 1")
                db.execute("PRAGMA checkpoint_fullfsync = 1")
                db.execute("PRAGMA synchronous = NORMAL")
                schema.migrate(db)
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
        if self._announced and self._doorbell.port is not None:
            await self._retire(self._doorbell.port)
        self._announced.clear()
        self._doorbell.close()
        self._bells.ring_all()
        if self._reader is not self._writer:
            await self._reader.stop()
        await self._writer.stop()
        self._ringer.close()
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

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        return await self._lane("write").run_together(
            self._store, tasks, durable=True, landed=statements.are_stored
        )

    def _store(self, db: sqlite3.Connection, batches: Sequence[Sequence[NewTask]]) -> list[list[Enqueued]]:
        self._ringer.forget(db)
        return statements.enqueue(db, batches, self._now(), self._rings)

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
            # A worker that is idle sends no heartbeats, and yet wants to be rung.
            if now - self._refreshed_at >= _LISTENER_REFRESH // MICROSECOND:
                self._refresh_listener(db, now)
            return statements.reserve(db, wanted)

        # Not synced: a reservation that is forgotten by a power loss was made by a worker that died with it.
        return await self._lane("write").run(
            take,
            landed=lambda db, reserved: statements.are_reserved(db, worker, reserved),
        )

    async def heartbeat(self, worker: str, held: Sequence[Held], lease: timedelta) -> Heartbeat:
        now = self._now()
        lease_end = now + lease // MICROSECOND

        def renew(db: sqlite3.Connection) -> Heartbeat:
            self._refresh_listener(db, now)
            return statements.heartbeat(db, held, lease_end)

        return await self._lane("write").run(renew)

    async def complete(self, outcomes: Sequence[Outcome]) -> Completed:
        now = self._now()
        return await self._change(lambda db: statements.complete(db, outcomes, now, self._rings))

    async def cancel(self, ids: Collection[TaskId]) -> dict[TaskId, Status]:
        now = self._now()
        return await self._change(lambda db: statements.cancel(db, ids, now, self._rings))

    async def find(self, query: TaskQuery) -> list[TaskRecord]:
        return await self._lane("read").run(lambda db: queries.find(db, query))

    async def prune(self, limit: int) -> int:
        now = self._now()
        return await self._lane("write").run(lambda db: statements.prune(db, now, limit))

    async def stats(self) -> Stats:
        now = self._now()
        return await self._lane("read").run(lambda db: queries.stats(db, now))

    async def _change[T](self, operation: Operation[T]) -> T:
        """Run an operation that is acknowledged as durable and may ring."""

        def change(db: sqlite3.Connection) -> T:
            self._ringer.forget(db)
            return operation(db)

        return await self._lane("write").run(change, durable=True)

    def _now(self) -> int:
        return micros(self._clock.now())

    # -- Wake-ups ----------------------------------------------------------------------------------

    def listen(self, topics: Collection[Topic]) -> AbstractAsyncContextManager[Signal]:
        return self._listen(topics)

    @asynccontextmanager
    async def _listen(self, topics: Collection[Topic]) -> AsyncGenerator[Signal]:
        await self._announce({type(topic) for topic in topics})
        async with self._bells.listen(topics) as signal:
            yield signal

    async def _announce(self, kinds: set[type[Topic]]) -> None:
        """Tell the other processes that this one wants to be rung, if they do not know it already."""
        now = self._now()
        oldest = now - _LISTENER_REFRESH // MICROSECOND
        lane = self._lane("write")
        if self._doorbell.port is None or all(self._announced.get(kind, 0) > oldest for kind in kinds):
            return
        self._announced.update(dict.fromkeys(kinds, now))
        try:
            await lane.run(partial(self._refresh_listener, now=now))
        except BaseException:  # a caller that left, above all: who knows whether it was told
            self._announced.update(dict.fromkeys(kinds, 0))
            raise

    def _refresh_listener(self, db: sqlite3.Connection, now: int) -> None:
        if not self._announced or self._doorbell.port is None:
            return
        self._refreshed_at = now
        db.execute(
            "INSERT OR REPLACE INTO sitq_listeners (port, token, queues, tasks, seen_at) VALUES (?, ?, ?, ?, ?)",
            (
                self._doorbell.port,
                self._doorbell.token,
                QueueTopic in self._announced,
                TaskTopic in self._announced,
                now,
            ),
        )
        outlived = now - _LISTENER_LIFETIME // MICROSECOND
        db.execute("DELETE FROM sitq_listeners WHERE seen_at < ?", (outlived,))

    def _ring(self, db: sqlite3.Connection) -> None:
        rings, self._rings = self._rings, Rings()
        if not rings.queues and not rings.tasks:
            return
        self._bells.ring_queues(rings.queues)
        self._bells.ring_tasks(rings.tasks)
        if self._in_memory:
            return
        try:
            self._ringer.ring(db, self._doorbell.port, rings.queues, rings.tasks)
        except sqlite3.Error:
            logger.debug("could not ring the other processes; they will poll", exc_info=True)


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
