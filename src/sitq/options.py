"""The options of a task: one frozen value, validated where it is made.

`TaskOptions` never holds anything unusable, so nothing behind it checks again. A check is one function per field; it
returns the value in the form that is stored (UTC, `timedelta`, plain dict) or raises a `ValidationError` that names the
field, what was given, what is accepted and the way out.
"""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, Literal, TypedDict, Unpack

from sitq.checks import Duration, instant, integer, json_object, kind, label, str_keyed, to_timedelta
from sitq.errors import ValidationError
from sitq.model import MAX_PRIORITY, MIN_PRIORITY, Until
from sitq.rates import RateLimit, rate_limit
from sitq.retry import MAX_ATTEMPTS, RetryPolicy
from sitq.rules import MAX_TIMEOUT, MIN_TIMEOUT

MAX_METADATA_BYTES: Final = 16 * 1024
MAX_CRASHES: Final = 1000
MAX_CONCURRENCY_LIMIT: Final = 10_000
OWN_KEYS: Final = "sitq:"
"""How the keys begin that are made here, of the name of a task or a queue. Given keys do not."""


class Unset(Enum):
    """The type of `UNSET`: an option that was not given, where None already means something."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return self.name


UNSET: Final = Unset.UNSET


class GivenDefaults(TypedDict, total=False):
    """The options that may be given for every call of a task; see `TaskOptions`."""

    queue: str | None
    priority: int | None
    result_ttl: Duration | Literal[Unset.UNSET] | None
    metadata: Mapping[str, Any] | None
    max_crashes: int | None
    retry: RetryPolicy | int | None
    max_retries: int | None
    retry_delay: Duration | None
    timeout: Duration | None
    expires: Duration | datetime | None
    keep_failed: Duration | None
    unique_key: str | None
    unique_until: Literal["start", "end"] | Duration | None
    debounce: Duration | None
    throttle: Duration | None
    concurrency_key: str | None
    concurrency_limit: int | None
    rate_limit: str | RateLimit | None
    rate_key: str | None
    executor: str | None


class GivenOptions(GivenDefaults, total=False):
    """The options that may be given for one call; see `TaskOptions`."""

    eta: datetime | None
    delay: Duration | None
    id: str | None
    context: Mapping[str, Any] | None
    depends_on: str | Iterable[str] | None
    on_parent_failure: Literal["cancel", "run"] | None


DEFAULT_NAMES: Final = frozenset(GivenDefaults.__annotations__)
OPTION_NAMES: Final = frozenset(GivenOptions.__annotations__)


# -- The value -------------------------------------------------------------------------------------


# Without slots: what was not given is an attribute of the class, and costs an instance nothing.
@dataclass(frozen=True, init=False)
class TaskOptions:
    """Everything about a task that is not its call. An option that was not given stays open for a default.

    Attributes:
        eta: Earliest start, an aware datetime; kept in UTC. Excludes `delay` and `debounce`.
        delay: Earliest start, counted from enqueueing. Excludes `eta` and `debounce`.
        queue: Name of the queue.
        priority: Lower runs first, from -9 to 9.
        id: The task id, chosen by the caller; enqueueing the same id again changes nothing.
        result_ttl: How long the task is kept after it finished. None keeps it for ever; not given is `UNSET`.
        metadata: A JSON object for people and filters, at most 16 KiB.
        context: Travels with the call and is handed out by `current_task()`; never part of the arguments.
        max_crashes: How many times a worker may die over the task before it is given up, from 1 to 1000.
        retry: A `RetryPolicy`, or how many times to try again after the first attempt: `retry=3` is up to 4 attempts,
            `RetryPolicy(max_attempts=4)`. Without it, and without the next two, there is one attempt.
        max_retries: The same number in other words. Excludes `retry`.
        retry_delay: The wait before each retry, without back-off and jitter. Excludes `retry`; by itself there are 3
            attempts.
        timeout: How long one attempt may take, from 1 ms to 30 days; 24 hours if not given.
        expires: No attempt starts after it: a duration from enqueueing on, or an aware datetime.
        keep_failed: How long the task is kept if it fails, to be looked at and requeued; 30 days if not given. Its
            `result_ttl` counts if that is longer.
        unique_key: At most one task of a store holds a key; who enqueues a second one gets the handle of the holder.
        unique_until: The holder lets go of the key at its `"start"`, its `"end"` (if not given), or a duration after it
            was stored, whatever became of it. Needs `unique_key`.
        debounce: Start after so long without another one: each that comes before the start puts it off again, and its
            call is the one that runs. Of the same `unique_key`, or of the same task. Excludes `eta`, `delay`,
            `throttle` and `unique_until`.
        throttle: At most one task in such a span; those that come later get the handle of the first. Of the same
            `unique_key`, or of the same task. Excludes `debounce` and `unique_until`.
        concurrency_key, concurrency_limit: At most so many tasks (1 to 10,000) with this key run at once, over all
            workers. Each needs the other.
        rate_limit: How often tasks may start, over all workers: `"100/minute"`, `"5/s"`, `"10/30s"`; 1 to 10,000
            starts in 1 ms to 30 days.
        rate_key: Who shares a `rate_limit`, which it needs; all tasks of the queue that have one if not given.
        executor: Where the task runs: `"async"` on the worker's event loop, `"thread"` on a thread of it, `"process"`
            in a child process of it, or the name of a runner of the queue. If not given, a coroutine function runs on
            the loop and a plain function where the worker says, on a thread unless it says otherwise.
        depends_on: Tasks, by handle or id, that have to succeed before this one starts. It gets no values of them:
            for that, give handles as arguments. Excludes `debounce`.
        on_parent_failure: What becomes of the task if one that it depends on, by `depends_on` or by an argument, fails
            or is cancelled: it is cancelled as well with `"cancel"` (if not given), and runs all the same with `"run"`;
            then it gets as the argument the exception that `handle.result()` would raise.

    Of what needs each other, one may come from `@task` and the other from the call.

    Raises:
        ValidationError: An option is unknown, unusable, or contradicts another one.
    """

    eta: datetime | None = None
    delay: timedelta | None = None
    queue: str | None = None
    priority: int | None = None
    id: str | None = None
    result_ttl: timedelta | Literal[Unset.UNSET] | None = UNSET
    metadata: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = field(default=None, repr=False)
    max_crashes: int | None = None
    retry: RetryPolicy | None = None
    max_retries: int | None = None
    retry_delay: timedelta | None = None
    timeout: timedelta | None = None
    expires: timedelta | datetime | None = None
    keep_failed: timedelta | None = None
    unique_key: str | None = None
    unique_until: Until | timedelta | None = None
    debounce: timedelta | None = None
    throttle: timedelta | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    rate_limit: RateLimit | None = None
    rate_key: str | None = None
    executor: str | None = None
    depends_on: tuple[str, ...] | None = None
    on_parent_failure: Literal["cancel", "run"] | None = None

    def __init__(self, **given: Unpack[GivenOptions]) -> None:
        kept: dict[str, Any] = {}
        for name, value in given.items():
            check = _CHECKS.get(name)
            if check is None:
                raise unknown_option(name, OPTION_NAMES)
            if value is not _blank(name):
                kept[name] = check(value)
        for one, other, what in _CONTRADICTIONS:
            if one in kept and other in kept:
                raise ValidationError(f"{one} and {other} both say {what}: give one of them")
        vars(self).update(kept)

    def over(self, defaults: "TaskOptions") -> "TaskOptions":
        """Return these options, filled up from `defaults` with what they do not contradict."""
        mine, theirs = vars(self), vars(defaults)
        if not mine or not theirs:
            return self if mine or not theirs else defaults
        theirs = theirs.copy()
        for one, other, _ in _CONTRADICTIONS:
            if one in mine:
                theirs.pop(other, None)
            if other in mine:
                theirs.pop(one, None)
        merged = object.__new__(TaskOptions)
        vars(merged).update(theirs, **mine)
        return merged

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        return vars(self).copy()

    def due_at(self, now: datetime) -> datetime | None:
        """Return the earliest start, counted from `now`; None if there is nothing to wait for."""
        if self.eta is not None:
            return self.eta
        wait = self.debounce or self.delay
        return now + wait if wait else None

    def __setstate__(self, state: dict[str, Any] | list[Any]) -> None:
        # It had nine options and slots before; such a list lies in payloads with a `@task` by value.
        given = state if isinstance(state, dict) else dict(zip(_CHECKS, state, strict=False))
        vars(self).update({name: value for name, value in given.items() if value is not _blank(name)})


def _blank(name: str) -> object:
    """Return what stands for "not given": `result_ttl` takes None for an answer."""
    return UNSET if name == "result_ttl" else None


def unknown_option(name: str, known: Iterable[str]) -> ValidationError:
    """Return the error for an option that does not exist, with the nearest one that does."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(options)}"
    return ValidationError(f"{name!r} is not an option: {hint}")


# -- One check per field ---------------------------------------------------------------------------


def _result_ttl(value: object) -> timedelta | None:
    if value is None:
        return None
    try:
        return to_timedelta(value, "result_ttl")
    except ValidationError as error:
        raise ValidationError(f"{error}; None keeps the task for ever") from None


def _retry(value: object) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValidationError(f"retry is {kind(value)}: give the number of retries, or a RetryPolicy")
    return RetryPolicy(max_attempts=_max_retries(value, "retry") + 1)


def _max_retries(value: object, name: str = "max_retries") -> int:
    note = ", how often to try again after the first attempt"
    return integer(value, name, minimum=0, maximum=MAX_ATTEMPTS - 1, note=note)


def _expires(value: object) -> timedelta | datetime:
    if isinstance(value, int | float | timedelta):
        return to_timedelta(value, "expires", minimum=0.001)
    return instant(value, "expires", "a duration in seconds or as a timedelta")


def _key(value: object, name: str) -> str:
    key = label(value, name)
    if key.startswith(OWN_KEYS):
        raise ValidationError(
            f"{name} begins with {OWN_KEYS!r}, which is for sitq's own keys: give another one"
        )
    return key


def _unique_until(value: object) -> Until | timedelta:
    if isinstance(value, str):
        try:
            return Until(value)
        except ValueError:
            raise ValidationError(
                "unique_until is an unknown name: give 'start', 'end' or a duration"
            ) from None
    try:
        return to_timedelta(value, "unique_until", minimum=0.001)
    except ValidationError as error:
        raise ValidationError(f"{error}; or 'start' or 'end'") from None


def _depends_on(value: object) -> tuple[str, ...]:
    fix = "give the handle or the id of a task, or several of them"
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, bytes | Mapping):
        raise ValidationError(f"depends_on is {kind(value)}: {fix}")
    ids: dict[str, None] = {}
    for one in value:
        if not isinstance(one, str):
            raise ValidationError(f"depends_on has {kind(one)} in it: {fix}")
        ids[label(one, "depends_on")] = None
    return tuple(ids)


def _on_parent_failure(value: object) -> str:
    if not isinstance(value, str) or value not in ("cancel", "run"):
        what = "an unknown name" if isinstance(value, str) else kind(value)
        raise ValidationError(f"on_parent_failure is {what}: give 'cancel' or 'run'")
    return value


_CHECKS: Final[Mapping[str, Callable[[object], Any]]] = {
    "eta": partial(instant, name="eta", otherwise="use delay= for a duration"),
    "delay": partial(to_timedelta, name="delay"),
    "queue": partial(label, name="queue"),
    "priority": partial(
        integer, name="priority", minimum=MIN_PRIORITY, maximum=MAX_PRIORITY, note="; lower runs first"
    ),
    "id": partial(label, name="id"),
    "result_ttl": _result_ttl,
    "metadata": partial(json_object, name="metadata", max_bytes=MAX_METADATA_BYTES),
    "context": partial(str_keyed, name="context"),
    "max_crashes": partial(
        integer,
        name="max_crashes",
        minimum=1,
        maximum=MAX_CRASHES,
        note=", how many lost workers the task may cost",
    ),
    "retry": _retry,
    "max_retries": _max_retries,
    "retry_delay": partial(to_timedelta, name="retry_delay"),
    "timeout": partial(to_timedelta, name="timeout", minimum=MIN_TIMEOUT, maximum=MAX_TIMEOUT),
    "expires": _expires,
    "keep_failed": partial(to_timedelta, name="keep_failed"),
    "unique_key": partial(_key, name="unique_key"),
    "unique_until": _unique_until,
    "debounce": partial(to_timedelta, name="debounce", minimum=0.001),
    "throttle": partial(to_timedelta, name="throttle", minimum=0.001),
    "concurrency_key": partial(_key, name="concurrency_key"),
    "concurrency_limit": partial(integer, name="concurrency_limit", minimum=1, maximum=MAX_CONCURRENCY_LIMIT),
    "rate_limit": rate_limit,
    "rate_key": partial(_key, name="rate_key"),
    # Which ones there are is known to the queue.
    "executor": partial(label, name="executor"),
    "depends_on": _depends_on,
    "on_parent_failure": _on_parent_failure,
}

# What both would say. Of two options that contradict each other the one that was given for the call wins.
_CONTRADICTIONS: Final = (
    ("eta", "delay", "when to start"),
    ("debounce", "eta", "when to start"),
    ("debounce", "delay", "when to start"),
    ("debounce", "throttle", "which of several calls to run"),
    ("debounce", "depends_on", "when to start"),
    ("unique_until", "debounce", "how long the key is held"),
    ("unique_until", "throttle", "how long the key is held"),
    ("retry", "max_retries", "how often to try"),
    ("retry", "retry_delay", "when to try again"),
)
