"""Schedules as values: what is refused, which ticks they have, and what is due after a while without workers."""

import os
import subprocess
import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.cron import cron_ticks
from sitq.errors import ValidationError
from sitq.schedule import GRACE, MAX_MISSED, Due, Schedule, due, make_schedule, newest_ticks, next_tick, ticks

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def first(number: int, after: datetime = NOW, **fields: Any) -> list[str]:
    made = make_schedule("one", **fields)
    return [f"{tick:%m-%dT%H:%M:%S}" for tick in islice(ticks(made, after), number)]


# -- What is accepted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "cron and every are neither given"),
        ({"cron": "* * * * *", "every": 1}, "cron and every are both given"),
        ({"cron": "61 * * * *"}, "cron is '61 * * * *', bad minute: write minute, hour"),
        ({"cron": "* 24 * * *"}, "bad hour"),
        ({"cron": "* * * *"}, "wrong number of fields"),
        ({"cron": "* * * * * * *"}, "wrong number of fields"),
        ({"cron": "@reboot"}, "wrong number of fields"),
        ({"cron": "0 0 30 2 *"}, "bad day-of-month"),
        ({"cron": "* * */20 * 1L"}, "matches no time in fifty years"),
        ({"cron": ""}, "cron has 0 characters"),
        ({"cron": 5}, "cron is a int"),
        ({"cron": "0 3 * * *", "tz": "europe/berlni"}, "did you mean 'Europe/Berlin'?"),
        ({"cron": "0 3 * * *", "tz": "Mars"}, "tz is 'Mars', which is no time zone"),
        ({"cron": "0 3 * * *", "tz": "../passwd"}, "which is no time zone"),
        ({"cron": "0 3 * * *", "tz": "localtime"}, "which is no time zone"),
        ({"cron": "0 3 * * *", "tz": UTC}, "tz is a timezone: give the name"),
        ({"every": 60, "tz": "Europe/Berlin"}, "leave tz out"),
        ({"every": 0.5}, "every is 0.5 s, which is out of range"),
        ({"every": "60"}, "every is a str"),
        ({"every": 60, "misfire": "last"}, "misfire is 'last': choose from latest, all, skip"),
        ({"every": 60, "overlap": True}, "overlap is a bool: choose from skip, wait, allow"),
        ({"every": 60, "misfire": "all", "overlap": "skip"}, "use overlap='wait'"),
    ],
)
def test_what_is_refused_and_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_schedule("one", **fields)
    assert message in str(caught.value)


@pytest.mark.parametrize("cron", ["0 3 */20 * 1L", "0 * */20 * 1L"], ids=["on the wall", "in real time"])
def test_ticks_that_never_come_end(cron: str) -> None:
    """`make_schedule` refuses these. Who iterates over one all the same does not do so for ever."""
    assert list(cron_ticks(cron, UTC, NOW)) == []
    never = Schedule(name="one", cron=cron, every=None, tz="UTC", misfire="latest", overlap="skip")
    assert next_tick(never, NOW) is None


@pytest.mark.parametrize("name", ["", "x" * 151, "a\nb", None])
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match=r"^name "):
        make_schedule(name, every=60)


def test_a_name_of_150_characters() -> None:
    assert make_schedule("x" * 150, every=60).name == "x" * 150


def test_what_is_kept() -> None:
    made = make_schedule("one", cron="  0   3 * * mon ", tz="Europe/Berlin")
    assert made == Schedule(
        name="one", cron="0 3 * * mon", every=None, tz="Europe/Berlin", misfire="latest", overlap="skip"
    )
    assert make_schedule("one", every=90).every == 90 * SECOND
    assert make_schedule("one", every=90, misfire="all").overlap == "wait"


def test_without_cronsim_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(ValidationError, match=r'pip install "\.\[cron\]"'):
        make_schedule("one", cron="0 3 * * *")
    assert make_schedule("one", every=60).every == MINUTE


def test_without_a_time_zone_database_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(ValidationError, match="install the package tzdata"):
        make_schedule("one", cron="0 3 * * *", tz="Nowhere/Town")


def test_without_a_time_zone_database_there_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    assert first(1, cron="0 3 * * *") == ["03-02T03:00:00"]


@given(st.text(alphabet="0123456789*/,-#LWMON @", max_size=30))
def test_any_text_is_a_cron_expression_or_refused(text: str) -> None:
    try:
        made = make_schedule("one", cron=text)
    except ValidationError:
        return
    found = list(islice(ticks(made, NOW), 3))
    assert all(before < after for before, after in pairwise([NOW, *found]))


# -- Ticks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", ["03-02T03:00:00", "03-03T03:00:00"]),
        ("*/20 * * * *", ["03-01T12:20:00", "03-01T12:40:00"]),
        ("*/20 * * * * *", ["03-01T12:00:20", "03-01T12:00:40"]),
        ("30 0 4 * * *", ["03-02T04:00:30", "03-03T04:00:30"]),
        ("0 9 * * 1-5", ["03-02T09:00:00", "03-03T09:00:00"]),
        ("0 9 * * SUN", ["03-08T09:00:00", "03-15T09:00:00"]),
        ("0 9 * * 7", ["03-08T09:00:00", "03-15T09:00:00"]),
        ("0 0 L * *", ["03-31T00:00:00", "04-30T00:00:00"]),
        ("0 0 * * MON#1", ["03-02T00:00:00", "04-06T00:00:00"]),
        ("@hourly", ["03-01T13:00:00", "03-01T14:00:00"]),
        ("@daily", ["03-02T00:00:00", "03-03T00:00:00"]),
        ("@midnight", ["03-02T00:00:00", "03-03T00:00:00"]),
        ("@Weekly", ["03-08T00:00:00", "03-15T00:00:00"]),
        ("@monthly", ["04-01T00:00:00", "05-01T00:00:00"]),
        ("@yearly", ["01-01T00:00:00", "01-01T00:00:00"]),
        ("@annually", ["01-01T00:00:00", "01-01T00:00:00"]),
    ],
)
def test_forms_of_cron(cron: str, expected: list[str]) -> None:
    assert first(2, cron=cron) == expected


def test_fields_are_read_in_the_zone() -> None:
    assert first(2, cron="0 3 * * *", tz="Asia/Kathmandu") == ["03-01T21:15:00", "03-02T21:15:00"]


def test_a_tick_is_later_than_what_was_asked_for() -> None:
    at = datetime(2026, 3, 1, 13, tzinfo=UTC)
    for fields in ({"cron": "0 * * * *"}, {"cron": "0 13 * * *"}, {"every": HOUR}):
        made = make_schedule("one", **fields)
        assert next_tick(made, at) != at
        assert next_tick(made, at - timedelta(microseconds=1)) == at


def test_intervals_count_from_1970() -> None:
    assert first(3, every=HOUR) == ["03-01T13:00:00", "03-01T14:00:00", "03-01T15:00:00"]
    week = make_schedule("one", every=7 * DAY)
    assert next_tick(week, NOW) == datetime(2026, 3, 5, tzinfo=UTC)  # a Thursday, as 1970-01-01
    odd = make_schedule("one", every=1.5)
    assert [tick.microsecond for tick in islice(ticks(odd, NOW), 2)] == [500_000, 0]


@given(
    st.floats(min_value=1, max_value=10**7).map(lambda seconds: timedelta(seconds=seconds)),
    st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2100, 1, 1)),
    st.integers(min_value=0, max_value=10**9),
)
def test_whenever_one_asks_the_intervals_are_the_same(every: timedelta, start: datetime, later: int) -> None:
    made = make_schedule("one", every=every)
    after = start.replace(tzinfo=UTC)
    tick = next_tick(made, after)
    assert tick is not None
    assert after < tick <= after + every
    asked_later = after + (tick - after) * (later / 10**9)
    assert next_tick(made, min(asked_later, tick - timedelta(microseconds=1))) == tick


@given(
    st.sampled_from(["0 3 * * *", "*/7 * * * *", "30 */2 * * *", "15 2 * * *", "*/25 1-3 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia"]),
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2040, 1, 1)),
    st.integers(min_value=1, max_value=20),
)
def test_it_does_not_matter_from_where_one_counts(cron: str, tz: str, start: datetime, number: int) -> None:
    made = make_schedule("one", cron=cron, tz=tz)
    found = list(islice(ticks(made, start.replace(tzinfo=UTC)), number + 1))
    one_by_one = [next_tick(made, before) for before in found[:-1]]
    assert one_by_one == found[1:]
    assert next_tick(made, found[-1] - timedelta(microseconds=1)) == found[-1]


def test_the_zone_of_the_process_does_not_matter() -> None:
    code = (
        "from datetime import *; from itertools import islice; from sitq.schedule import *;"
        "made = [make_schedule('a', cron='30 2 * * *', tz='Europe/Berlin'), make_schedule('b', every=7000),"
        "make_schedule('c', cron='*/20 * * * *', tz='Asia/Kathmandu')];"
        "print([str(tick) for one in made for tick in islice(ticks(one, datetime(2026, 3, 27, tzinfo=UTC)), 5)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "TZ": zone}, capture_output=True, check=True
        ).stdout
        for zone in ("UTC", "America/New_York", "Australia/Lord_Howe")
    }
    assert len(printed) == 1
    found = printed.pop()
    assert b"2026-03-29 01:00:00+00:00" in found
    assert b"2026-03-27 00:15:00+00:00" in found


# -- What is due -----------------------------------------------------------------------------------


def test_the_newest_are_found_among_any_number() -> None:
    for fields in ({"every": 1}, {"cron": "* * * * * *"}, {"cron": "*/5 2 * * *", "tz": "Europe/Berlin"}):
        made = make_schedule("one", **fields)
        for limit in (1, 10):
            some, more = newest_ticks(made, NOW - 40 * DAY, NOW, limit)
            expected = ticks_between(made, some[0] - SECOND, NOW)
            assert some == expected
            assert (len(some), more) == (limit, True)


def ticks_between(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    found: list[datetime] = []
    for tick in ticks(schedule, after):
        if tick > until:
            break
        found.append(tick)
    return found


def test_few_are_all_found() -> None:
    made = make_schedule("one", every=HOUR)
    hours = [NOW.replace(minute=0, second=0, microsecond=0) - number * HOUR for number in (2, 1, 0)]
    assert newest_ticks(made, NOW - 3 * HOUR, NOW, 3) == (hours, False)
    assert newest_ticks(made, NOW - 3 * HOUR, NOW, 2) == (hours[1:], True)
    assert newest_ticks(made, NOW - MINUTE, NOW, 2) == (hours[2:], False)
    assert newest_ticks(made, NOW, NOW, 2) == ([], False)


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_one_tick_that_is_due_runs() -> None:
    for misfire in ("latest", "all", "skip"):
        made = make_schedule("one", every=HOUR, misfire=misfire)
        assert due(made, NOON - HOUR, NOON - SECOND) == Due([], None, False)
        assert due(made, NOON - HOUR, NOON) == Due([NOON], NOON, False)
        assert due(made, NOON, NOON + MINUTE) == Due([], None, False)


def test_of_missed_ticks_the_latest_runs() -> None:
    made = make_schedule("one", every=HOUR)
    assert due(made, NOON - 5 * HOUR, NOON + 59 * MINUTE) == Due([NOON], NOON, True)


def test_of_missed_ticks_all_run() -> None:
    made = make_schedule("one", every=HOUR, misfire="all")
    expected = [NOON - number * HOUR for number in (2, 1, 0)]
    assert due(made, NOON - 3 * HOUR, NOON) == Due(expected, NOON, False)


def test_of_too_many_missed_ticks_the_newest_run() -> None:
    made = make_schedule("one", every=1, misfire="all")
    found = due(made, NOON - DAY, NOON)
    assert found == Due([NOON - n * SECOND for n in reversed(range(MAX_MISSED))], NOON, True)


def test_missed_ticks_are_skipped() -> None:
    made = make_schedule("one", every=HOUR, misfire="skip")
    late = timedelta(microseconds=1)
    assert due(made, NOON - 5 * HOUR, NOON + GRACE) == Due([NOON], NOON, True)
    assert due(made, NOON - HOUR, NOON + GRACE) == Due([NOON], NOON, False)
    assert due(made, NOON - HOUR, NOON + GRACE + late) == Due([], NOON, True)


def test_years_of_missed_seconds_are_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many ticks are looked at grows with the logarithm of how many were missed."""
    looked = 0

    def counted(schedule: Schedule, after: datetime) -> Iterator[datetime]:
        nonlocal looked
        for tick in ticks(schedule, after):
            looked += 1
            yield tick

    monkeypatch.setattr("sitq.schedule.ticks", counted)
    assert newest_ticks(make_schedule("one", every=1), NOON - 3650 * DAY, NOON, 1) == ([NOON], True)
    assert 0 < looked < 200
