"""One child process as its worker sees it, with the thread that speaks with it.

A thread for each, because what goes over the wire may be large and the worker's loop must not wait for it, nor must the
child while a task blocks that loop.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sitq.errors import ProcessStartError
from sitq.failure import reason
from sitq.worker.hear import hear
from sitq.worker.run import Run
from sitq.worker.spawn import Spawned, describe_end
from sitq.worker.wire import ChildSetup, Ended, Job, Said, Sign, StopAsked, Wire

_START_TIMEOUT: Final = 60.0
_FAREWELL: Final = 10.0
"""How long a child that is to end may take to do that by itself, and to take down its resources."""
_LOOK: Final = 1.0
"""How often to look whether a silent child lives: one that forked leaves its end of the wire open when it dies."""


class Died(NamedTuple):
    """The process ended in the middle of an attempt."""

    how: str


class Unstarted(NamedTuple):
    """There is no process; nothing has run."""

    error: ProcessStartError


class Unbegun(NamedTuple):
    """The process was dead already when it got the job; nothing has run."""


type Answer = Ended | Died | Unstarted | Unbegun


class _Errand(NamedTuple):
    run: Run
    job: Job
    answer: asyncio.Future[Answer]


class Child:
    """A process that is started for its first job and takes one after another.

    Made and used on the worker's loop, but for `kill`. It is over after any answer but `Ended`.

    Args:
        begin: Called on the loop when a run has begun.
        gone: Called on the loop when the process is reaped.
    """

    def __init__(
        self, setup: ChildSetup, *, begin: Callable[[Run], object], gone: Callable[["Child"], object]
    ) -> None:
        self._setup = setup
        self._begin = begin
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._spawned: Spawned | None = None
        self._killed = False
        self.served = 0
        threading.Thread(target=self._serve, name="sitq-child", daemon=True).start()

    def run(self, run: Run, job: Job) -> asyncio.Future[Answer]:
        """Give it a job; it has none at the moment."""
        self.served += 1
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._errands.put(_Errand(run, job, answer))
        return answer

    def ask_to_stop(self, run: Run) -> None:
        """Tell the task that it is to stop."""
        spawned = self._spawned
        if spawned is not None and run.stop is not None:
            try:
                spawned.wire.send(StopAsked(run.held, run.stop))
            except OSError:  # it is dead already
                pass

    def kill(self) -> None:
        """Kill the process and what it has started. Callable from any thread."""
        with self._lock:
            self._killed = True
            if self._spawned is not None:
                self._spawned.kill()

    def retire(self) -> None:
        """Let the process end when it has nothing more to do."""
        self._errands.put(None)

    # -- On its thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            errand = self._errands.get()
            if errand is None:
                return
            try:
                wire = self._start().wire
            except ProcessStartError as error:
                self._tell(errand.answer, Unstarted(error))
                return
            while errand is not None:
                answer = self._carry_out(errand)
                self._tell(errand.answer, answer)
                del errand  # or an idle child keeps the payload of its last task
                if not isinstance(answer, Ended):
                    return
                errand = self._errands.get()
            self._say_farewell(wire)
        finally:
            self._end()

    def _start(self) -> Spawned:
        """Raises `ProcessStartError`."""
        try:
            spawned = Spawned(self._setup)
        except Exception as error:
            raise ProcessStartError(f"a child process cannot be started: {reason(error)}") from error
        with self._lock:
            self._spawned = spawned
            if self._killed:
                spawned.kill()
        why = "it was not ready"
        try:
            spawned.wire.send(self._setup)
            if spawned.wire.receive(_START_TIMEOUT) is Sign.READY:
                return spawned
        except TimeoutError:
            why = f"it was not ready within {_START_TIMEOUT:g} s"
            spawned.kill()
        except (OSError, EOFError):
            why = f"it {describe_end(spawned.reap())} before it was ready"
        raise ProcessStartError(
            f"a child process cannot be started: {why}. Its stderr says why; it has to import sitq and what "
            "the worker gives it"
        )

    def _carry_out(self, errand: _Errand) -> Answer:
        spawned = self._spawned
        assert spawned is not None
        begun = False
        try:
            spawned.wire.send(errand.job)
            while True:
                match self._next(spawned):
                    case Sign.BEGAN:
                        begun = True
                        self._loop.call_soon_threadsafe(self._begin, errand.run)
                    case Said(kind, data) if begun:  # else of a thread that the task before has left behind
                        hear(errand.run, kind, data)
                    case Ended() as ended:
                        return ended
                    case _:
                        pass
        except (OSError, EOFError):
            return Died(describe_end(spawned.reap())) if begun else Unbegun()
        except Exception as error:  # of what the task itself has written to the wire, say
            return Died(f"said what cannot be read ({reason(error)}), and was killed")

    def _next(self, spawned: Spawned) -> Any:
        """The next thing that the process says. Raises `EOFError` when it is dead."""
        while True:
            try:
                return spawned.wire.receive(_LOOK)
            except TimeoutError:
                if spawned.is_dead():
                    raise EOFError from None

    def _say_farewell(self, wire: Wire) -> None:
        """Let the process end by itself, and wait for that."""
        until = time.monotonic() + _FAREWELL
        try:
            wire.send(None)
            while (left := until - time.monotonic()) > 0:
                wire.receive(left)  # the last words of threads that tasks have left behind
        except (OSError, EOFError):  # one of them is TimeoutError
            pass

    def _end(self) -> None:
        if self._spawned is not None:
            self._spawned.kill()
            self._spawned.reap()
            self._spawned.wire.close()
        try:
            self._loop.call_soon_threadsafe(self._gone, self)
        except RuntimeError:  # the worker is gone
            pass

    def _tell(self, future: asyncio.Future[Answer], answer: Answer) -> None:
        try:
            self._loop.call_soon_threadsafe(_settle, future, answer)
        except RuntimeError:  # the worker is gone; its lease runs out and another one takes the task
            pass


def _settle(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
