"""Who is told of commits that the application makes: sqlite3 has no hook for them.

What was written through another connection holds the write lock until its transaction is over. So the lock is tried
for, without waiting: who gets it knows that all that had been written before is committed or rolled back, and rings for
it. Which of the two does not matter, since rings are hints.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Final

from sitq.backends.sqlite.lane import Lane
from sitq.backends.sqlite.rings import Rings
from sitq.errors import BackendError

FIRST_PAUSE: Final = 0.002
LONGEST_PAUSE: Final = 0.1
PATIENCE: Final = 600.0
"""How long one transaction is watched, in seconds. Workers that poll find what it commits after that."""


class Watch:
    """One watch for all transactions of the application, which runs while any of them is open.

    Args:
        lane: Where to try for the lock.
        ring: Rings for what was committed. Called on the lane's thread.
    """

    def __init__(self, lane: Lane, ring: Callable[[sqlite3.Connection, Rings], None]) -> None:
        self._lane = lane
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: list[Rings] = []
        self._task: asyncio.Task[None] | None = None
        self._begun = False

    def add(self, rings: Rings) -> None:
        """Ring when the transaction is over that has written this. Callable from any thread."""
        with self._lock:
            self._waiting.append(rings)
            begun, self._begun = self._begun, True
        if not begun:
            try:
                self._loop.call_soon_threadsafe(self._begin)
            except RuntimeError:  # the loop is closed; `stop` looks once more, and workers poll
                pass

    async def stop(self) -> None:
        """End the watch, with a last look: a program that commits and ends at once is the common case."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])
        if self._waiting:
            with suppress(BackendError):
                await self._look()

    def _begin(self) -> None:
        # A context of its own: this may be called from inside a task's run, whose context must not spread.
        self._task = self._loop.create_task(self._watch(), name="sitq-watch", context=Context())

    async def _watch(self) -> None:
        pause, since = FIRST_PAUSE, self._loop.time()
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
            with suppress(BackendError):  # a disk that fails, say: it may be there again at the next look
                if await self._look():
                    pause, since = FIRST_PAUSE, self._loop.time()
            with self._lock:
                if self._loop.time() - since > PATIENCE:
                    self._waiting.clear()
                if not self._waiting:
                    self._begun = False
                    return

    async def _look(self) -> bool:
        return await self._lane.aside(self._ring_for_what_is_over)

    def _ring_for_what_is_over(self, db: sqlite3.Connection) -> bool:
        with self._lock:
            waiting = len(self._waiting)
        if not is_free(db):
            return False
        with self._lock:
            over, self._waiting = self._waiting[:waiting], self._waiting[waiting:]
        together = Rings()
        for rings in over:
            together.queues |= rings.queues
            together.tasks += rings.tasks
            together.cancels |= rings.cancels
        if together:
            self._ring(db, together)
        return True


def is_free(db: sqlite3.Connection) -> bool:
    """Whether nobody holds the write lock. Nothing is written, so the side lock is not needed."""
    [[timeout]] = db.execute("PRAGMA busy_timeout").fetchall()
    db.execute("PRAGMA busy_timeout = 0")
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return False
        raise
    finally:
        db.execute(f"PRAGMA busy_timeout = {timeout}")
    db.execute("ROLLBACK")
    return True
