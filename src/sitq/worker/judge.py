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
    Failed,
    Outcome,
    Released,
    ReservedTask,
    Retried,
    Succeeded,
)
from sitq.retry import decide
from sitq.rules import DEFAULT_TIMEOUT, RunRules
from sitq.serialization import encode_value
from sitq.verbs import Cancel, Snooze, Verb
from sitq.worker.run import Run, Stop

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
    message = (
        f"it was not to start after {rules.expires_at.isoformat()}, and no worker had time for it by then"
    )
    return Cancelled(reserved.held, encode_error(ErrorInfo("expired", message)))


def park(reserved: ReservedTask, error: SitqError, now: Now) -> Outcome:
    """The outcome of a task that cannot be loaded here: another worker, or this one after a deploy, may know it."""
    again = now() + PARKED_FOR * random.uniform(1, 2)  # noqa: S311
    return Released(reserved.held, again, encode_error(error))


def on_last_chance(reserved: ReservedTask) -> bool:
    """Whether one more crash means that it is given up.

    One task that kills its workers takes along whatever they hold, and the same tasks are found again together. So of
    those on their last chance a worker runs one at a time, and puts off the others until it is done: the killer dies
    alone, and the innocent are not given up with it.
    """
    return 0 < reserved.crashes == reserved.max_crashes - 1


def judge_value(run: Run, value: Any, now: Now) -> Outcome:
    """A run that returned has succeeded, unless it says otherwise, noticed a stop, or its value cannot be stored."""
    if isinstance(value, Verb):
        return judge_error(run, value, now)
    if run.stop is not None and run.noticed:
        return _stopped(run, None, now)
    try:
        return Succeeded(run.held, encode_value(value, max_payload=run.max_payload))
    except SitqError as error:
        return _failed(run, encode_error(error))


def judge_error(run: Run, error: BaseException, now: Now) -> Outcome:
    """A run that raised has failed, unless it said what it wants, or it was us who stopped it."""
    if isinstance(error, Snooze):
        return Released(run.held, now() + error.delay)
    if isinstance(error, Cancel):
        return Cancelled(run.held, encode_error(ErrorInfo("cancelled", error.reason)))
    if run.stop is not None and (run.noticed or _due_to_cancellation(error)):
        return _stopped(run, error, now)
    return judge_failure(run, error, now)


def overrun(run: Run, now: Now) -> Outcome:
    """The outcome of an attempt that took too long, whether it has ended or not."""
    limit = DEFAULT_TIMEOUT if run.rules.timeout is None else run.rules.timeout
    return judge_failure(run, TimeoutError(f"it did not finish within its timeout of {limit:g} s"), now)


def judge_failure(run: Run, error: BaseException, now: Now) -> Outcome:
    """Try again or give up, as the policy says."""
    decision = decide(run.rules.retry, error, run.reserved.attempt, now(), random.random)
    if decision.retry_at is not None:
        return Retried(run.held, decision.retry_at, encode_error(error))
    return _failed(run, encode_error(error, exhausted=decision.exhausted))


def _failed(run: Run, error: bytes) -> Failed:
    keep_for = run.rules.keep_failed
    return Failed(run.held, error, DEFAULT_KEEP_FAILED if keep_for is None else timedelta(seconds=keep_for))


def _stopped(run: Run, error: BaseException | None, now: Now) -> Outcome:
    match run.stop:
        case Stop.TIMEOUT:
            return overrun(run, now)
        case Stop.CANCEL:
            plain = error is None or isinstance(error, asyncio.CancelledError)
            return Cancelled(run.held, None if plain or error is None else encode_error(error))
        case _:
            return Released(run.held)


def _due_to_cancellation(error: BaseException | None) -> bool:
    """Whether it is a CancelledError or was raised while one was handled, as clean-up code and wrappers do."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, asyncio.CancelledError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
