"""One database thread with one connection, and the group commit.

Callers hand over operations (plain functions of a connection) and await their results. A drain on the
database thread takes all that waits, runs it as one transaction, and answers in one call back to each event
loop. So a hundred callers pay one thread hop and one fsync, and a lone caller pays one hop too.

A caller that is cancelled abandons the wait, never a transaction: nothing awaits between BEGIN and COMMIT.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

import aiosqlite

from sitq.backends.sqlite.errors import commit_unknown, translated
from sitq.backends.sqlite.files import WriteLock
from sitq.backends.sqlite.place import Place
from sitq.errors import BackendConnectionError, BackendTimeoutError
from sitq.model import make

type Operation[T] = Callable[[sqlite3.Connection], T]
type Together[A, T] = Callable[[sqlite3.Connection, Sequence[A]], Sequence[T]]
type Settled = tuple[asyncio.Future[Any], Any, BaseException | None]

logger = logging.getLogger("sitq.sqlite")

MAX_GROUP: Final = 512


class Job(NamedTuple):
    together: Together[Any, Any]
    argument: Any
    future: asyncio.Future[Any]
    durable: bool
    landed: Callable[[sqlite3.Connection, Any], bool] | None

    def run(self, db: sqlite3.Connection) -> Any:
        return self.together(db, [self.argument])[0]

    def repeat(self, db: sqlite3.Connection, answer: Any) -> Any:
        """Run it again, unless what it did the first time is in the file after all."""
        return answer if self.landed is not None and self.landed(db, answer) else self.run(db)


class Lane:
    """Runs operations on a thread of its own, in the order in which they were handed over.

    Args:
        connect: Opens the connection; called on the database thread, and again after a commit whose outcome is unknown.
        transact: Run what waits as one write transaction. Without it each operation runs by itself, for reading.
        lock: Held around each write transaction, so that processes take turns.
        place: Looked at before callers are answered: what is in a file that nobody finds any more is not told.
        durable: Sync the log to the disk when an operation asks for it.
        after_commit: Called on the database thread when a transaction is committed, before its callers are answered.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        transact: bool,
        lock: WriteLock | None = None,
        place: Place | None = None,
        durable: bool = True,
        after_commit: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        self._connect = connect
        self._after_commit = after_commit
        self._transact = transact
        self._lock = lock or WriteLock(None)
        self._place = place or Place(None)
        self._durable = durable
        self._synced = False
        self._pid = os.getpid()
        self._open = False
        self._suspect = False
        self._refused: BaseException | None = None
        # The loop that promised the next drain. Not a flag: a loop that is blocked by user code must not keep another
        # one, such as the heartbeat's, from having its operations run.
        self._promised: asyncio.AbstractEventLoop | None = None
        self._jobs: deque[Job] = deque()
        self._db: sqlite3.Connection
        self._thread = aiosqlite.Connection(self._first_connect, iter_chunk_size=64)

    async def start(self) -> None:
        """Start the thread and connect. Raises what `connect` raises."""
        watch(self._thread)
        await self._thread
        if self._refused is not None:
            await self._thread.close()
            raise self._refused
        self._open = True

    async def stop(self) -> None:
        """Finish what was handed over, then close the connection and end the thread."""
        if not self._open:
            return
        self._open = False
        if os.getpid() != self._pid:  # a forked child must not touch its parent's connection
            return
        # The thread serves its queue in order, so the close comes after every drain that was asked for.
        self._send(self._drain)
        self._send(self._close_connection)
        await self._thread.close()

    async def run[T](
        self,
        operation: Operation[T],
        *,
        durable: bool = False,
        landed: Callable[[sqlite3.Connection, T], bool] | None = None,
    ) -> T:
        """Run `operation` on the database thread and return what it returns; its transaction is committed by then.

        `durable` asks that the commit survives power loss. Callable from any event loop.

        After a commit whose outcome is unknown the operation runs again. One that would not answer the same has
        `landed`, which tells whether what it answered the first time is in the file.
        """
        return await self.run_together(lambda db, _: [operation(db)], None, durable=durable, landed=landed)

    def run_together[A, T](
        self,
        operation: Together[A, T],
        argument: A,
        *,
        durable: bool,
        landed: Callable[[sqlite3.Connection, T], bool] | None = None,
    ) -> asyncio.Future[T]:
        """As `run`, for an operation that can serve several callers at once: it gets the arguments of all those that
        handed it over one after another, and returns an answer for each."""
        if not self._open or os.getpid() != self._pid:
            self.check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        job = make(Job, (operation, argument, future, durable, landed))
        self._jobs.append(job)
        if not self._open:
            # Stopped from another loop after the check: unless the last drain took it, nobody will.
            try:
                self._jobs.remove(job)
            except ValueError:
                return future
            self.check()
        if self._promised is not loop:
            self._promised = loop
            # At the end of this turn of the loop, so that one hop carries what all callers of this turn have to say.
            loop.call_soon(self._send, self._drain)
        return future

    async def aside[T](self, operation: Operation[T]) -> T:
        """Run `operation` on the database thread outside of any transaction, after what was handed over before."""
        self.check()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def run(db: sqlite3.Connection, _: Sequence[None]) -> list[T]:
            return [operation(db)]

        self._send(lambda: answer([self._run_alone(Job(run, None, future, False, None))]))
        return await future

    def check(self) -> None:
        """Raise `BackendConnectionError` if it is not open, or was opened in another process."""
        if os.getpid() != self._pid:
            raise BackendConnectionError(
                f"this connection was opened in process {self._pid} and is used in process "
                f"{os.getpid()}: SQLite connections "
                "do not survive a fork. Open a new TaskQueue in the child process"
            )
        if not self._open:
            raise BackendConnectionError("the SQLite backend is not open: call open() or use `async with`")

    def _send(self, function: Callable[[], Any]) -> None:
        # The one private touch on aiosqlite. Its public methods are one statement a hop, and `_execute` is a
        # coroutine and so needs a task; a queue item without a future is what it uses itself in `stop()`.
        # Version bounded in pyproject.toml, contract in tests/unit/test_lane.py.
        self._thread._tx.put_nowait((None, function))  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]

    # -- On the database thread --------------------------------------------------------------------

    def _first_connect(self) -> sqlite3.Connection:
        # After a failure here aiosqlite ends its thread without waiting for it, and the thread answers to an event loop
        # that may be closed by then. So it gets a connection all the same, and is closed in order.
        try:
            return self._reconnect()
        except BaseException as error:
            self._refused = error
            return sqlite3.connect(":memory:", check_same_thread=False)

    def _reconnect(self) -> sqlite3.Connection:
        self._db = self._connect()
        self._suspect = self._synced = False
        return self._db

    def _close_connection(self) -> None:
        self._db.close()  # aiosqlite closes the first one, which may have been replaced

    def _drain(self) -> None:
        # Before the look: what is appended from now on schedules a drain of its own.
        self._promised = None
        while self._jobs:
            group = [self._jobs.popleft() for _ in range(min(len(self._jobs), MAX_GROUP))]
            # Nobody waits for these, and nothing of them was done yet.
            group = [job for job in group if not job.future.cancelled()]
            if group:
                answer(self._still_there(self._run_group(group)))

    def _still_there(self, settled: list[Settled]) -> list[Settled]:
        """Last, so that what is acknowledged was in a file that others find when it was committed already."""
        if not self._place.is_lost():
            return settled
        return [(future, None, self._place.error()) for future, _, _ in settled]

    def _run_group(self, group: list[Job]) -> list[Settled]:
        if not self._transact:
            return [self._run_alone(job) for job in group]
        try:
            return self._run_transaction(group)
        except CommitUnknownError as error:
            return [(job.future, None, commit_unknown(error.reason)) for job in group]
        except Exception as error:
            if len(group) == 1 or isinstance(translated(error), BackendTimeoutError):
                # The lock was not to be had: known for all of them, and another wait for each would block the rest.
                return [(job.future, None, translated(error)) for job in group]
            # One bad operation fails alone: nothing of the group was written, so each gets a transaction of its own.
            return [settled for job in group for settled in self._run_group([job])]

    def _run_alone(self, job: Job) -> Settled:
        try:
            return job.future, job.run(self._db), None
        except Exception as error:
            return job.future, None, translated(error)

    def _run_transaction(self, group: list[Job]) -> list[Settled]:
        durable = any(job.durable for job in group)
        with self._lock.held():
            try:
                settled = self._commit(group, durable)
            except CommitUnknownError as unknown:
                # The log may or may not hold the commit; a new handle sees which. Every operation may be repeated, so
                # that gives the answer that the first run could not.
                try:
                    settled = self._commit(group, durable, unknown.settled)
                except Exception as error:  # whatever it is, it does not say that nothing was written
                    raise CommitUnknownError(error, unknown.settled) from error
        if self._after_commit is not None:
            try:
                self._after_commit(self._db)
            except Exception:  # it is committed, and nothing may make its callers believe otherwise
                logger.exception("after a commit")
        return settled

    def _commit(self, group: list[Job], durable: bool, earlier: list[Settled] | None = None) -> list[Settled]:
        if self._suspect:
            self._place.forget_log()
            self._db.close()
            self._reconnect()
        db = self._db
        self._sync_on_commit(durable)
        db.execute("BEGIN IMMEDIATE")
        try:
            settled: list[Settled]
            if earlier is None:
                settled = run_all(db, group)
            else:
                pairs = zip(group, earlier, strict=True)
                settled = [(job.future, job.repeat(db, answer), None) for job, (_, answer, _) in pairs]
        except BaseException as error:
            self._roll_back()
            # One that was opened for reading alone remains so, although the next one may be able to write.
            self._suspect |= is_read_only(error)
            raise
        try:
            commit(db)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
                self._roll_back()  # refused before the commit mark was written: a known outcome
                raise
            self._suspect = True
            raise CommitUnknownError(error, settled) from error
        return settled

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:  # some errors roll back by themselves
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._suspect = True

    def _sync_on_commit(self, wanted: bool) -> None:
        wanted = wanted and self._durable
        if wanted is not self._synced:
            self._db.execute(f"PRAGMA synchronous={'FULL' if wanted else 'NORMAL'}")
            self._synced = wanted


class CommitUnknownError(Exception):
    """COMMIT failed in a way that leaves open whether the transaction is in the log."""

    def __init__(self, reason: Exception, settled: list[Settled]) -> None:
        super().__init__(reason, settled)
        self.reason = reason
        self.settled = settled


def run_all(db: sqlite3.Connection, group: Iterable[Job]) -> list[Settled]:
    settled: list[Settled] = []
    for together, alike in groupby(group, attrgetter("together")):
        jobs = list(alike)
        answers = together(db, [job.argument for job in jobs])
        settled += [(job.future, answer, None) for job, answer in zip(jobs, answers, strict=True)]
    return settled


def is_read_only(error: BaseException) -> bool:
    """Whether the connection cannot write. BEGIN does not tell that."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY


def commit(db: sqlite3.Connection) -> None:
    db.execute("COMMIT")


def answer(settled: Iterable[Settled]) -> None:
    """Hand results to the event loops that wait for them, one call a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Settled]] = {}
    for entry in settled:
        by_loop.setdefault(entry[0].get_loop(), []).append(entry)
    for loop, entries in by_loop.items():
        try:
            loop.call_soon_threadsafe(resolve, entries)
        except RuntimeError:  # the loop is closed: whoever waited there is gone
            pass


def resolve(entries: Iterable[Settled]) -> None:
    for future, value, error in entries:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


# -- A forgotten close must not hang the interpreter ----------------------------------------------

# aiosqlite's thread is not a daemon, so the interpreter would wait for it for ever. A daemon thread notices
# the end of the main thread, which comes before that wait, and stops what is still open. One per process,
# hence module state.
_unclosed: "weakref.WeakSet[aiosqlite.Connection]" = weakref.WeakSet()
_watching_pid: int | None = None


def watch(connection: aiosqlite.Connection) -> None:
    global _watching_pid  # noqa: PLW0603
    _unclosed.add(connection)
    if _watching_pid != os.getpid():
        _watching_pid = os.getpid()
        threading.Thread(target=_stop_unclosed, name="sitq-exit", daemon=True).start()


def _stop_unclosed() -> None:
    threading.main_thread().join()
    for connection in list(_unclosed):
        connection.stop()  # pyright: ignore[reportUnknownMemberType]
