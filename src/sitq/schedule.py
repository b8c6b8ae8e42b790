"""When something repeats: schedules as values, their ticks as pure functions of UTC instants.

Nothing here depends on who asks, or when: so any number of workers agree without a leader.
"""

import difflib
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from typing import Final, Literal, NamedTuple, get_args

from sitq.checks import Duration, label, to_timedelta
from sitq.cron import check_cron, cron_ticks
from sitq.errors import ValidationError

type Misfire = Literal["latest", "all", "skip"]
"""What becomes of ticks that nobody was there for: the newest one runs, or all do, or none."""
type Overlap = Literal["skip", "wait", "allow"]
"""What becomes of a tick while the task of an earlier one has not ended: it is dropped, or waits, or runs beside it."""

MISFIRES: Final[tuple[Misfire, ...]] = get_args(Misfire.__value__)
OVERLAPS: Final[tuple[Overlap, ...]] = get_args(Overlap.__value__)
MIN_INTERVAL: Final = 1.0
GRACE: Final = timedelta(seconds=60)
"""With `misfire="skip"` a tick still runs if it is no later than this."""
MAX_MISSED: Final = 1_000
"""With `misfire="all"` so many of the ticks that were missed run: the newest."""
MAX_NAME: Final = 150  # a task id holds the name and an instant

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


# -- The value -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When something repeats. Made by `make_schedule`, which checks it.

    Attributes:
        name: One schedule of a store has it.
        cron: A cron expression, read in the zone `tz`; or None.
        every: An interval, counted from 1970-01-01 00:00 UTC; or None.
        tz: Name of a time zone.
        misfire, overlap: See the types.
    """

    name: str
    cron: str | None
    every: timedelta | None
    tz: str
    misfire: Misfire
    overlap: Overlap


def make_schedule(
    name: str,
    *,
    cron: str | None = None,
    every: Duration | None = None,
    tz: str = "UTC",
    misfire: Misfire = "latest",
    overlap: Overlap | None = None,
) -> Schedule:
    """Return a schedule that has ticks.

    Args:
        name: 1 to 150 characters.
        cron: Five fields, six with seconds first, or an alias such as `@daily`. Needs the extra `cron`.
        every: Seconds or a timedelta, 1 s or more.
        tz: A name of the time zone database, such as `Europe/Berlin`. Only for `cron`.
        misfire: `latest`, `all` or `skip`.
        overlap: `skip`, `wait` or `allow`; by default `skip`, and `wait` with `misfire="all"`.

    Raises:
        ValidationError: An argument is not usable, or contradicts another one.
    """
    if (cron is None) == (every is None):
        raise ValidationError(
            f"cron and every are {'both' if cron is not None else 'neither'} given: give one of them, as in "
            "cron='0 3 * * *' or every=60"
        )
    if every is not None and tz != "UTC":
        raise ValidationError(
            "tz is given with every=, which counts from 1970-01-01 00:00 UTC in every zone: leave tz out, or use cron="
        )
    if overlap is None:
        overlap = "wait" if misfire == "all" else "skip"
    if (misfire, overlap) == ("all", "skip"):
        raise ValidationError(
            "misfire='all' makes several tasks at once, of which overlap='skip' drops all but one: use overlap='wait'"
        )
    _zone(tz)
    return Schedule(
        name=_name(name),
        cron=None if cron is None else check_cron(cron),
        every=None if every is None else to_timedelta(every, "every", minimum=MIN_INTERVAL),
        tz=tz,
        misfire=_one_of(misfire, "misfire", MISFIRES),
        overlap=_one_of(overlap, "overlap", OVERLAPS),
    )


def _name(name: object) -> str:
    text = label(name, "name")
    if len(text) > MAX_NAME:
        raise ValidationError(f"name has {len(text)} characters: give at most {MAX_NAME}")
    return text


def _one_of[T: str](value: object, field: str, known: tuple[T, ...]) -> T:
    for one in known:
        if value == one:
            return one
    given = repr(value) if isinstance(value, str) else f"a {type(value).__qualname__}"
    raise ValidationError(f"{field} is {given}: choose from {', '.join(known)}")


def _zone(name: object) -> tzinfo:
    if not isinstance(name, str):
        raise ValidationError(
            f"tz is a {type(name).__qualname__}: give the name of a zone, such as 'Europe/Berlin'"
        )
    if name == "UTC":
        return UTC  # also where there is no database
    try:
        if name != "localtime":  # another zone on each machine
            return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    zones = zoneinfo.available_timezones()
    if not zones:
        raise ValidationError(
            f"tz is {name!r}, and this machine has no time zone database: install the package tzdata"
        )
    folded = {zone.lower(): zone for zone in zones if zone != name}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    hint = f"did you mean {folded[near[0]]!r}?" if near else "give one such as 'Europe/Berlin'"
    raise ValidationError(f"tz is {name!r}, which is no time zone: {hint}")


# -- Ticks -----------------------------------------------------------------------------------------


def ticks(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """The instants of a schedule that are later than `after`, in order, at least a second apart.

    Without an end, unless fifty years have none.
    """
    if schedule.every is not None:
        return _intervals(schedule.every, after)
    assert schedule.cron is not None
    return cron_ticks(schedule.cron, _zone(schedule.tz), after)


def next_tick(schedule: Schedule, after: datetime) -> datetime | None:
    """The first instant of a schedule that is later than `after`."""
    return next(ticks(schedule, after), None)


def newest_ticks(
    schedule: Schedule, after: datetime, until: datetime, limit: int
) -> tuple[list[datetime], bool]:
    """The newest instants after `after` and not after `until`, `limit` at most; and whether others are older."""

    def some(start: datetime) -> list[datetime]:
        return list(islice(takewhile(lambda tick: tick <= until, ticks(schedule, start)), limit + 1))

    best = some(after)
    if len(best) <= limit:
        return best, False
    # A year without workers may have missed millions: look for a start that leaves no more than the limit.
    low, high = after, until
    while len(best) != limit:
        middle = low + (high - low) / 2
        found = some(middle)
        if len(found) > limit:
            low = middle
        else:
            high, best = middle, found
    return best, True


class Due(NamedTuple):
    """What is due of a schedule.

    Attributes:
        run: The ticks that become tasks.
        handled: The newest tick that is settled with them; None if there was none.
        missed: Others were missed, and do not run.
    """

    run: list[datetime]
    handled: datetime | None
    missed: bool


def due(schedule: Schedule, after: datetime, now: datetime) -> Due:
    """What has to be done at `now` if all ticks until `after` are settled, by the schedule's `misfire`."""
    limit = MAX_MISSED if schedule.misfire == "all" else 1
    found, more = newest_ticks(schedule, after, now, limit)
    if not found:
        return Due([], None, False)
    late = schedule.misfire == "skip" and now - found[-1] > GRACE
    return Due([] if late else found, found[-1], more or late)


def _intervals(every: timedelta, after: datetime) -> Iterator[datetime]:
    number = (after - _EPOCH) // every
    while True:
        number += 1
        yield _EPOCH + number * every
