"""One reserved task becomes one outcome: decode, run, judge.

A straight pipeline over one value, `Run`. Nothing that a task does may hurt the worker or another task:
whatever it raises is caught here and becomes a `Failed`, and each run has a fresh context of its own.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from sitq.context import CurrentTask, bind, running_here
from sitq.errors import SitqError
from sitq.events import (
    BackgroundTasksLeft,
    Events,
    TaskCancelled,
    TaskFailed,
    TaskLost,
    TaskReleased,
    TaskStarted,
    TaskStuck,
    TaskSucceeded,
)
from sitq.failure import ErrorInfo, decode_error, encode_error
from sitq.model import Cancelled, Failed, Held, Outcome, Released, ReservedTask, Succeeded, TaskId
from sitq.serialization import decode_call, encode_value
from sitq.task import Call
from sitq.worker.fork import end_if_forked
from sitq.worker.slots import Slots

_SWEEP_AFTER: Final = 0.05
_PUT_OFF: Final = timedelta(seconds=1)
_ENDS: Final[Mapping[type[Any], Any]] = {
    Succeeded: TaskSucceeded,
    Failed: TaskFailed,
    Cancelled: TaskCancelled,
    Released: TaskReleased,
}


class Stop(Enum):
    """Why a run is being stopped."""

    CANCEL = "somebody asked for it"
    RELEASE = "the worker stops"
    LOST = "the lease is lost"


@dataclass(slots=True, eq=False)
class Run:
    """One attempt at one task. Owned by the executor; written on the loop's thread only."""

    reserved: ReservedTask
    held: Held
    current: CurrentTask
    started: float
    task: asyncio.Task[None] | None = None
    stop: Stop | None = None
    reported: bool = False

    @property
    def duration(self) -> float:
        return time.monotonic() - self.started


class Executor:
    """Runs reserved tasks and reports an outcome for each.

    Args:
        worker: Name of the worker, for events.
        run_call: Runs a decoded call; chooses the runner.
        report: Where outcomes go. Called once for each reserved task, unless its lease was lost.
        settled: Waits until what was reported by now is stored.
        interrupted: Whether somebody cancels everything on this loop, as `asyncio.run` does at its end.
        slots: Where the slot of a run is given back when it has ended.
    """

    def __init__(
        self,
        worker: str,
        *,
        run_call: Callable[[Call[Any]], Awaitable[Any]],
        report: Callable[[Outcome], None],
        settled: Callable[[], Awaitable[object]],
        interrupted: Callable[[], bool],
        slots: Slots,
        max_payload: int,
        emit: Events,
    ) -> None:
        self._pid = os.getpid()
        self._worker = worker
        self._run_call = run_call
        self._report = report
        self._settled = settled
        self._interrupted = interrupted
        self._slots = slots
        self._max_payload = max_payload
        self._emit = emit
        self._runs: dict[Held, Run] = {}
        self._loading: tuple[list[ReservedTask], float] = ([], 0.0)
        self._drained = asyncio.Event()
        # Of runs that have ended: what every asyncio task that they created has inherited in its context. Nothing else
        # of them, since there are many.
        self._ended: list[CurrentTask] = []
        self._sweep: asyncio.TimerHandle | None = None

    # -- What the other services see ---------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many slots are taken, by tasks that were given up but do not stop too."""
        return len(self._runs)

    def held(self) -> dict[Held, float]:
        """The reservations to renew, each with the monotonic time of its start. Callable from any thread."""
        loading, since = self._loading
        running = {held: run.started for held, run in list(self._runs.items()) if not run.reported}
        return dict.fromkeys((task.held for task in loading), since) | running

    def start_all(self, tasks: list[ReservedTask]) -> None:
        """Begin attempts; the caller has taken slots for them. Loading one payload may take as long as user code likes,
        so the leases of all of them are renewed from now on.
        """
        self._loading = tasks, time.monotonic()
        for task in self._put_off(tasks):
            self.start(task)
        self._loading = [], 0.0

    def _put_off(self, tasks: list[ReservedTask]) -> list[ReservedTask]:
        """Give back those on their last chance but one, and return the others."""
        suspects = [task for task in tasks if on_last_chance(task)]
        if not suspects:
            return tasks
        if not any(on_last_chance(run.reserved) for run in self._runs.values()):
            del suspects[0]
        for task in suspects:
            self._end_unrun(task, Released(task.held, datetime.now(UTC) + _PUT_OFF))
        return [task for task in tasks if task not in suspects]

    def start(self, reserved: ReservedTask) -> asyncio.Task[None] | None:
        """Begin an attempt; the caller has taken a slot for it. None if the task is judged without being run."""
        outcome = refuse(reserved)
        if outcome is not None:
            self._end_unrun(reserved, outcome)
            return None
        try:
            call, context = decode_call(reserved.payload)
        except SitqError as error:
            self._end_unrun(reserved, Failed(reserved.held, encode_error(error)))
            return None
        held = reserved.held
        current = _current(reserved, context)
        self._runs[held] = run = Run(reserved, held, current, time.monotonic())
        # Not by `create_task`: the loop's task factory is for what user code creates. Begun at once, since a task that
        # never waits then costs no turn of the loop.
        run.task = asyncio.Task(
            self._execute(run, call),
            loop=asyncio.get_running_loop(),
            name=reserved.id,
            context=bind(current),
            eager_start=True,
        )
        return run.task

    def stop(self, held: Iterable[Held], why: Stop) -> None:
        """Stop these runs: coroutines are cancelled, threads can only be waited for. The first reason given counts."""
        for one in held:
            run = self._runs.get(one)
            if run is None or run.task is None or run.stop is not None:
                continue
            run.stop = why
            if why is Stop.LOST:
                run.reported = True
                self._emit(TaskLost(*self._about(run.reserved), run.duration))
            run.task.cancel()

    async def drain(self, timeout: float) -> bool:
        """Wait until nothing runs, for `timeout` seconds at most. True if nothing does."""
        try:
            async with asyncio.timeout(timeout):
                while self._runs:
                    self._drained.clear()
                    await self._drained.wait()
        except TimeoutError:
            return False
        return True

    def release_all(self) -> None:
        """Cancel everything that runs; each reports a release."""
        self.stop(list(self._runs), Stop.RELEASE)

    def give_up(self) -> None:
        """Report a release for what did not stop when it was cancelled. Its own outcome no longer counts."""
        for run in list(self._runs.values()):
            if not run.reported:
                run.reported = True
                self._report(Released(run.held))
                self._emit(TaskStuck(*self._about(run.reserved), run.duration))
                if run.task is not None:
                    run.task.cancel()  # the second one: what waits for a thread lets go of it

    def _end_unrun(self, reserved: ReservedTask, outcome: Outcome) -> None:
        self._report(outcome)
        self._announce_end(reserved, outcome)
        self._slots.give_back()

    # -- The pipeline ------------------------------------------------------------------------------

    async def _execute(self, run: Run, call: Call[Any]) -> None:
        # No await outside the `try`: whatever is thrown into this coroutine is judged.
        reserved = run.reserved
        if self._emit.wants(TaskStarted):
            self._emit(TaskStarted(*self._about(reserved)))
        try:
            if on_last_chance(reserved):
                # Without a bound: if the worker dies before the others are given back, they are lost with this one.
                await self._settled()
            try:
                value = await self._run_call(call)
            finally:
                end_if_forked(self._pid)
        except BaseException as error:
            if run.stop is None and isinstance(error, asyncio.CancelledError) and self._interrupted():
                run.stop = Stop.RELEASE
            outcome = judge_error(run, error)
        else:
            outcome = judge_value(run, value, self._max_payload)
        if not run.reported:
            run.reported = True
            self._report(outcome)
            self._announce_end(reserved, outcome, run)
        del self._runs[run.held]
        if not self._runs:
            self._drained.set()
        self._slots.give_back()
        self._look_for_leftovers(run)

    def _about(self, reserved: ReservedTask) -> tuple[TaskId, str, str, int, str]:
        return reserved.id, reserved.name, reserved.queue, reserved.attempt, self._worker

    def _announce_end(self, reserved: ReservedTask, outcome: Outcome, run: Run | None = None) -> None:
        kind = _ENDS[type(outcome)]
        if not self._emit.wants(kind):
            return
        end = *self._about(reserved), 0.0 if run is None else run.duration
        if isinstance(outcome, Failed):
            info = decode_error(outcome.error)
            self._emit(TaskFailed(*end, info.type, info.message))
        else:
            self._emit(kind(*end))

    # -- What a task leaves behind -----------------------------------------------------------------

    def _look_for_leftovers(self, run: Run) -> None:
        # Looking through all asyncio tasks costs more than a small task does, so one look serves many of them.
        self._ended.append(run.current)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_AFTER, self.cancel_leftovers)

    def cancel_leftovers(self) -> None:
        """Cancel asyncio tasks that ended runs have left running, and say so."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        # By identity. They are kept until the end, so that no identity is used again.
        kept, self._ended = self._ended, []
        ended = set(map(id, kept))
        left: dict[int, tuple[CurrentTask, int]] = {}
        for task in asyncio.all_tasks():
            current = running_here(task.get_context())
            if current is not None and id(current) in ended:
                _, count = left.get(id(current), (current, 0))
                left[id(current)] = current, count + 1
                task.cancel()
        for current, count in left.values():
            self._emit(BackgroundTasksLeft(current.id, current.name, self._worker, count))


# -- Decisions, as plain functions ------------------------------------------------------------------


def refuse(reserved: ReservedTask) -> Outcome | None:
    """The outcome of a task that must not run (again), or None."""
    if reserved.cancel_requested:
        return Cancelled(reserved.held)
    if reserved.crashes >= reserved.max_crashes:
        message = (
            f"its worker died or lost its lease {reserved.crashes} times while running it (max_crashes is "
            f"{reserved.max_crashes}); it was not started again"
        )
        return Failed(reserved.held, encode_error(ErrorInfo("worker_lost", message)))
    return None


def on_last_chance(reserved: ReservedTask) -> bool:
    """Whether one more crash means that it is given up.

    One task that kills its workers takes along whatever they hold, and the same tasks are found again together. So of
    those on their last chance a worker runs one at a time, and puts off the others until it is done: the killer dies
    alone, and the innocent are not given up with it.
    """
    return 0 < reserved.crashes == reserved.max_crashes - 1


def judge_value(run: Run, value: Any, max_payload: int) -> Outcome:
    """A run that returned has succeeded, unless its value cannot be stored."""
    try:
        return Succeeded(run.held, encode_value(value, max_payload=max_payload))
    except SitqError as error:
        return Failed(run.held, encode_error(error))


def judge_error(run: Run, error: BaseException) -> Outcome:
    """A run that raised has failed, unless it was us who cancelled it."""
    if run.stop is None or not _due_to_cancellation(error):
        return Failed(run.held, encode_error(error))
    if run.stop is not Stop.CANCEL:
        return Released(run.held)
    return Cancelled(run.held, None if isinstance(error, asyncio.CancelledError) else encode_error(error))


def _due_to_cancellation(error: BaseException | None) -> bool:
    """Whether it is a CancelledError or was raised while one was handled, as clean-up code and wrappers do."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, asyncio.CancelledError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _current(reserved: ReservedTask, context: Mapping[str, Any]) -> CurrentTask:
    return CurrentTask(
        reserved.id,
        reserved.name,
        reserved.queue,
        reserved.attempt,
        reserved.crashes,
        reserved.metadata or {},
        context,
    )
