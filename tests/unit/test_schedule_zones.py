"""What cron expressions mean where clocks change: checked at every change of every zone from 2000 to 2040."""

import functools
import struct
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from importlib import resources
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

from sitq.schedule import make_schedule, next_tick, ticks

BEGIN, END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2041, 1, 1, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


class Change(NamedTuple):
    """Clocks of a zone go from one offset to another."""

    at: datetime
    before: timedelta
    after: timedelta
    zone: str

    @property
    def size(self) -> timedelta:
        """How far they go forward."""
        return self.after - self.before

    def local(self, offset: timedelta) -> datetime:
        return (self.at + offset).replace(tzinfo=None)


# -- All changes, from the files of the database ---------------------------------------------------


def file_of(zone: str) -> bytes:
    for folder in zoneinfo.TZPATH:
        if (path := Path(folder) / zone).is_file():
            return path.read_bytes()
    *package, name = zone.split("/")
    return resources.files(".".join(["tzdata.zoneinfo", *package])).joinpath(name).read_bytes()


def moments_in(data: bytes) -> list[datetime]:
    """The moments that a file names: the 64-bit block of RFC 9636."""

    def counts(start: int) -> tuple[int, ...]:
        assert data[start : start + 4] == b"TZif"
        return struct.unpack_from(">6l", data, start + 20)

    utc, std, leap, times, types, chars = counts(0)
    second = 44 + times * 5 + types * 6 + chars + leap * 8 + std + utc
    number = counts(second)[3]
    seconds = struct.unpack_from(f">{number}q", data, second + 44)
    return [datetime.fromtimestamp(one, UTC) for one in seconds if BEGIN.timestamp() <= one < END.timestamp()]


def offset(instant: datetime, zone: zoneinfo.ZoneInfo) -> timedelta:
    found = instant.astimezone(zone).utcoffset()
    assert found is not None
    return found


def bisected(low: datetime, high: datetime, zone: zoneinfo.ZoneInfo) -> datetime:
    before = offset(low, zone)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        low, high = (middle, high) if offset(middle, zone) == before else (low, middle)
    return high


def moments(zone: zoneinfo.ZoneInfo, data: bytes) -> Iterator[datetime]:
    """Those in the file, and behind its last one those of the rule at its end, two a year."""
    named = moments_in(data)
    yield from named
    last = named[-1] if named else BEGIN
    for low, high in pairwise(
        takewhile(lambda at: at < END, (last + week * 7 * DAY for week in range(2200)))
    ):
        if offset(low, zone) != offset(high, zone):
            yield bisected(low, high, zone)


@functools.cache
def changes() -> tuple[Change, ...]:
    """Each change once, whichever zones make it."""
    found: dict[tuple[datetime, timedelta, timedelta], Change] = {}
    files: set[bytes] = set()
    for name in sorted(zoneinfo.available_timezones() - {"localtime"}):
        if (data := file_of(name)) not in files:
            files.add(data)
            zone = zoneinfo.ZoneInfo(name)
            for at in moments(zone, data):
                before, after = offset(at - timedelta(seconds=1), zone), offset(at, zone)
                if before != after:
                    found.setdefault((at, before, after), Change(at, before, after, name))
    return tuple(found.values())


def test_there_are_changes_of_every_kind() -> None:
    sizes = {change.size for change in changes()}
    assert len(changes()) > 2500
    assert {timedelta(minutes=m) for m in (60, -60, 30, -30, 24 * 60)} <= sizes
    assert {change.at.year for change in changes()} == set(range(2000, 2041))


# -- Restricted hours: each local time once --------------------------------------------------------


def daily(change: Change, clock: time) -> list[datetime]:
    """The ticks of a schedule for this time of day, around a change."""
    schedule = make_schedule("one", cron=f"{clock.minute} {clock.hour} * * *", tz=change.zone)
    return list(takewhile(lambda tick: tick < change.at + 2 * DAY, ticks(schedule, change.at - 2 * DAY)))


def expected(change: Change, clock: time) -> list[datetime]:
    """For each day the first instant at which clocks have come to this time, or beyond it."""
    found: set[datetime] = set()
    for number in range(-4, 5):
        local = datetime.combine((change.local(change.before) + number * DAY).date(), clock)
        if local < change.local(change.before):
            found.add((local - change.before).replace(tzinfo=UTC))
        else:
            found.add(max(change.at, (local - change.after).replace(tzinfo=UTC)))
    return [tick for tick in sorted(found) if change.at - 2 * DAY < tick < change.at + 2 * DAY]


def test_a_skipped_time_runs_once_at_the_first_instant_after_the_gap() -> None:
    gaps = [change for change in changes() if change.size > timedelta(0)]
    assert len(gaps) > 1000
    for change in gaps:
        for local in (change.local(change.before), change.local(change.after) - MINUTE):
            found = daily(change, local.time())
            assert found.count(change.at) == 1, change
            assert found == expected(change, local.time()), change


def test_a_repeated_time_runs_once_the_first_time() -> None:
    folds = [change for change in changes() if change.size < timedelta(0)]
    assert len(folds) > 1000
    for change in folds:
        for local in (change.local(change.after), change.local(change.before) - MINUTE):
            found = daily(change, local.time())
            first = (local - change.before).replace(tzinfo=UTC)
            assert first in found, change
            assert first - change.size not in found, change
            assert found == expected(change, local.time()), change


def test_times_beside_a_change_run_once_each_day() -> None:
    for change in changes():
        for local in (
            min(change.local(change.before), change.local(change.after)) - MINUTE,
            max(change.local(change.before), change.local(change.after)),
        ):
            assert daily(change, local.time()) == expected(change, local.time()), change


def test_an_hour_full_of_ticks_that_is_skipped_runs_once() -> None:
    schedule = make_schedule("one", cron="*/20 2 * * *", tz="Europe/Berlin")
    found = takewhile(lambda tick: tick.day < 31, ticks(schedule, datetime(2026, 3, 28, 12, tzinfo=UTC)))
    assert [f"{tick:%d %H:%M}" for tick in found] == ["29 01:00", "30 00:00", "30 00:20", "30 00:40"]


def test_each_minute_that_is_skipped_runs_at_the_same_instant() -> None:
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    for minute in range(60):
        schedule = make_schedule("one", cron=f"{minute} 2 * * *", tz="Europe/Berlin")
        assert next_tick(schedule, after) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_every_other_hour_means_the_even_ones() -> None:
    schedule = make_schedule("one", cron="0 */2 * * *", tz="Europe/Berlin")
    spring, autumn = datetime(2026, 3, 28, 23, 30, tzinfo=UTC), datetime(2026, 10, 24, 22, 30, tzinfo=UTC)
    assert [tick.hour for tick, _ in zip(ticks(schedule, spring), "abc", strict=False)] == [1, 2, 4]
    assert [tick.hour for tick, _ in zip(ticks(schedule, autumn), "abc", strict=False)] == [0, 3, 5]


# -- All hours: whenever the local time matches ----------------------------------------------------


def between(cron: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda tick: tick <= end, ticks(make_schedule("one", cron=cron, tz=zone), begin)))


def test_what_runs_every_hour_runs_whenever_the_local_time_matches() -> None:
    for change in changes():
        zone = zoneinfo.ZoneInfo(change.zone)
        begin = change.at.replace(minute=0) - timedelta(hours=3)
        minutes = [
            (at, at.astimezone(zone).minute)
            for at in (begin + number * 5 * MINUTE for number in range(1, 73))
        ]
        for cron, wanted in (("*/15 * * * *", {0, 15, 30, 45}), ("35 0-23 * * *", {35})):
            found = between(cron, change.zone, begin, minutes[-1][0])
            assert found == [at for at, minute in minutes if minute in wanted], (change, cron)


def test_an_hour_is_never_lost_where_clocks_change_by_hours() -> None:
    for change in changes():
        if change.size % timedelta(hours=1) == timedelta(0):
            around = timedelta(hours=5)
            found = between("0 * * * *", change.zone, change.at - around, change.at + around)
            assert {after - before for before, after in pairwise(found)} == {timedelta(hours=1)}, change


def test_a_tick_far_away_is_found_across_the_changes_between() -> None:
    """The hour before clocks go back is matched by its first reading, which one look from afar would miss."""
    schedule = make_schedule("one", cron="30 * 25 10 *", tz="Europe/Berlin")
    found = takewhile(lambda tick: tick.year < 2027, ticks(schedule, datetime(2026, 1, 1, tzinfo=UTC)))
    began = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)
    assert list(found) == [began + timedelta(hours=number) for number in range(25)]
