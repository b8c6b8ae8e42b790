"""Tasks that complete themselves in a transaction of the application, and what their worker makes of that."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from sitq.backends.base import Backend, Within, finished
from sitq.clock import Clock
from sitq.errors import BackendError, TaskError, TaskStaleError
from sitq.events import Emit, ErrorAfterCompletion, StorageFailed
from sitq.failure import decode_error
from sitq.model import Failed, NewNote, Outcome, Released, Retried, Status, Succeeded, TaskQuery
from sitq.worker.judge import judge_failure
from sitq.worker.outbox import Outbox
from sitq.worker.run import Run

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Completion:
    """Between the runs of a worker and the transactions in which they complete themselves.

    Who commits is the task, and nobody tells the worker: when the run has ended it looks.
    """

    def __init__(self, worker: str, backend: Backend, outbox: Outbox, clock: Clock, emit: Emit) -> None:
        self._worker = worker
        self._backend = backend
        self._outbox = outbox
        self._now = clock.now
        self._emit = emit

    def begin(self, run: Run, connection: object, result: bytes) -> Coroutine[Any, Any, None] | None:
        """Write the success of a run into the open transaction of this connection. To be awaited if it is a coroutine;
        else it is done. Called in the coroutine or on the thread of the task.

        Raises:
            TaskStaleError: The run does not count any more.
        """
        within = self._backend.within(connection)
        work = self._write(run, within, result)
        return finished(work) if within.blocking else work

    async def _write(self, run: Run, within: Within, result: bytes) -> None:
        if run.reported:
            raise TaskStaleError(run.held.id)
        completed, said = run.completed, run.said

        def speak() -> Sequence[NewNote]:
            # What the task has said by now goes along: when it has ended, nothing is added to that.
            run.said = [*said, *self._outbox.withdraw(run.held)]
            return run.said

        run.completed = (
            result  # of a call that is cancelled nobody knows whether it was written: as if it was
        )
        try:
            if not await within.complete(Succeeded(run.held, result), notes=speak):
                raise TaskStaleError(run.held.id)
        except Exception:
            for note in run.said[len(said) :]:
                self._outbox.put(note)
            run.completed, run.said = completed, said
            raise

    async def settle(self, run: Run, outcome: Outcome) -> Outcome:
        """What to report of a run that has completed itself, from what it would be otherwise.

        A success that was committed stands, whatever came after it. One that was not is no success either, even if the
        function returned: what it wrote beside it is gone.
        """
        try:
            stands = await self._stands(run)
        except asyncio.CancelledError:  # the loop ends: whoever takes the task next finds out
            return Released(run.held)
        if stands and run.completed is not None:
            if isinstance(outcome, Failed | Retried):
                about, error = run.reserved, decode_error(outcome.error)
                told = (about.id, about.name, about.queue, about.attempt, self._worker)
                self._emit(ErrorAfterCompletion(*told, error.type, error.message))
            return Succeeded(run.held, run.completed)
        for note in run.said:
            self._outbox.put(note)
        if isinstance(outcome, Succeeded):
            forgotten = TaskError(
                "the function returned after complete_in(), and its transaction was not committed: commit it, or raise "
                "what kept you from it"
            )
            return judge_failure(run, forgotten, self._now)
        return outcome

    async def _stands(self, run: Run) -> bool:
        """Whether the success was committed. Asks until the storage answers."""
        pause = _FIRST_PAUSE
        while True:
            try:
                found = await self._backend.find(TaskQuery(ids=[run.held.id], limit=1))
            except BackendError as error:
                self._emit(StorageFailed(self._worker, "look for an outcome", str(error), pause))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                # Only what has ended is ever removed.
                return not found or (found[0].status is Status.SUCCESS and found[0].fence == run.held.fence)
