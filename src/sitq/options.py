"""The options of a task: one frozen value, validated where it is made.

`TaskOptions` never holds anything unusable, so nothing behind it checks again. A check is one function per field; it
returns the value in the form that is stored (UTC, `timedelta`, plain dict) or raises a `ValidationError` that names the
field, what was given, what is accepted and the way out.
"""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, Literal, TypedDict, Unpack

from sitq.errors import ValidationError
from sitq.model import MAX_PRIORITY, MIN_PRIORITY

type Duration = float | timedelta
"""Seconds as an int or a float, or a `timedelta`."""

MAX_NAME_LENGTH: Final = 200
MAX_METADATA_BYTES: Final = 16 * 1024
MAX_METADATA_DEPTH: Final = 100
MAX_CRASHES: Final = 1000
# A bound that nobody meets on purpose keeps `now + delay` within what datetime and the storages can hold.
MAX_DURATION: Final = timedelta(days=36_525)

# What a log line, a terminal or a storage cannot carry: controls, line separators, lone surrogates.
_UNUSABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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


class GivenOptions(GivenDefaults, total=False):
    """The options that may be given for one call; see `TaskOptions`."""

    eta: datetime | None
    delay: Duration | None
    id: str | None
    context: Mapping[str, Any] | None


DEFAULT_NAMES: Final = frozenset(GivenDefaults.__annotations__)
OPTION_NAMES: Final = frozenset(GivenOptions.__annotations__)


# -- Durations, also for the settings of queue and worker ------------------------------------------


def seconds(value: object, name: str, *, minimum: float = 0.0, maximum: float | None = None) -> float:
    """Return a duration in seconds.

    Args:
        value: Seconds (int or float) or a timedelta.
        name: What the caller calls it, for the message.
        minimum, maximum: Accepted range in seconds, both ends included; no maximum means a hundred years.

    Raises:
        ValidationError: Not a number or timedelta, not finite, or out of range.
    """
    top = MAX_DURATION.total_seconds() if maximum is None else maximum
    fix = f"give seconds (int or float) or a timedelta, from {minimum:g} s"
    fix += " to a hundred years" if maximum is None else f" to {maximum:g} s"
    if isinstance(value, timedelta):
        number = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    else:
        raise ValidationError(f"{name} is {_kind(value)}: {fix}")
    # Written so that NaN fails as well.
    if not minimum <= number <= top:
        raise ValidationError(f"{name} is {number:g} s, which is out of range: {fix}")
    return number


def to_timedelta(
    value: object, name: str, *, minimum: float = 0.0, maximum: float | None = None
) -> timedelta:
    """Return a duration as a timedelta; arguments and errors as in `seconds`."""
    number = seconds(value, name, minimum=minimum, maximum=maximum)
    return value if isinstance(value, timedelta) else timedelta(seconds=number)


def label(value: object, name: str) -> str:
    """Return a name or id that every storage and every log line can hold, as a plain str.

    Raises:
        ValidationError: Not a str, empty, longer than 200 characters, or with characters that are not text.
    """
    fix = f"give a non-empty str of at most {MAX_NAME_LENGTH} characters without control characters"
    if not isinstance(value, str):
        raise ValidationError(f"{name} is {_kind(value)}: {fix}")
    if not 0 < len(value) <= MAX_NAME_LENGTH:
        raise ValidationError(f"{name} has {len(value)} characters: {fix}")
    if found := _UNUSABLE.search(value):
        raise ValidationError(f"{name} contains {found[0]!a}: {fix}")
    return str.__str__(value)


# -- The value -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, init=False)
class TaskOptions:
    """Everything about a task that is not its call. An option that was not given stays open for a default.

    Attributes:
        eta: Earliest start, an aware datetime; kept in UTC. Excludes `delay`.
        delay: Earliest start, counted from enqueueing. Excludes `eta`.
        queue: Name of the queue.
        priority: Lower runs first, from -9 to 9.
        id: The task id, chosen by the caller; enqueueing the same id again changes nothing.
        result_ttl: How long the task is kept after it finished. None keeps it for ever; not given is `UNSET`.
        metadata: A JSON object for people and filters, at most 16 KiB.
        context: Travels with the call and is handed out by `current_task()`; never part of the arguments.
        max_crashes: How many times a worker may die over the task before it is given up, from 1 to 1000.

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

    def __init__(self, **given: Unpack[GivenOptions]) -> None:
        put = object.__setattr__
        for name, blank in _BLANKS:
            put(self, name, blank)
        for name, value in given.items():
            check = _CHECKS.get(name)
            if check is None:
                raise unknown_option(name, OPTION_NAMES)
            if value is not (UNSET if name == "result_ttl" else None):
                put(self, name, check(value))
        if self.eta is not None and self.delay is not None:
            raise ValidationError("eta and delay both say when to start: give one of them")

    def over(self, defaults: "TaskOptions") -> "TaskOptions":
        """Return these options, filled up from `defaults`. Of `eta` and `delay` only the given one is kept."""
        mine, theirs = self.given(), defaults.given()
        if not mine or not theirs:
            return self if mine else defaults
        if "eta" in mine or "delay" in mine:
            theirs.pop("eta", None)
            theirs.pop("delay", None)
        merged = object.__new__(TaskOptions)
        for name, blank in _BLANKS:
            object.__setattr__(merged, name, mine.get(name, theirs.get(name, blank)))
        return merged

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        return {name: value for name, blank in _BLANKS if (value := getattr(self, name)) is not blank}

    def due_at(self, now: datetime) -> datetime | None:
        """Return the earliest start, `delay` counted from `now`; None if there is nothing to wait for."""
        if self.eta is not None:
            return self.eta
        return now + self.delay if self.delay else None


def unknown_option(name: str, known: Iterable[str]) -> ValidationError:
    """Return the error for an option that does not exist, with the nearest one that does."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(options)}"
    return ValidationError(f"{name!r} is not an option: {hint}")


# -- One check per field ---------------------------------------------------------------------------


def _kind(value: object) -> str:
    """What was given, by type: a value may be secret, or its repr may fail."""
    if value is None:
        return "None"
    name = type(value).__qualname__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _said(error: Exception) -> str:
    try:
        return str(error) or type(error).__qualname__
    except Exception:
        return type(error).__qualname__


def _eta(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise ValidationError(f"eta is {_kind(value)}: give an aware datetime, or use delay= for a duration")
    if value.utcoffset() is None:
        raise ValidationError(
            "eta is a naive datetime, which does not say when: start from datetime.now(UTC), or add the zone "
            "with .replace(tzinfo=...)"
        )
    try:
        utc = value.astimezone(UTC)
        # A plain datetime, whatever subclass was given: it is stored, compared and pickled.
        return datetime.combine(utc.date(), utc.time(), UTC)
    except (OverflowError, ValueError) as error:
        raise ValidationError("eta is out of range in UTC: give a datetime from year 1 to 9999") from error


def _delay(value: object) -> timedelta:
    return to_timedelta(value, "delay")


def _result_ttl(value: object) -> timedelta | None:
    if value is None:
        return None
    try:
        return to_timedelta(value, "result_ttl")
    except ValidationError as error:
        raise ValidationError(f"{error}; None keeps the task for ever") from None


def _integer(name: str, minimum: int, maximum: int, note: str) -> Callable[[object], int]:
    fix = f"give an int from {minimum} to {maximum}{note}"

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValidationError(f"{name} is {_kind(value)}: {fix}")
        if not minimum <= value <= maximum:
            raise ValidationError(f"{name} is out of range: {fix}")
        return int(value)

    return check


def _mapping(value: object, name: str) -> dict[Any, Any]:
    """Return a copy of a mapping, whatever its keys are."""
    if not isinstance(value, Mapping):
        raise ValidationError(f"{name} is {_kind(value)}: give a mapping with str keys")
    try:
        return dict(value)
    except Exception as error:
        raise ValidationError(f"{name} cannot be copied ({_said(error)}): give a plain dict") from error


def _metadata(value: object) -> dict[str, Any]:
    copy = _mapping(value, "metadata")
    try:
        _only_str_keys(copy)
        data = json.dumps(copy, allow_nan=False, ensure_ascii=False).encode()
        # Back from JSON: a copy all the way down, and what a reader will get (a list for a tuple, a str for an enum).
        plain: dict[str, Any] = json.loads(data)
    except UnicodeEncodeError:
        raise ValidationError("metadata contains a lone surrogate: give text that is valid Unicode") from None
    except Exception as error:
        raise ValidationError(
            f"metadata is not a JSON object ({_said(error)}): use str keys, and str, int, finite float, bool, None, "
            "list and dict"
        ) from error
    if len(data) > MAX_METADATA_BYTES:
        raise ValidationError(
            f"metadata is {len(data):,} bytes as JSON: give at most {MAX_METADATA_BYTES:,}; data for the task belongs "
            "in its arguments"
        )
    return plain


def _only_str_keys(value: Any, depth: int = 1) -> None:
    """Refuse other keys, since json would turn 1 and None into strings without a word; and what nests too deep."""
    if depth > MAX_METADATA_DEPTH:
        raise ValueError(f"it is nested more than {MAX_METADATA_DEPTH} deep")
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a key is {_kind(key)}")
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    for item in items:
        _only_str_keys(item, depth + 1)


def _context(value: object) -> dict[str, Any]:
    copy = _mapping(value, "context")
    for key in copy:
        if not isinstance(key, str):
            raise ValidationError(f"context has a key that is {_kind(key)}: give a mapping with str keys")
    return copy


_CHECKS: Final[Mapping[str, Callable[[object], Any]]] = {
    "eta": _eta,
    "delay": _delay,
    "queue": partial(label, name="queue"),
    "priority": _integer("priority", MIN_PRIORITY, MAX_PRIORITY, "; lower runs first"),
    "id": partial(label, name="id"),
    "result_ttl": _result_ttl,
    "metadata": _metadata,
    "context": _context,
    "max_crashes": _integer("max_crashes", 1, MAX_CRASHES, ", how many lost workers the task may cost"),
}
_BLANKS: Final = tuple((name, UNSET if name == "result_ttl" else None) for name in _CHECKS)
