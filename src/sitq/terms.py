"""What a task is stored with: its options as the values of the storage and the rules of the worker."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sitq.errors import ValidationError
from sitq.model import Concurrency, Rate, Unique, Until
from sitq.options import OWN_KEYS, TaskOptions
from sitq.retry import RetryPolicy
from sitq.rules import NO_RULES, RunRules


class Terms(NamedTuple):
    """The options of one task, complete and counted from one instant."""

    due_at: datetime | None = None
    unique: Unique | None = None
    concurrency: Concurrency | None = None
    rate: Rate | None = None
    rules: RunRules = NO_RULES


NO_TERMS: Final = Terms()


def terms(options: TaskOptions, *, name: str, queue: str, now: datetime) -> Terms:
    """Return what the options of a task come to.

    Args:
        name: Of the task; debounce and throttle share a key by it, unless one was given.
        queue: Where the task goes; those with a rate limit share it, unless a key was given.
        now: What durations until a start count from, in UTC.

    Raises:
        ValidationError: An option lacks the one that it needs, or the task would expire before it starts.
    """
    due_at = options.due_at(now)
    rules = _rules(options, now)
    if rules.expires_at is not None and due_at is not None and rules.expires_at < due_at:
        first = next(each for each in ("eta", "delay", "debounce") if each in options.given())
        raise ValidationError(f"expires is before {first}, so it would never start: give a later one")
    return Terms(due_at, _unique(options, name), _concurrency(options), _rate(options, queue), rules)


def _rules(options: TaskOptions, now: datetime) -> RunRules:
    retry, timeout, expires = options.retry, options.timeout, options.expires
    if options.max_retries is not None or options.retry_delay is not None:
        retry = _policy(options.max_retries, options.retry_delay)
    keep_failed, executor = options.keep_failed, options.executor
    if retry is None and timeout is None and expires is None and keep_failed is None and executor is None:
        return NO_RULES
    return RunRules(
        retry,
        None if timeout is None else timeout.total_seconds(),
        now + expires if isinstance(expires, timedelta) else expires,
        None if keep_failed is None else keep_failed.total_seconds(),
        executor,
    )


def _policy(max_retries: int | None, retry_delay: timedelta | None) -> RetryPolicy:
    attempts = 3 if max_retries is None else max_retries + 1
    if retry_delay is None:
        return RetryPolicy(max_attempts=attempts)
    # Exactly as long as was asked for: who wants a spread says so with a policy.
    return RetryPolicy(max_attempts=attempts, backoff="constant", base=retry_delay, jitter="none")


def _unique(options: TaskOptions, name: str) -> Unique | None:
    key, until = options.unique_key, options.unique_until
    if options.debounce is not None or options.throttle is not None:
        key = f"{OWN_KEYS}task:{name}" if key is None else key
        if options.throttle is not None:
            return Unique(key, options.throttle)
        return Unique(key, Until.START, replace=True)
    if key is None:
        if until is not None:
            raise _lacks("unique_until", "unique_key")
        return None
    return Unique(key, until or Until.END)


def _concurrency(options: TaskOptions) -> Concurrency | None:
    key, limit = options.concurrency_key, options.concurrency_limit
    if key is None and limit is None:
        return None
    if key is None:
        raise _lacks("concurrency_limit", "concurrency_key")
    if limit is None:
        raise _lacks("concurrency_key", "concurrency_limit")
    return Concurrency(key, limit)


def _rate(options: TaskOptions, queue: str) -> Rate | None:
    limit, key = options.rate_limit, options.rate_key
    if limit is None:
        if key is not None:
            raise _lacks("rate_key", "rate_limit")
        return None
    return Rate(f"{OWN_KEYS}queue:{queue}" if key is None else key, limit.count, limit.period)


def _lacks(name: str, other: str) -> ValidationError:
    return ValidationError(f"{name} was given without {other}, which it needs: give both")
