"""One reserved task becomes one outcome: decode, run, judge.

A straight pipeline over one value, `Run`. Nothing that a task does may hurt the worker or another task:
whatever it raises is caught here and judged, and each run has a fresh context of its own.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Context
from datetime import timedelta
from typing import Any, Final

from sitq.carrying import Restored
from sitq.clock import Clock
from sitq.context import CurrentTask, bind, running_here
from sitq.emitter import Emitter
from sitq.errors import TaskSerializationError
from sitq.events import (
    BackgroundTasksLeft,
    TaskCancelled,
    TaskCrashed,
    TaskFailed,
    TaskLost,
    TaskParked,
    TaskReleased,
    TaskRetried,
    TaskStarted,
    TaskStuck,
    TaskSucceeded,
)
from sitq.failure import decode_error
from sitq.model import (
    Cancelled,
    Crashed,
    Failed,
    Held,
    NewNote,
    Outcome,
    Released,
    ReservedTask,
    Retried,
    Succeeded,
    TaskId,
    make,
)
from sitq.serialization import Codec, Purpose
from sitq.task import Call, CallCheck
from sitq.worker.completion import Completion
from sitq.worker.fork import end_if_forked
from sitq.worker.inputs import Input, InputsMissingError, with_inputs
from sitq.worker.judge import (
    expire,
    judge_error,
    judge_value,
    left_behind,
    on_last_chance,
    park,
    put_off,
    refuse,
)
from sitq.worker.outbox import Outbox
from sitq.worker.run import Run, Stop, current_of
from sitq.worker.slots import Slots
from sitq.worker.surroundings import Surroundings

_SWEEP_AFTER: Final = 0.05
_PUT_OFF: Final = timedelta(seconds=1)
_GRACE: Final = 5.0
"""How long a task may take to clean up after its time is up, before it is reported as timed out without it."""

_ENDS: Final[Mapping[type[Any], Any]] = {
    Succeeded: TaskSucceeded,
    Failed: TaskFailed,
    Retried: TaskRetried,
    Cancelled: TaskCancelled,
    Released: TaskReleased,
    Crashed: TaskCrashed,
}

type Report = Callable[[Outcome, Sequence[NewNote]], None]


class Executor:
    """Runs reserved tasks and reports an outcome for each.

    Args:
        worker: Name of the worker, for events.
        run_call: Runs a decoded call; chooses the runner.
        check_executor: Raises if this worker does not know an executor of this name.
        is_elsewhere: Whether a call runs in another process, which has to prepare it by itself.
        read_inputs: Reads what the tasks left whose values a call takes.
        report: Where outcomes go, and what their tasks had still to say. Called once for each reserved task, unless its
            lease was lost.
        settled: Waits until what was reported by now is stored.
        interrupted: Whether somebody cancels everything on this loop, as `asyncio.run` does at its end.
        slots: Where the slot of a run is given back when it has ended.
        outbox: Where running tasks put what they have to say.
        surroundings: What the runs find around them, of their worker and of whoever enqueued them.
        completion: Where they complete themselves in transactions of their own.
    """

    def __init__(
        self,
        worker: str,
        *,
        run_call: Callable[[Call[Any], Run], Awaitable[Any]],
        check_executor: Callable[[str], object],
        is_elsewhere: Callable[[Call[Any], Run], bool],
        read_inputs: Callable[[Call[Any], Sequence[TaskId]], Awaitable[dict[int, Input]]],
        report: Report,
        settled: Callable[[], Awaitable[object]],
        interrupted: Callable[[], bool],
        slots: Slots,
        outbox: Outbox,
        surroundings: Surroundings,
        completion: Completion,
        codec: Codec,
        clock: Clock,
        emit: Emitter,
    ) -> None:
        self._pid = os.getpid()
        self._worker = worker
        self._run_call = run_call
        self._check_executor = check_executor
        self._is_elsewhere = is_elsewhere
        self._read_inputs = read_inputs
        self._report = report
        self._settled = settled
        self._interrupted = interrupted
        self._slots = slots
        self._outbox = outbox
        self._post = outbox.put
        self._surroundings = surroundings
        self._resources = surroundings.resources  # of which most workers have none
        self._completion = completion
        self._complete = completion.begin
        self._codec = codec
        self._check = CallCheck()
        self._now = clock.now
        self._emit = emit
        self._tells_starts = True
        self._runs: dict[Held, Run] = {}
        self._loading: tuple[list[ReservedTask], float] = ([], 0.0)
        self._fewer = asyncio.Event()
        self._draining = False  # somebody waits for `_fewer`
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
        self._tells_starts = self._emit.wants(TaskStarted)
        for task in self._put_off(tasks):
            self.start(task)
        self._loading = [], 0.0

    def _put_off(self, tasks: list[ReservedTask]) -> list[ReservedTask]:
        """Give back those on their last chance but one, and return the others."""
        suspects = [task for task in tasks if task.crashes and on_last_chance(task)]
        if not suspects:
            return tasks
        if not any(on_last_chance(run.reserved) for run in self._runs.values()):
            del suspects[0]
        for task in suspects:
            self._end_unrun(task, Released(task.held, self._now() + _PUT_OFF))
        return [task for task in tasks if task not in suspects]

    def start(self, reserved: ReservedTask) -> asyncio.Task[None] | None:
        """Begin an attempt; the caller has taken a slot for it. None if the task is judged without being run."""
        # Questions that the usual task answers by a look at a field are not asked of it: here and below. Taken apart
        # at once, which takes as long as to read two fields by their names.
        task_id, fence, _, _, payload, _, crashes, _, _, cancel_requested, parents = reserved
        if (crashes or cancel_requested) and (outcome := refuse(reserved)) is not None:
            self._end_unrun(reserved, outcome)
            return None
        try:
            call, context, rules = self._codec.decode_call(payload, task_id)
            if rules.expires_at is not None and (outcome := expire(reserved, rules, self._now)) is not None:
                self._end_unrun(reserved, outcome)
                return None
            self._check(call)
            if rules.executor is not None:
                self._check_executor(rules.executor)
            held = make(Held, (task_id, fence))
            run = Run(reserved, held, rules, time.monotonic(), self._post, self._emit, self._codec)
            current = current_of(run, context)
            own = bind(current)
            restored = None
            if rules.carried is not None or self._resources is not None:
                restored = self._surround(own, current, run, call)
        except Exception as error:  # of whatever has this name by now, too
            self._end_unrun(reserved, park(reserved, error, self._now))
            return None
        run.complete = self._complete
        self._runs[held] = run
        has_to_wait = bool(parents) or (crashes > 0 and on_last_chance(reserved))
        loop = asyncio.get_running_loop()
        # Not by `create_task`: the loop's task factory is for what user code creates. Begun at once, since a task that
        # never waits then costs no turn of the loop, and no timer.
        task = asyncio.Task(
            self._execute(run, call, current, restored, has_to_wait=has_to_wait),
            loop=loop,
            name=reserved.id,
            context=own,
            eager_start=True,
        )
        if not task.done():
            run.task = task
            if run.timer is None and not (run.waits or has_to_wait):
                self._start_timer(run, rules.limit - run.duration)
        return task

    def _surround(self, own: Context, current: CurrentTask, run: Run, call: Call[Any]) -> Restored | None:
        if self._is_elsewhere(call, run):  # where it finds its surroundings there
            return None
        return self._surroundings.begin(own, current, run.rules)

    def stop(self, held: Iterable[Held], why: Stop) -> None:
        """Stop these runs: coroutines are cancelled, threads can only be waited for. The first reason given counts."""
        for one in held:
            run = self._runs.get(one)
            if run is None or run.task is None:
                continue
            if why is Stop.LOST and run.completed is not None:
                continue  # it is over because it has completed itself; if not, its fence sees to that
            if why is Stop.LOST and not run.reported:
                run.reported = True
                self._outbox.take(one)
                self._fewer.set()
                self._emit(TaskLost(*self._about(run.reserved), run.duration))
            if run.stop is None:
                run.stop = why
                run.task.cancel()

    def begin(self, run: Run) -> None:
        """Count the time of a run from now on, which had to wait for a place to run at."""
        if run.waits and run.stop is None and not run.reported:
            run.waits = False
            self._start_timer(run, run.rules.limit)

    def _start_timer(self, run: Run, span: float) -> None:
        run.timer = asyncio.get_running_loop().call_later(span, self._time_is_up, run)

    def _time_is_up(self, run: Run) -> None:
        self.stop([run.held], Stop.TIMEOUT)
        run.timer = asyncio.get_running_loop().call_later(_GRACE, self._leave_behind, run)

    def _leave_behind(self, run: Run) -> None:
        """Report a run that does not stop. It keeps its slot until it ends, whatever it makes of it."""
        if not run.reported:
            self._end_run(run, left_behind(run, self._now))
            self._emit(TaskStuck(*self._about(run.reserved), run.duration))

    async def drain(self, timeout: float, *, to_the_last: bool = False) -> bool:
        """Wait until nothing runs that still counts, for `timeout` seconds at most. True if nothing runs at all.

        Args:
            to_the_last: Wait for what does not count any more, too.
        """
        self._draining = True
        try:
            async with asyncio.timeout(timeout):
                while any(to_the_last or not run.reported for run in self._runs.values()):
                    self._fewer.clear()
                    await self._fewer.wait()
        except TimeoutError:
            pass
        return not self._runs

    def release_all(self) -> None:
        """Cancel everything that runs; each reports a release."""
        self.stop(list(self._runs), Stop.RELEASE)

    def give_up(self) -> None:
        """Report what did not stop when it was cancelled. Its own outcome no longer counts."""
        for run in list(self._runs.values()):
            self._leave_behind(run)
            if run.task is not None:
                run.task.cancel()  # the second one: what waits for a thread lets go of it

    def _end_unrun(self, reserved: ReservedTask, outcome: Outcome) -> None:
        self._report(self._sealed(outcome), ())
        self._announce_end(reserved, outcome)
        self._slots.give_back()

    def _end_run(self, run: Run, outcome: Outcome) -> None:
        run.reported = True
        if self._draining:
            self._fewer.set()
        stored = self._sealed(outcome) if self._codec.seals else outcome
        self._report(stored, self._outbox.take(run.held))
        self._announce_end(run.reserved, outcome, run)

    def _sealed(self, outcome: Outcome) -> Outcome:
        """An outcome as it is stored: its error may hold what the arguments held."""
        if isinstance(outcome, Succeeded) or outcome.error is None or not self._codec.seals:
            return outcome
        return outcome._replace(error=self._codec.seal(outcome.error, outcome.held.id, Purpose.ERROR))

    # -- The pipeline ------------------------------------------------------------------------------

    async def _execute(
        self, run: Run, call: Call[Any], current: CurrentTask, restored: Restored | None, *, has_to_wait: bool
    ) -> None:
        # No await outside the `try`: whatever is thrown into this coroutine is judged.
        reserved = run.reserved
        if self._tells_starts:
            self._emit(TaskStarted(*self._about(reserved)))
        try:
            if has_to_wait:
                call = await self._prepare(run, call)
            try:
                value = await self._run_call(call, run)
            finally:
                if os.getpid() != self._pid:
                    end_if_forked(self._pid)
        except InputsMissingError as error:
            if restored is not None:
                restored.leave(None)
            outcome = put_off(reserved, error.reason, self._now, unfinished=error.unfinished)
        except BaseException as error:
            if restored is not None:
                restored.leave(error)
            if run.stop is None and isinstance(error, asyncio.CancelledError) and self._interrupted():
                run.stop = Stop.RELEASE
            outcome = judge_error(run, error, self._now)
        else:
            if restored is not None:
                restored.leave(None)
            outcome = judge_value(run, value, self._now)
        if run.timer is not None:
            run.timer.cancel()
        if run.completed is not None and not run.reported:
            run.task = None  # it has ended: there is nothing left to stop
            outcome = await self._completion.settle(run, outcome)
        if not run.reported:
            self._end_run(run, outcome)
        run.task = None  # or run, task and context would hold each other until the garbage collector comes
        del self._runs[run.held]
        if self._draining:
            self._fewer.set()
        self._slots.give_back()
        # Looking through all asyncio tasks costs more than a small task does, so one look serves many of them.
        self._ended.append(current)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_AFTER, self.cancel_leftovers)

    async def _prepare(self, run: Run, call: Call[Any]) -> Call[Any]:
        """What has to be done before a task may run. Its time begins after that."""
        if on_last_chance(run.reserved):
            # Without a bound: if the worker dies before the others are given back, they are lost with this one.
            await self._settled()
        if run.reserved.parents:
            run.inputs = await self._read_inputs(call, run.reserved.parents)
            if not self._is_elsewhere(call, run):
                try:
                    call = with_inputs(call, run.inputs, self._codec)
                except TaskSerializationError as error:
                    raise InputsMissingError(error) from error
        self._start_timer(run, run.rules.limit)
        return call

    def _about(self, reserved: ReservedTask) -> tuple[TaskId, str, str, int, str]:
        return reserved.id, reserved.name, reserved.queue, reserved.attempt, self._worker

    def _announce_end(self, reserved: ReservedTask, outcome: Outcome, run: Run | None = None) -> None:
        kind = _ENDS[type(outcome)]
        if isinstance(outcome, Released) and outcome.error is not None:
            kind = TaskParked
        if not self._emit.wants(kind):
            return
        error = outcome.error if isinstance(outcome, Failed | Retried | Released | Crashed) else None
        end: tuple[Any, ...] = *self._about(reserved), 0.0 if run is None else run.duration
        if error is not None:
            info = decode_error(error)
            end = *end, info.type, info.message
        self._emit(kind(*end))

    # -- What a task leaves behind -----------------------------------------------------------------

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
