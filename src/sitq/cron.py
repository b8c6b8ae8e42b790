"""Cron expressions as pure functions of UTC instants.

Which instants an expression has depends on it and on the time zone database alone: not on the zone of the process, not
on when it was asked, not on who asks. What it means where clocks change:

1.  Its fields are compared with the local time of its zone.
2.  If its hours are restricted (`0 3 * * *`, `*/10 9-17 * * *`, `0 */2 * * *`), each local time that matches runs once.
    One that is repeated, because clocks go back, runs the first time. One that is skipped, because clocks go forward,
    runs at the first instant after the gap. Those that fall on one instant run once.
3.  If it matches all 24 hours (`0 * * * *`, `*/15 * * * *`), it runs whenever the local time matches: in a repeated
    hour again, in a skipped one not. So what runs each hour goes on running each hour.

cronsim parses, and enumerates local times without a zone. Its own rule for zones is that of Debian's cron, which asks
whether a field is written with a star: `*/10 2 * * *` loses the night in which clocks go forward, and `0 */2 * * *`
runs twice in the other one. Where clocks change by half an hour it also loses runs after the gap.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final

from sitq.checks import label
from sitq.errors import ValidationError

if TYPE_CHECKING:
    from cronsim import CronSim

_SOME_DAY: Final = datetime(2000, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
# Shorter than the time between any two changes of clocks in one zone.
_PROBE: Final = timedelta(hours=6)
_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FORM: Final = (
    "write minute, hour, day of month, month and day of week, as in '0 3 * * *', six fields with seconds first, or "
    f"one of {', '.join(_ALIASES)}"
)


def check_cron(text: object) -> str:
    """Return a cron expression that has ticks, with single spaces.

    Raises:
        ValidationError: It cannot be parsed, never matches, or cronsim is not installed.
    """
    if not isinstance(text, str):
        raise ValidationError(f"cron is a {type(text).__qualname__}: {_FORM}")
    expression = " ".join(label(text, "cron").split())
    if next(_parse(expression, _SOME_DAY), None) is None:
        raise ValidationError(
            f"cron is {expression!r}, which matches no time in fifty years: check its days and months"
        )
    return expression


def cron_ticks(expression: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """The instants of an expression later than `after`, in order. Ends only where fifty years have none."""
    after = after.astimezone(UTC)
    if len(_parse(expression, _SOME_DAY).hours) == 24:
        return _in_real_time(expression, zone, after)
    return _on_the_wall(expression, zone, after)


def _parse(expression: str, after: datetime) -> "CronSim":
    """The one place that knows cronsim. `after` is naive or in UTC, so that no zone comes into it."""
    try:
        from cronsim import CronSim  # noqa: PLC0415  # an extra
    except ImportError:
        raise ValidationError(
            "cron needs the package cronsim, which is not installed: install sitq with its extra, in a checkout with "
            'pip install ".[cron]", or use every='
        ) from None
    try:
        return CronSim(_ALIASES.get(expression.lower(), expression), after)
    except Exception as error:  # some mistakes it meets with other errors than its own
        reason = str(error).lower() or "not a cron expression"
        raise ValidationError(f"cron is {expression!r}, {reason}: {_FORM}") from None


def _on_the_wall(expression: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """Rule 2. No later local time comes first, so one pass in the order of local times finds all."""
    for local in _parse(expression, _local(after, zone)):
        instant = _first_instant(local, zone)
        if instant > after:
            yield instant
            after = instant


def _in_real_time(expression: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """Rule 3. Local times are enumerated anew from each change of clocks on."""
    after = after.replace(microsecond=0)
    offset = _offset(after, zone)
    while True:
        for local in _parse(expression, (after + offset).replace(tzinfo=None)):
            instant = (local - offset).replace(tzinfo=UTC)
            change = _change(zone, offset, after, instant)
            if change is not None:
                after, offset = change - _SECOND, _offset(change, zone)
                break
            yield instant
            after = instant
        else:
            return


def _first_instant(local: datetime, zone: tzinfo) -> datetime:
    """The first instant at which a clock on the wall has come to this time, or beyond it."""
    instant = local.replace(tzinfo=zone).astimezone(UTC)
    if _local(instant, zone) == local:
        return instant
    # In a gap. The two readings of the time, with the offset after the change and the one before, are around it.
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    change = _change(zone, _offset(before, zone), before, instant)
    assert change is not None
    return change


def _change(zone: tzinfo, offset: timedelta, after: datetime, until: datetime) -> datetime | None:
    """The first instant later than `after` and not later than `until` at which the zone has another offset."""
    low = after
    while low < until:
        high = min(low + _PROBE, until)
        if _offset(high, zone) != offset:
            return _bisect(zone, offset, low, high)
        low = high
    return None


def _bisect(zone: tzinfo, offset: timedelta, low: datetime, high: datetime) -> datetime:
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        if _offset(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high


def _offset(instant: datetime, zone: tzinfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _local(instant: datetime, zone: tzinfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)
