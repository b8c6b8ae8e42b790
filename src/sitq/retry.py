"""Whether and when a task that failed is tried again: one frozen policy and pure functions over it."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, cast

from sitq.checks import Duration, integer, kind, seconds
from sitq.errors import ValidationError
from sitq.verbs import Retry

type Backoff = Literal["exponential", "linear", "constant"] | Callable[[int], Duration]
type Jitter = Literal["full", "equal", "none"]
type ErrorTypes = type[BaseException] | Iterable[type[BaseException]]

MAX_ATTEMPTS: Final = 1_000_000
MAX_FACTOR: Final = 1000.0
DEFAULT_BASE: Final = 1.0
# Long enough for a service that restarts, short enough that nobody takes the task for lost.
DEFAULT_MAX_DELAY: Final = 600.0

_EXCEPTIONS: Final[Any] = vars(BaseExceptionGroup)["exceptions"]
_BACKOFFS: Final = ("exponential", "linear", "constant")
_JITTERS: Final = ("full", "equal", "none")


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """How often a task is tried, which exceptions are worth another try, and how long to wait before it.

    The defaults are 3 attempts, after up to 1 s and up to 2 s: that gets over a lost connection and is no burden for
    whoever waits.

    Attributes:
        max_attempts: How often it is tried in all, the first one counted; 1 to 1,000,000.
        backoff: How the wait grows with the number `n` of attempts so far: `exponential` is `base * factor ** (n - 1)`,
            `linear` is `base * n`, `constant` is `base`. Or a function that gets `n` and returns seconds or a
            timedelta: whatever else comes out of it (negative, NaN, an exception) counts as `max_delay`.
        base: The first wait, in seconds; 1 s by default, or `max_delay` if that is less.
        factor: Of the exponential back-off, 1 to 1000.
        max_delay: No wait is longer, in seconds; 10 minutes by default, or `base` if that is more.
        jitter: Spreads those that failed together. `full` waits between 0 and the computed time, `equal` between half
            of it and all of it, `none` exactly as long. True is `full`, False is `none`.
        on: Exceptions that are retried, with their subclasses; `Exception` by default.
        give_up_on: Exceptions that are not, whatever `on` says.

    An exception group is retried if it is in `on` or all that it holds is; one exception to give up on decides.

    Raises:
        ValidationError: A field is unusable; the message names it.
    """

    max_attempts: int
    backoff: Backoff
    base: float
    factor: float
    max_delay: float
    jitter: Jitter
    on: tuple[type[BaseException], ...]
    give_up_on: tuple[type[BaseException], ...]

    def __init__(
        self,
        *,
        max_attempts: int = 3,
        backoff: Backoff = "exponential",
        base: Duration | None = None,
        factor: float = 2.0,
        max_delay: Duration | None = None,
        jitter: Jitter | bool = "full",
        on: ErrorTypes = Exception,
        give_up_on: ErrorTypes = (),
    ) -> None:
        note = ", the first one counted"
        first, top = _bounds(base, max_delay)
        kept = {
            "max_attempts": integer(max_attempts, "max_attempts", minimum=1, maximum=MAX_ATTEMPTS, note=note),
            "backoff": _backoff(backoff),
            "base": first,
            "factor": _factor(factor),
            "max_delay": top,
            "jitter": _jitter(jitter),
            "on": _error_types(on, "on"),
            "give_up_on": _error_types(give_up_on, "give_up_on"),
        }
        if not kept["on"]:
            raise ValidationError(
                "on is empty, so nothing would be retried: leave it out, or use max_attempts=1"
            )
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # By name, and only what is not the default: it lies in payloads, which newer versions have to read.
        usual = _DEFAULT
        given = {name: value for name in _FIELDS if (value := getattr(self, name)) != getattr(usual, name)}
        return _restored, (given,)


def _restored(given: dict[str, Any]) -> RetryPolicy:
    return RetryPolicy(**given)


class Decision(NamedTuple):
    """What becomes of a task whose attempt failed.

    Attributes:
        retry_at: When to try again; None means that it is given up.
        exhausted: It is given up because it failed in the last of several attempts.
    """

    retry_at: datetime | None
    exhausted: bool = False


GIVE_UP: Final = Decision(None)


def decide(
    policy: RetryPolicy | None,
    error: BaseException,
    attempt: int,
    now: datetime,
    rng: Callable[[], float],
) -> Decision:
    """Decide over a task whose attempt ended with `error`. No error gets out.

    Args:
        policy: None means one attempt, unless the task itself asks for more with `Retry`.
        attempt: Which attempt it was, from 1.
        rng: Numbers from 0 to 1, as `random.random`.
    """
    asked = issubclass(type(error), Retry)
    if policy is None and asked:
        policy = _DEFAULT
    if policy is None or not (asked or is_retryable(policy, error)):
        return GIVE_UP
    if attempt >= policy.max_attempts:
        return Decision(None, exhausted=policy.max_attempts > 1)
    wish = getattr(error, "delay", None) if asked else None
    if isinstance(wish, timedelta):
        return Decision(now + wish)
    return Decision(now + timedelta(seconds=delay(policy, attempt, rng)))


def is_retryable(policy: RetryPolicy, error: BaseException) -> bool:
    """Return whether the policy retries this exception."""
    held = leaves(error)
    if any(_is_one_of(one, policy.give_up_on) for one in (error, *held)):
        return False
    return _is_one_of(error, policy.on) or all(_is_one_of(one, policy.on) for one in held)


def delay(policy: RetryPolicy, attempt: int, rng: Callable[[], float]) -> float:
    """Return how many seconds to wait after attempt number `attempt`: from 0 to `max_delay`, for any number.

    Args:
        rng: Numbers from 0 to 1, as `random.random`.
    """
    top = policy.max_delay
    try:
        match policy.backoff:
            case "exponential":
                span = policy.base * policy.factor ** (attempt - 1)
            case "linear":
                span = policy.base * attempt
            case "constant":
                span = policy.base
            case backoff:
                span = seconds(backoff(attempt), "backoff")
    except OverflowError:
        span = top if policy.base else 0.0
    except BaseException:  # a function of somebody else must not take the worker along
        span = top
    span = min(span, top)
    if policy.jitter == "full":
        return span * rng()
    if policy.jitter == "equal":
        return span / 2 * (1 + rng())
    return span


def leaves(error: BaseException) -> list[BaseException]:
    """Return what a group holds, all the way down; else the exception itself."""
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        if issubclass(type(one), BaseExceptionGroup):
            # Past its own class, which may have another idea of what it holds.
            left += _EXCEPTIONS.__get__(one)
        else:
            found.append(one)
    return found


def _is_one_of(error: BaseException, types: tuple[type[BaseException], ...]) -> bool:
    """As an `except` clause would say: by the classes that it really has, without a word from their metaclasses."""
    return any(each is one for each in type(error).__mro__ for one in types)


# -- One check per field ---------------------------------------------------------------------------


def _bounds(base: object, max_delay: object) -> tuple[float, float]:
    """Return the first wait and the longest one. Of the two the given one moves the other, if need be."""
    if max_delay is None:
        first = DEFAULT_BASE if base is None else seconds(base, "base")
        return first, max(DEFAULT_MAX_DELAY, first)
    top = seconds(max_delay, "max_delay")
    first = min(DEFAULT_BASE, top) if base is None else seconds(base, "base")
    if first > top:
        raise ValidationError("base is more than max_delay: give a base of at most max_delay")
    return first, top


def _backoff(value: object) -> Backoff:
    if isinstance(value, str):
        if value in _BACKOFFS:
            return cast(Backoff, str.__str__(value))
    elif callable(value):
        if not inspect.iscoroutinefunction(value):
            return cast(Backoff, value)
        raise ValidationError("backoff is an async function: give a plain one, which returns seconds")
    what = "an unknown name" if isinstance(value, str) else kind(value)
    raise ValidationError(
        f"backoff is {what}: give {', '.join(map(repr, _BACKOFFS))}, or a function of the attempt's number"
    )


def _factor(value: object) -> float:
    fix = f"give a number from 1 to {MAX_FACTOR:g}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValidationError(f"factor is {kind(value)}: {fix}")
    if not 1 <= value <= MAX_FACTOR:
        raise ValidationError(f"factor is out of range: {fix}")
    return float(value)


def _jitter(value: object) -> Jitter:
    if isinstance(value, bool):
        return "full" if value else "none"
    if isinstance(value, str) and value in _JITTERS:
        return cast(Jitter, str.__str__(value))
    what = "an unknown name" if isinstance(value, str) else kind(value)
    raise ValidationError(f"jitter is {what}: give {', '.join(map(repr, _JITTERS))}, or a bool")


def _error_types(value: object, name: str) -> tuple[type[BaseException], ...]:
    fix = f"give exception classes, as in {name}=(ConnectionError, TimeoutError)"
    given = (value,) if isinstance(value, type) or not isinstance(value, Iterable) else tuple(value)
    for each in given:
        if not isinstance(each, type):
            raise ValidationError(f"{name} has {kind(each)} in it: {fix}")
        if not issubclass(each, BaseException):
            raise ValidationError(
                f"{name} has the class {each.__qualname__} in it, which is no exception: {fix}"
            )
    return cast(tuple[type[BaseException], ...], given)


_FIELDS: Final = tuple(each.name for each in fields(RetryPolicy))
_DEFAULT: Final = RetryPolicy()
