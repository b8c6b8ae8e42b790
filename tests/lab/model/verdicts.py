"""What must follow from what happened to an attempt, said again in the simplest way, to compare it with what did."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sitq.failure import decode_error
from sitq.model import Cancelled, Failed, Outcome, Released, Retried, Succeeded
from sitq.retry import RetryPolicy
from sitq.worker.run import Stop

DAYS_KEPT = timedelta(days=30)
SECOND = timedelta(seconds=1)


class Policy(NamedTuple):
    """A retry policy, and what it means."""

    attempts: int
    backoff: str
    base: float
    factor: float
    top: float
    jitter: str

    def made(self) -> RetryPolicy:
        kind: Any = self.backoff
        jitter: Any = self.jitter
        return RetryPolicy(
            max_attempts=self.attempts,
            backoff=kind,
            base=self.base,
            factor=self.factor,
            max_delay=self.top,
            jitter=jitter,
            on=(ValueError, TimeoutError),
            give_up_on=UnicodeError,
        )

    def waits(self, attempt: int) -> tuple[timedelta, timedelta]:
        span = self.base
        for number in range(1, attempt):
            span = {"constant": span, "linear": self.base * (number + 1)}.get(
                self.backoff, span * self.factor
            )
        span = min(span, self.top)
        low = {"none": span, "equal": span / 2, "full": 0.0}[self.jitter]
        return timedelta(seconds=low), timedelta(seconds=span)


USUAL = Policy(3, "exponential", 1.0, 2.0, 600.0, "full")
"""What a task has that asks for a retry and was given no policy."""


class Rules(NamedTuple):
    policy: Policy | None
    timeout: float | None
    expires_at: datetime | None


class Verdict(NamedTuple):
    """One outcome that is right.

    Attributes:
        between: Of those that are due again: the first and the last instant that are right; None where none is given.
        error: The type that the error has; None if there is no error.
    """

    kind: type[Outcome]
    error: str | None = None
    between: tuple[datetime, datetime] | None = None
    exhausted: bool = False

    def fits(self, outcome: Outcome) -> bool:
        if type(outcome) is not self.kind:
            return False
        if isinstance(outcome, Succeeded):
            return True
        if isinstance(outcome, Failed) and outcome.keep_for != DAYS_KEPT:
            return False
        if isinstance(outcome, Retried | Released):
            at = outcome.at
            if (at is None) is not (self.between is None):
                return False
            if at is not None and self.between is not None and not self.between[0] <= at <= self.between[1]:
                return False
        info = None if outcome.error is None else decode_error(outcome.error)
        return (info and info.type) == self.error and (info is not None and info.exhausted) is self.exhausted


def failure(
    rules: Rules, attempt: int, error: str, now: datetime, wish: timedelta | None = None
) -> list[Verdict]:
    """The verdicts over an attempt that failed, of which one is right: where a wait is drawn, two may be."""
    asked = error == "sitq.verbs.Retry"
    policy = rules.policy or (USUAL if asked else None)
    retried = asked or error in ("ValueError", "TimeoutError")
    if policy is None or not retried:
        return [Verdict(Failed, error)]
    if attempt >= policy.attempts:
        return [Verdict(Failed, error, exhausted=policy.attempts > 1)]
    least, most = policy.waits(attempt) if wish is None else (wish, wish)
    first, last = now + least, now + most
    too_late = Verdict(Failed, error, exhausted=attempt > 1)
    if rules.expires_at is None or last <= rules.expires_at:
        return [Verdict(Retried, error, (first, last))]
    if first > rules.expires_at:
        return [too_late]
    return [Verdict(Retried, error, (first, rules.expires_at)), too_late]


def at_start(
    rules: Rules, *, cancelled: bool, crashes: int, max_crashes: int, now: datetime
) -> Verdict | None:
    """The verdict over a task that must not run; None if it may."""
    if cancelled:
        return Verdict(Cancelled)
    if crashes >= max_crashes:
        return Verdict(Failed, "worker_lost")
    if rules.expires_at is not None and now > rules.expires_at:
        return Verdict(Cancelled, "expired")
    return None


class Facts(NamedTuple):
    """What is known of a run when something happens to it."""

    rules: Rules
    attempt: int
    stop: Stop | None
    now: datetime


def too_late(run: Facts) -> list[Verdict]:
    return failure(run.rules, run.attempt, "TimeoutError", run.now)


def over_end(run: Facts, how: str, delay: int | None) -> list[Verdict]:
    """The verdicts over a run that ends by itself, maybe although it was to stop."""
    wish = None if delay is None else delay * SECOND
    if how == "Snooze":
        at = run.now + (delay or 0) * SECOND
        return [Verdict(Released, None, (at, at))]
    if how == "Cancel":
        return [Verdict(Cancelled, "cancelled")]
    if how == "Retry":
        return failure(run.rules, run.attempt, "sitq.verbs.Retry", run.now, wish)
    if run.stop is Stop.TIMEOUT:
        return too_late(run)
    if how == "value":
        return [Verdict(Succeeded)]
    if how == "unstorable":
        return [Verdict(Failed, "sitq.errors.TaskSerializationError")]
    return failure(run.rules, run.attempt, how, run.now)


def over_stop(run: Facts, manner: str, why: Stop) -> list[Verdict]:
    """The verdicts over a run that is stopped now. None over one that does not stop, and that is lost."""
    if manner == "hangs" or why is Stop.LOST:
        return []
    if why is Stop.TIMEOUT:
        return too_late(run)
    if manner == "returns":
        return [Verdict(Succeeded)]
    if why is Stop.CANCEL:
        return [Verdict(Cancelled, "ValueError" if manner == "raises" else None)]
    return [Verdict(Released)]
