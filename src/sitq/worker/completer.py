"""Outcomes on their way to the storage, in batches.

One batch is on its way at a time; what is reported meanwhile forms the next one. So a busy worker writes
large batches and an idle one writes at once, without a timer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import Context
from typing import Final

from sitq.backends.base import Backend
from sitq.errors import BackendError
from sitq.events import Emit, OutcomeRefused, StorageFailed
from sitq.failure import encode_error
from sitq.model import DEFAULT_KEEP_FAILED, Completed, Failed, Held, NewNote, Outcome, TaskId
from sitq.serialization import Purpose

MAX_BATCH: Final = 500
HIGH_WATER: Final = 2_000
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


type Late = Callable[[Collection[Held]], Awaitable[list[NewNote]]]
type Seal = Callable[[bytes, TaskId, Purpose], bytes]


class Completer:
    """Writes outcomes. Never gives one up while the storage is away: it tries again until it is told to stop.

    Args:
        late: Waits for notes of these runs that are on their way, and returns those that came back.
        seal: Makes of an error what is stored.
    """

    def __init__(
        self, worker: str, backend: Backend, emit: Emit, *, late: Late | None = None, seal: Seal | None = None
    ) -> None:
        self._worker = worker
        self._backend = backend
        self._emit = emit
        self._late = late
        self._seal = seal
        self._waiting: list[Outcome] = []
        self._notes: dict[Held, Sequence[NewNote]] = {}
        self._stored = 0
        self._progress = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self.on_settled: Callable[[], object] | None = None

    def put(self, outcome: Outcome, notes: Sequence[NewNote] = ()) -> None:
        """Take over an outcome, and what its task has said and is not stored yet. Returns at once."""
        self._waiting.append(outcome)
        if notes:
            self._notes[outcome.held] = notes
        if self._writing is None:
            # A context of its own: this is called from inside a task's run, whose context must not spread.
            self._writing = asyncio.get_running_loop().create_task(
                self._write_all(), name="sitq-completer", context=Context()
            )

    def unsettled(self) -> bool:
        """True while an outcome is on its way. At the end of that `on_settled` is called."""
        return bool(self._waiting)

    def congested(self) -> bool:
        """True when so much waits that no new work should be taken."""
        return len(self._waiting) >= HIGH_WATER

    async def settled(self) -> bool:
        """Wait until what was put by now is stored, whatever follows it. False if the writing ended without that."""
        target = self._stored + len(self._waiting)
        while self._stored < target and self._writing is not None:
            await self._progress.wait()
        return self._stored >= target

    async def flush(self, timeout: float) -> bool:
        """`settled`, for `timeout` seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                return await self.settled()
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Stop trying. What is not written is found again when its lease runs out."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
            self._writing = None  # one that was cancelled before its first step could not do it
            self._tell()

    async def _write_all(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._waiting:
                batch = self._waiting[:MAX_BATCH]
                if self._late is not None:
                    self._add_first(await self._late([outcome.held for outcome in batch]))
                try:
                    await self._write(batch)
                except BackendError as error:
                    self._emit(StorageFailed(self._worker, "store outcomes", str(error), pause))
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                else:
                    del self._waiting[: len(batch)]
                    if self._notes:
                        for outcome in batch:
                            self._notes.pop(outcome.held, None)
                    self._stored += len(batch)
                    self._tell()
                    pause = _FIRST_PAUSE
        finally:
            self._writing = None
            self._tell()
            if self.on_settled is not None:
                self.on_settled()

    def _tell(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def _write(self, batch: list[Outcome]) -> None:
        try:
            completed = await self._backend.complete(batch, notes=self._notes_of(batch))
        except BackendError:
            raise
        except Exception as error:
            # Not the storage but one of the outcomes: find it, and record that it could not be stored.
            if len(batch) > 1:
                for outcome in batch:
                    await self._write([outcome])
                return
            completed = await self._replace(batch[0], error)
        for held in completed.stale:
            self._emit(OutcomeRefused(held.id, held.fence, self._worker))

    def _add_first(self, notes: list[NewNote]) -> None:
        for note in reversed(notes):
            self._notes[note.held] = [note, *self._notes.get(note.held, ())]

    def _notes_of(self, batch: list[Outcome]) -> list[NewNote]:
        if not self._notes:
            return []
        return [note for outcome in batch for note in self._notes.get(outcome.held, ())]

    async def _replace(self, outcome: Outcome, error: Exception) -> Completed:
        data = encode_error(error)
        if self._seal is not None:
            data = self._seal(data, outcome.held.id, Purpose.ERROR)
        try:
            return await self._backend.complete([Failed(outcome.held, data, DEFAULT_KEEP_FAILED)])
        except BackendError:
            raise
        except Exception as second:
            # Not even that: the lease runs out, and the crash bound ends it. The others must not wait for this one.
            action = f"store the outcome of task {outcome.held.id}"
            self._emit(StorageFailed(self._worker, action, str(second), 0.0))
            return Completed(0)
