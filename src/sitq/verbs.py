"""What a task may say about its own end: raised, or returned."""

from datetime import timedelta

from sitq.checks import Duration, kind, to_timedelta
from sitq.errors import ValidationError


class Verb(Exception):  # noqa: N818  # it is no error
    """Base of what a task may raise or return to say what becomes of it. An ordinary exception on its way up."""


class Snooze(Verb):
    """Run this task again after `delay` (seconds or a timedelta). It is not counted as an attempt.

    Nothing but `expires` bounds how often a task may put itself off.

    Raises:
        ValidationError: `delay` is not a duration from 0 s to a hundred years.
    """

    delay: timedelta = timedelta(0)

    def __init__(self, delay: Duration) -> None:
        self.delay = to_timedelta(delay, "delay")
        super().__init__(self.delay)

    def __str__(self) -> str:
        return f"put off for {self.delay.total_seconds():g} s"


class Retry(Verb):
    """Count this attempt as failed, and try again after `delay` (seconds or a timedelta).

    Without a delay the policy's own back-off counts. It is bounded by `max_attempts` of the task's `RetryPolicy`, for
    which the exception counts as retryable; a task without a policy gets that of `RetryPolicy()`, 3 attempts.
    `raise Retry() from error` keeps what went wrong in the traceback.

    Raises:
        ValidationError: `delay` is not a duration from 0 s to a hundred years.
    """

    delay: timedelta | None = None

    def __init__(self, delay: Duration | None = None) -> None:
        self.delay = None if delay is None else to_timedelta(delay, "delay")
        super().__init__(self.delay)

    def __str__(self) -> str:
        if self.delay is None:
            return "asked for another attempt"
        return f"asked for another attempt after {self.delay.total_seconds():g} s"


class Cancel(Verb):
    """End this task as cancelled. `reason` is kept for those who look at it.

    Raises:
        ValidationError: `reason` is not a str.
    """

    reason: str = ""

    def __init__(self, reason: str = "") -> None:
        if not isinstance(reason, str):
            raise ValidationError(f"reason is {kind(reason)}: give a str")
        self.reason = str.__str__(reason)
        super().__init__(self.reason)
