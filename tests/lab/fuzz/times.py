"""Cron expressions: any text is a schedule or a typed error, in bounded work; simple ones fire when a clock says so."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

from sitq import SitqError
from sitq.schedule import due, make_schedule, next_tick, ticks
from tests.lab.experiment import Progress

type Fields = list[tuple[str, frozenset[int]]]
MOST_CPU: Final = 5.0
"""Seconds that one expression may take of this thread. Most take some microseconds, those without a tick 0.1 s."""
ZONES: Final = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
)
CHANGES: Final = ("2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-04-04T15:00",
                  "2026-10-03T15:30", "2024-02-29T00:00", "2025-12-31T23:00")  # fmt: skip
PIECES: Final = ("*", "/", "-", ",", "L", "#", "?", "W", "@", " ", "0", "1", "5", "7", "12", "29", "30", "31", "59",
                 "60", "99999999999999999999", "-1", "JAN", "feb", "MON", "sun", "SUN-MON", "1L", "1#6", "5#5", "*/0",
                 "*/7", "\x00", "\n", "é", "٣", "²", "@daily", "@reboot", "0x1", "1e3", "+1", "_")  # fmt: skip
RANGES: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def run(seed: int, count: int, progress: Progress) -> tuple[list[str], dict[str, int]]:
    """So many expressions: noise, almost right ones, and simple ones beside the reference."""
    rng = random.Random(seed)
    broken: list[str] = []
    figures = {"refused": 0, "with ticks": 0, "compared": 0, "instants compared": 0}
    for number in range(count):
        zone = rng.choice(ZONES)
        if number % 3:
            text = _noise(rng) if number % 3 == 1 else _almost(rng)
            problem = _look(text, zone, _near(rng), figures)
        else:
            fields = [_simple(rng, *bounds) for bounds in RANGES]
            problem = _compare(fields, zone, _near(rng), figures)
        if problem is not None:
            broken.append(problem)
        progress(number + 1)
    return broken, figures


def _near(rng: random.Random) -> datetime:
    """Somewhere near a change of clocks, or the end of a year."""
    return datetime.fromisoformat(rng.choice(CHANGES)).replace(tzinfo=UTC) + timedelta(
        minutes=rng.randint(-900, 300)
    )


def _noise(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 14)))


def _almost(rng: random.Random) -> str:
    clock, plain = ["*", "*", "0", "*/5", "1-5", "23", "2"], ["*", "*", "*", "1", "5"]
    right = [
        clock,
        clock,
        [*plain, "L", "LW", "30", "31"],
        [*plain, "2", "JAN,feb"],
        [*plain, "MON#2", "5L", "MON-FRI"],
    ]
    if rng.random() < 0.2:
        right = [clock, *right]
    fields = [rng.choice(words if rng.random() < 0.95 else PIECES) for words in right]
    return " ".join(fields)


def _look(text: str, zone: str, after: datetime, figures: dict[str, int]) -> str | None:
    told = f"cron {text!r} in {zone} after {after}"
    began = time.thread_time()
    try:
        schedule = make_schedule("one", cron=text, tz=zone)
        found = [after, *islice(ticks(schedule, after), 5)]
        due(schedule, after, after + timedelta(days=2))
        figures["with ticks"] += 1
        if any(later - earlier <= timedelta(0) for earlier, later in pairwise(found)):
            return f"{told}: ticks do not grow: {found}"
        if len(found) > 1 and next_tick(schedule, found[1] - timedelta(microseconds=1)) != found[1]:
            return f"{told}: another tick is the next one when asked later"
    except SitqError:
        figures["refused"] += 1
    except Exception as error:
        return f"{told}: {type(error).__name__}: {error}"
    taken = time.thread_time() - began
    return None if taken < MOST_CPU else f"{told}: takes {taken:.1f} s"


# -- The reference: look at every minute -----------------------------------------------------------


def _simple(rng: random.Random, low: int, high: int) -> tuple[str, frozenset[int]]:
    """A field, and the numbers that it stands for."""
    every = frozenset(range(low, high + 1))
    match rng.randrange(5):
        case 0:
            numbers = sorted(rng.sample(sorted(every), rng.randint(1, 3)))
            return ",".join(map(str, numbers)), frozenset(numbers)
        case 1:
            step = rng.randint(1, high)
            return f"*/{step}", frozenset(range(low, high + 1, step))
        case 2:
            first, last = sorted(rng.sample(sorted(every), 2))
            return f"{first}-{last}", frozenset(range(first, last + 1))
        case _:
            return "*", every


def _matches(fields: Fields, local: datetime) -> bool:
    minutes, hours, days, months, weekdays = (numbers for _, numbers in fields)
    day, weekday = local.day in days, local.isoweekday() % 7 in weekdays
    # One of both is enough if neither begins with a star, as cron has it.
    either = not fields[2][0].startswith("*") and not fields[4][0].startswith("*")
    on = (day or weekday) if either else (day and weekday)
    return local.minute in minutes and local.hour in hours and local.month in months and on


def _expected(fields: Fields, zone: tzinfo, after: datetime, until: datetime) -> list[datetime]:
    """The rules of sitq/cron.py, by walking along all minutes, and all local minutes."""
    found: set[datetime] = set()
    if len(fields[1][1]) == 24:  # rule 3: whenever a clock on the wall shows it
        at = after.replace(second=0, microsecond=0)
        while (at := at + timedelta(minutes=1)) <= until:
            if _matches(fields, at.astimezone(zone).replace(tzinfo=None)):
                found.add(at)
        return sorted(found)
    first = _first_instants(zone, after - timedelta(days=2), until)
    for local, instant in first.items():  # rule 2: each local time once
        if after < instant <= until and _matches(fields, local):
            found.add(instant)
    return sorted(found)


def _first_instants(zone: tzinfo, start: datetime, until: datetime) -> dict[datetime, datetime]:
    """When a clock on the wall first shows each minute, or, if that is skipped, is beyond it."""
    shown: dict[datetime, datetime] = {}
    at = start
    newest = at.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)
    while at <= until:
        local = at.astimezone(zone).replace(tzinfo=None)
        while newest <= local:
            shown[newest] = at
            newest += timedelta(minutes=1)
        at += timedelta(minutes=1)
    return shown


def _compare(fields: Fields, zone: str, after: datetime, figures: dict[str, int]) -> str | None:
    text = " ".join(field for field, _ in fields)
    after, until = after.replace(second=0), after + timedelta(hours=40)
    try:
        schedule = make_schedule("one", cron=text, tz=zone)
    except SitqError:
        return None  # a day that no month has
    figures["compared"] += 1
    found: list[datetime] = []
    for tick in ticks(schedule, after):
        if tick > until:
            break
        found.append(tick)
    expected = _expected(fields, UTC if zone == "UTC" else ZoneInfo(zone), after, until)
    figures["instants compared"] += len(expected)
    if found == expected:
        return None
    return f"cron {text!r} in {zone} after {after}: {_some(found)} instead of {_some(expected)}"


def _some(instants: list[Any], show: Callable[[Any], str] = str) -> str:
    return f"{len(instants)} ticks {[show(one) for one in instants[:4]]}"
