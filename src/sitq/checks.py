"""Checks that many values share: durations, instants, integers, names. Each returns the value in the form that is kept.

A message names the field, the kind of what was given and the fix; never the value itself if it may be secret.
"""

# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sitq.errors import ValidationError

type Duration = float | timedelta
"""Seconds as an int or a float, or a `timedelta`."""

MAX_NAME_LENGTH: Final = 200
MAX_DEPTH: Final = 100
# A bound that nobody meets on purpose keeps `now + delay` within what datetime and the storages can hold.
MAX_DURATION: Final = timedelta(days=36_525)

# What a log line, a terminal or a storage cannot carry: controls, line separators, lone surrogates.
_UNUSABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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
        raise ValidationError(f"{name} is {kind(value)}: {fix}")
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


def instant(value: object, name: str, otherwise: str) -> datetime:
    """Return an aware datetime in UTC.

    Args:
        otherwise: What else the field takes, or where a duration goes, for the message.

    Raises:
        ValidationError: Not a datetime, naive, or out of range in UTC.
    """
    if not isinstance(value, datetime):
        raise ValidationError(f"{name} is {kind(value)}: give an aware datetime, or {otherwise}")
    if value.utcoffset() is None:
        raise ValidationError(
            f"{name} is a naive datetime, which does not say when: start from datetime.now(UTC), or add the zone "
            "with .replace(tzinfo=...)"
        )
    try:
        utc = value.astimezone(UTC)
        # A plain datetime, whatever subclass was given: it is stored, compared and pickled.
        return datetime.combine(utc.date(), utc.time(), UTC)
    except (OverflowError, ValueError) as error:
        raise ValidationError(
            f"{name} is out of range in UTC: give a datetime from year 1 to 9999"
        ) from error


def integer(value: object, name: str, *, minimum: int, maximum: int, note: str = "") -> int:
    """Return a plain int from `minimum` to `maximum`; `note` goes into the message.

    Raises:
        ValidationError: Not an int, or out of range.
    """
    fix = f"give an int from {minimum} to {maximum}{note}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValidationError(f"{name} is {kind(value)}: {fix}")
    if not minimum <= value <= maximum:
        raise ValidationError(f"{name} is out of range: {fix}")
    return int(value)


def label(value: object, name: str) -> str:
    """Return a name or id that every storage and every log line can hold, as a plain str.

    Raises:
        ValidationError: Not a str, empty, longer than 200 characters, or with characters that are not text.
    """
    fix = f"give a non-empty str of at most {MAX_NAME_LENGTH} characters without control characters"
    if not isinstance(value, str):
        raise ValidationError(f"{name} is {kind(value)}: {fix}")
    if not 0 < len(value) <= MAX_NAME_LENGTH:
        raise ValidationError(f"{name} has {len(value)} characters: {fix}")
    if found := _UNUSABLE.search(value):
        raise ValidationError(f"{name} contains {found[0]!a}: {fix}")
    return str.__str__(value)


def kind(value: object) -> str:
    """What was given, by type: a value may be secret, or its repr may fail."""
    if value is None:
        return "None"
    name = type(value).__qualname__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


# -- Mappings --------------------------------------------------------------------------------------


def str_keyed(value: object, name: str) -> dict[str, Any]:
    """Return a copy of a mapping with str keys and whatever values.

    Raises:
        ValidationError: Not a mapping, or with another key.
    """
    copy = _mapping(value, name)
    for key in copy:
        if not isinstance(key, str):
            raise ValidationError(f"{name} has a key that is {kind(key)}: give a mapping with str keys")
    return copy


def json_object(value: object, name: str, max_bytes: int) -> dict[str, Any]:
    """Return a copy of a mapping, all the way down, as a reader of its JSON will get it.

    Raises:
        ValidationError: Not a mapping, not JSON, nested more than 100 deep, or more than `max_bytes`.
    """
    copy = _mapping(value, name)
    try:
        _only_str_keys(copy)
        data = json.dumps(copy, allow_nan=False, ensure_ascii=False).encode()
        # Back from JSON: a list for a tuple, a str for an enum.
        plain: dict[str, Any] = json.loads(data)
    except UnicodeEncodeError:
        raise ValidationError(f"{name} contains a lone surrogate: give text that is valid Unicode") from None
    except Exception as error:
        raise ValidationError(
            f"{name} is not a JSON object ({_said(error)}): use str keys, and str, int, finite float, bool, None, "
            "list and dict"
        ) from error
    if len(data) > max_bytes:
        raise ValidationError(
            f"{name} is {len(data):,} bytes as JSON: give at most {max_bytes:,}; data for the task belongs "
            "in its arguments"
        )
    return plain


def _mapping(value: object, name: str) -> dict[Any, Any]:
    """Return a copy of a mapping, whatever its keys are."""
    if not isinstance(value, Mapping):
        raise ValidationError(f"{name} is {kind(value)}: give a mapping with str keys")
    try:
        return dict(value)
    except Exception as error:
        raise ValidationError(f"{name} cannot be copied ({_said(error)}): give a plain dict") from error


def _only_str_keys(value: Any, depth: int = 1) -> None:
    """Refuse other keys, since json would turn 1 and None into strings without a word; and what nests too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a key is {kind(key)}")
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    for item in items:
        _only_str_keys(item, depth + 1)


def _said(error: Exception) -> str:
    try:
        return str(error) or type(error).__qualname__
    except Exception:
        return type(error).__qualname__
