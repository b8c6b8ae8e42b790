"""How often a task may start, as people write it: `100/minute`."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sitq.checks import integer, kind, to_timedelta
from sitq.errors import ValidationError

MAX_COUNT: Final = 10_000
MIN_PERIOD: Final = 0.001
MAX_PERIOD: Final = timedelta(days=30).total_seconds()

_UNITS: Final = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), timedelta(milliseconds=1)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), timedelta(seconds=1)),
    **dict.fromkeys(("m", "min", "minute", "minutes"), timedelta(minutes=1)),
    **dict.fromkeys(("h", "hour", "hours"), timedelta(hours=1)),
    **dict.fromkeys(("d", "day", "days"), timedelta(days=1)),
}
_FORM: Final = re.compile(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})?\s*([a-z]+)\s*", re.ASCII)
_FIX: Final = "write a count and a period, as in '100/minute', '5/s', '1000/day' or '10/30s'"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `count` starts within any span of `period`."""

    count: int
    period: timedelta


def rate_limit(value: object, name: str = "rate_limit") -> RateLimit:
    """Return a limit that is written as `count/period`: a count from 1 to 10,000, a period from 1 ms to 30 days.

    The period is a unit (ms, s, m, h, d, or second, minute, hour, day) with or without a number before it.

    Raises:
        ValidationError: Not of this form, or out of range.
    """
    if isinstance(value, RateLimit):
        count, period = value.count, value.period
    elif isinstance(value, str):
        found = _FORM.fullmatch(value)
        if found is None:
            raise ValidationError(f"{name} is a str of another form: {_FIX}")
        unit = _UNITS.get(found[3])
        if unit is None:
            raise ValidationError(f"{name} has an unknown unit: use ms, s, m, h or d; {_FIX}")
        # 10**9 days are within what a timedelta holds.
        count, period = int(found[1]), unit * int(found[2] or 1)
    else:
        raise ValidationError(f"{name} is {kind(value)}: {_FIX}")
    return RateLimit(
        integer(count, f"the count of {name}", minimum=1, maximum=MAX_COUNT),
        to_timedelta(period, f"the period of {name}", minimum=MIN_PERIOD, maximum=MAX_PERIOD),
    )
