"""What follows from what happened to an attempt: pure functions from facts to an outcome.

Nothing here touches a store, a clock or a task. Whatever a task did, the answer is an outcome and never an error.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from sitq.errors import SitqError
from sitq.failure import ErrorInfo, encode_error
from sitq.model import (
    DEFAULT_KEEP_FAILED,
    Cancelled,
    Crashed,
    Failed,
    Outcome,
    Released,
    ReservedTask,
    Retried,
    Succeeded,
    make,
)
from sitq.retry import decide, leaves
from sitq.rules import RunRules
from sitq.serialization import Purpose
from sitq.verbs import Cancel, Snooze, Verb
from sitq.worker.run import Judged, Run, Stop

type Now = Callable[[], datetime]

PARKED_FOR: Final = timedelta(seconds=60)
"""How long a task at least waits that could not be loaded; up to twice that, so that they do not come together."""


def refuse(reserved: ReservedTask) -> Outcome | None:
    """The outcome of a task that must not run (again), whatever is in its payload; None if it may."""
    if reserved.cancel_requested:
        return Cancelled(reserved.held)
    if reserved.crashes >= reserved.max_crashes:
        message = (
            f"its worker died or lost its lease {reserved.crashes} times while running it (max_crashes is "
            f"{reserved.max_crashes}); it was not started again"
        )
        return Failed(reserved.held, encode_error(ErrorInfo("worker_lost", message)), DEFAULT_KEEP_FAILED)
    return None


def expire(reserved: ReservedTask, rules: RunRules, now: Now) -> Outcome | None:
    """The outcome of a task whose `expires` has passed; None if it has not."""
    if rules.expires_at is None or now() <= rules.expires_at:
        return None
    message = f"no attempt was to start after {rules.expires_at.isoformat()}, and attempt {reserved.attempt} would have"
    return Cancelled(reserved.held, encode_error(ErrorInfo("expired", message)))


def park(reserved: ReservedTask, error: Exception, now: Now) -> Outcome:
    """The outcome of a task that cannot be loaded here: another worker, or this one after a deploy, may know it."""
    again = now() + PARKED_FOR * random.uniform(1, 2)  # noqa: S311
    return Released(reserved.held, again, encode_error(error))


def put_off(reserved: ReservedTask, error: Exception, now: Now, *, unfinished: bool) -> Outcome:
    """The outcome of a task that cannot have the values that it depends on: as one that cannot be loaded.

    Args:
        unfinished: A task got a new run on which it depends. The storage lets it wait for the end of that.
    """
    return Released(reserved.held) if unfinished else park(reserved, error, now)


def on_last_chance(reserved: ReservedTask) -> bool:
    """Whether one more crash means that it is given up.

    One task that kills its workers takes along whatever they hold, and the same tasks are found again together. So of
    those on their last chance a worker runs one at a time, and puts off the others until it is done: the killer dies
    alone, and the innocent are not given up with it.
    """
    return 0 < reserved.crashes == reserved.max_crashes - 1


def judge_value(run: Run, value: Any, now: Now) -> Outcome:
    """A run that returned has succeeded, unless it says otherwise, noticed a stop, was too late for its time limit, or
    its value cannot be stored. If it has completed itself, the value that it gave then counts.
    """
    # By its own class: a mock of a verb passes for one with isinstance.
    if issubclass(type(value), Verb):
        return judge_error(run, value, now)
    if run.stop is Stop.TIMEOUT or (run.stop is not None and run.noticed):
        return _stopped(run, None, now)
    if run.completed is not None:
        return Succeeded(run.held, run.completed)
    try:
        held = run.held
        result = run.codec.encode_value(value, held.id, Purpose.RESULT)
        return make(Succeeded, (held, result))
    except SitqError as error:
        # Not retried, whatever the policy: the function has done its work, and would do it again to the same end.
        return _failed(run, encode_error(error))


def judge_error(run: Run, error: BaseException, now: Now) -> Outcome:
    """A run that raised has failed, unless it said what it wants, or it was us who stopped it."""
    try:
        if type(error) is Judged:
            return error.outcome
        if isinstance(error, Snooze):
            return Released(run.held, now() + error.delay)
        if isinstance(error, Cancel):
            return Cancelled(run.held, encode_error(ErrorInfo("cancelled", error.reason)))
        if run.stop is None or isinstance(error, Verb):
            return judge_failure(run, error, now)
        if run.stop is Stop.TIMEOUT or run.noticed or _due_to_cancellation(error):
            return _stopped(run, error, now)
        return judge_failure(run, error, now)
    except BaseException as second:  # a verb, too, may be of any make
        return _failed(run, encode_error(second))


def judge_failure(run: Run, error: BaseException, now: Now) -> Outcome:
    """Try again or give up, as the policy says. What would begin too late is given up now, and not when it is due."""
    attempt, expires_at = run.reserved.attempt, run.rules.expires_at
    again, exhausted = decide(run.rules.retry, error, attempt, now(), random.random)
    if again is not None and expires_at is not None and again > expires_at:
        again, exhausted = None, attempt > 1
    if again is not None:
        return Retried(run.held, again, encode_error(error))
    return _failed(run, encode_error(error, exhausted=exhausted))


def judge_crash(run: Run, message: str) -> Outcome:
    """The outcome of a run whose process died. It counts as that of a worker that died over it alone."""
    return Crashed(run.held, encode_error(ErrorInfo("worker_lost", message)))


def _failed(run: Run, error: bytes) -> Failed:
    keep_for = run.rules.keep_failed
    return Failed(run.held, error, DEFAULT_KEEP_FAILED if keep_for is None else timedelta(seconds=keep_for))


def left_behind(run: Run, now: Now) -> Outcome:
    """The outcome of a run that goes on although it was to stop. What it makes of it does not count any more."""
    return _stopped(run, None, now, ", and it has not stopped since: it still runs")


def killed(run: Run, now: Now) -> Outcome:
    """The outcome of a run that was stopped with its process."""
    return _stopped(run, None, now, ", and its process was killed")


def _stopped(run: Run, error: BaseException | None, now: Now, still: str = "") -> Outcome:
    match run.stop:
        case Stop.TIMEOUT:
            late = TimeoutError(f"it did not finish within its timeout of {run.rules.limit:g} s{still}")
            late.__cause__ = error  # its traceback says where the time went
            return judge_failure(run, late, now)
        case Stop.CANCEL:
            plain = error is None or isinstance(error, asyncio.CancelledError)
            return Cancelled(run.held, None if plain or error is None else encode_error(error))
        case _:
            return Released(run.held)


def _due_to_cancellation(error: BaseException) -> bool:
    """Whether it is a CancelledError, holds one, or was raised while one was handled, as clean-up code does."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if isinstance(one, asyncio.CancelledError):
            return True
        if id(one) not in seen:
            seen.add(id(one))
            behind = one.__cause__ or one.__context__
            left += leaves(one) if behind is None else [*leaves(one), behind]
    return False
