"""What running tasks have to say, on its way to the storage.

A task may say more than anybody can read: what it says is collected and stored a few times a second, of its progress
the last. What is left when its run ends goes along with the outcome.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Final, NamedTuple

from sitq.backends.base import Backend
from sitq.errors import BackendError
from sitq.events import Emit, StorageFailed
from sitq.model import Held, NewNote, NoteKind

FLUSH_INTERVAL: Final = 0.2
MAX_WAITING: Final = 2_000
_PAUSE_AFTER_ERROR: Final = 1.0
_PATIENCE: Final = 1.0
"""How long an outcome waits for notes of its run that are on their way."""


class _Load(list[NewNote]):
    """Notes that leave. `read` says whether the storage has come to them, which it does when nobody else can write."""

    read = False

    def __iter__(self) -> Iterator[NewNote]:
        self.read = True
        return super().__iter__()


class _Flight(NamedTuple):
    """Notes that have left and not arrived yet: of which reservations, and when it is known what became of them."""

    held: frozenset[Held]
    landed: Future[None]
    load: _Load


class Outbox:
    """Collects notes from any thread; `run` stores them. Of one task at most 2,000 wait, the newest ones."""

    def __init__(self, worker: str, backend: Backend, emit: Emit) -> None:
        self._worker = worker
        self._backend = backend
        self._emit = emit
        self._lock = threading.Lock()
        self._lines: dict[Held, deque[NewNote]] = {}
        self._progress: dict[Held, NewNote] = {}
        self._flight: _Flight | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filled = asyncio.Event()
        self._rung = False

    def put(self, note: NewNote) -> None:
        """Take over a note. Returns at once."""
        with self._lock:
            self._add(note)
            ring, self._rung = not self._rung, True
        if ring and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._filled.set)
            except RuntimeError:  # the worker is gone, and nobody holds the task any more
                pass

    def take(self, held: Held) -> list[NewNote]:
        """Return what waits of one reservation: its run has ended."""
        if not self._lines and not self._progress:  # most tasks say nothing; spares them the hash of the pair
            return []
        with self._lock:
            return self._pop(held)

    def withdraw(self, held: Held) -> list[NewNote]:
        """Take what waits of one reservation, and what has left and was not read yet: whoever calls this holds up
        everybody who would write, and ends the task then.
        """
        with self._lock:
            flight = self._flight
            gone: list[NewNote] = []
            if flight is not None and not flight.load.read:
                notes = flight.load.copy()  # which does not count as read
                gone = [note for note in notes if note.held == held]
                flight.load[:] = [note for note in notes if note.held != held]
            return gone + self._pop(held)

    async def late(self, held: Collection[Held]) -> list[NewNote]:
        """Wait, a second at most, until notes of these reservations that are on their way have arrived. Returns those
        that came back. An outcome that overtook them would make them those of a task that does not run any more.
        """
        with self._lock:  # so that what a flush has just taken is on its way
            flight = self._flight
        if flight is None or flight.held.isdisjoint(held):
            return []
        await asyncio.wait([asyncio.wrap_future(flight.landed)], timeout=_PATIENCE)
        return [note for one in held for note in self.take(one)]

    async def run(self) -> None:
        """Store what waits, `FLUSH_INTERVAL` apart, until cancelled. On a loop that no task can block."""
        self._loop = asyncio.get_running_loop()
        if self._lines or self._progress:
            self._filled.set()
        while True:
            await self._filled.wait()
            self._filled.clear()
            await asyncio.sleep(FLUSH_INTERVAL if await self.flush() else _PAUSE_AFTER_ERROR)

    async def flush(self) -> bool:
        """Store what waits. False if the storage failed: it goes on waiting."""
        landed: Future[None] = Future()
        with self._lock:
            self._rung = False
            notes = [note for held in [*self._lines, *self._progress] for note in self._pop(held)]
            if not notes:
                return True
            load = _Load(notes)
            self._flight = _Flight(frozenset(note.held for note in notes), landed, load)
        try:
            return await self._store(load)
        finally:
            self._flight = None
            landed.set_result(None)

    async def _store(self, notes: list[NewNote]) -> bool:
        try:
            await self._backend.heartbeat(self._worker, [], timedelta(), notes=notes)
        except BackendError as error:
            self._emit(StorageFailed(self._worker, "store notes", str(error), _PAUSE_AFTER_ERROR))
            self._put_back(notes)
            return False
        except Exception as error:
            # Not the storage but one of the notes, which would fail again and hold up the rest.
            action = f"store {len(notes)} notes, which are dropped"
            self._emit(StorageFailed(self._worker, action, str(error), 0.0))
        return True

    def _put_back(self, notes: Iterable[NewNote]) -> None:
        with self._lock:
            newer = [note for held in [*self._lines, *self._progress] for note in self._pop(held)]
            for note in (*notes, *newer):
                self._add(note)
            self._rung = True
        self._filled.set()

    def _add(self, note: NewNote) -> None:
        if note.kind is NoteKind.PROGRESS:
            self._progress[note.held] = note
        else:
            self._lines.setdefault(note.held, deque(maxlen=MAX_WAITING)).append(note)

    def _pop(self, held: Held) -> list[NewNote]:
        notes = list(self._lines.pop(held, ()))
        progress = self._progress.pop(held, None)
        return notes if progress is None else [*notes, progress]
