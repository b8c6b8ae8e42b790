"""Which instants a schedule has and which of them run, by brute force: to be compared with `sitq.schedule`."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
MOST_MISSED = 1_000
GRACE = timedelta(seconds=60)


class Repetition(NamedTuple):
    """When something repeats: `every` so often, or at these local times of each day.

    Attributes:
        cron: As sitq is told.
        times: Hours and minutes. Nobody parses an expression here.
    """

    every: timedelta | None = None
    cron: str | None = None
    tz: str = "UTC"
    times: tuple[tuple[int, int], ...] = ()

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """Those later than `after` and not later than `until`, in order."""
        if self.every is not None:
            first = (after - EPOCH) // self.every + 1
            last = (until - EPOCH) // self.every
            return [EPOCH + number * self.every for number in range(first, last + 1)]
        zone = ZoneInfo(self.tz)
        day, end = after.astimezone(zone).date() - DAY, until.astimezone(zone).date() + DAY
        found: set[datetime] = set()
        while day <= end:
            found |= {
                _first(datetime(day.year, day.month, day.day, hour, minute), zone)
                for hour, minute in self.times
            }
            day += DAY
        return sorted(instant for instant in found if after < instant <= until)


def _first(local: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which a clock on the wall shows this time, or has gone past it."""
    instant = local.replace(tzinfo=zone).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == local:
        return instant
    instant -= timedelta(hours=3)
    while instant.astimezone(zone).replace(tzinfo=None) < local:
        instant += MINUTE
    return instant


class Run(NamedTuple):
    """Which instants run, and the newest one that is settled with them."""

    instants: list[datetime]
    settled: datetime | None


def due(repetition: Repetition, misfire: str, after: datetime, now: datetime) -> Run:
    found = repetition.between(after, now)
    if not found:
        return Run([], None)
    if misfire == "all":
        return Run(found[-MOST_MISSED:], found[-1])
    late = misfire == "skip" and now - found[-1] > GRACE
    return Run([] if late else found[-1:], found[-1])
