"""Options are validated once, where they are made; messages name the field, what was given and the fix."""

import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import IntEnum, StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitq.checks import label, seconds, to_timedelta
from sitq.errors import ValidationError
from sitq.options import UNSET, TaskOptions

# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Moment(datetime):
    """A subclass, as pandas, pendulum and freezegun have."""


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = -5


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("a str of its own mind")


class Hostile(Mapping[str, Any]):
    """A mapping whose every answer is an error, and whose error has none either."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    def __getitem__(self, key: str) -> Any:
        raise Hostile.Mute

    def __iter__(self) -> Iterator[str]:
        raise Hostile.Mute

    def __len__(self) -> int:
        raise Hostile.Mute


class NoOffset(tzinfo):
    def utcoffset(self, _: datetime | None) -> None:
        return None

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


# -- What is kept ----------------------------------------------------------------------------------


def test_nothing_given() -> None:
    options = TaskOptions()
    assert options.given() == {}
    assert options.result_ttl is UNSET
    assert options == TaskOptions(eta=None, delay=None, queue=None, priority=None, id=None, metadata=None)


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("eta", NOW, NOW),
        ("eta", datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2))), NOW),
        ("eta", datetime(2026, 3, 1, 13, tzinfo=ZoneInfo("Europe/Berlin")), NOW),
        ("eta", Moment(2026, 3, 1, 12, tzinfo=UTC), NOW),
        ("delay", 0, timedelta(0)),
        ("delay", 1.5, timedelta(seconds=1.5)),
        ("delay", timedelta(minutes=2), timedelta(minutes=2)),
        ("queue", "images", "images"),
        ("queue", "x" * 200, "x" * 200),
        ("queue", "ünï côdé \N{SNOWMAN}", "ünï côdé \N{SNOWMAN}"),
        ("queue", Colour.RED, "red"),
        ("priority", -9, -9),
        ("priority", 9, 9),
        ("priority", Level.HIGH, -5),
        ("id", "order-7", "order-7"),
        ("result_ttl", 60, timedelta(seconds=60)),
        ("result_ttl", 0, timedelta(0)),
        ("result_ttl", None, None),
        ("metadata", {}, {}),
        (
            "metadata",
            {"a": (1, 2.5, True, None), "b": {"c": Colour.RED}},
            {"a": [1, 2.5, True, None], "b": {"c": "red"}},
        ),
        ("context", {}, {}),
        ("context", {"trace": object}, {"trace": object}),
        ("max_crashes", 1, 1),
        ("max_crashes", 1000, 1000),
    ],
)
def test_is_kept(name: str, value: Any, kept: Any) -> None:
    options = TaskOptions(**{name: value})
    assert getattr(options, name) == kept
    assert type(getattr(options, name)) is type(kept)
    assert options.given() == {name: kept}


def test_eta_is_kept_in_utc() -> None:
    eta = TaskOptions(eta=datetime(2026, 7, 1, 9, tzinfo=ZoneInfo("America/New_York"))).eta
    assert eta is not None
    assert (eta.tzinfo, eta.hour) == (UTC, 13)


def test_the_second_pass_of_a_repeated_hour_is_told_apart() -> None:
    zone = ZoneInfo("Europe/Berlin")
    first = TaskOptions(eta=datetime(2026, 10, 25, 2, 30, tzinfo=zone)).eta
    second = TaskOptions(eta=datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zone)).eta
    assert first is not None
    assert second is not None
    assert second - first == timedelta(hours=1)


def test_mappings_are_copied() -> None:
    metadata: dict[str, Any] = {"tags": ["a"]}
    context = {"user": 1}
    options = TaskOptions(metadata=metadata, context=context)
    metadata["tags"].append("b")
    context["user"] = 2
    assert options.metadata == {"tags": ["a"]}
    assert options.context == {"user": 1}


def test_is_frozen_and_pickles() -> None:
    options = TaskOptions(priority=3, result_ttl=None, metadata={"a": 1})
    with pytest.raises(FrozenInstanceError):
        options.priority = 4  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(options)) == options
    assert pickle.loads(pickle.dumps(TaskOptions())).result_ttl is UNSET


def test_context_is_not_shown() -> None:
    assert "secret" not in repr(TaskOptions(context={"token": "secret"}))


# -- What is refused -------------------------------------------------------------------------------


def repr_of_type(value: Any) -> str:
    """Some of these values cannot be printed."""
    return value if isinstance(value, str) and value.isidentifier() else type(value).__name__


DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"a": DEEP}
LOOP: dict[str, Any] = {}
LOOP["self"] = LOOP


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("eta", datetime(2026, 3, 1), ["naive", "datetime.now(UTC)", ".replace(tzinfo=...)"]),
        ("eta", datetime(2026, 3, 1, tzinfo=NoOffset()), ["naive"]),
        ("eta", date(2026, 3, 1), ["a date", "aware datetime"]),
        ("eta", 30, ["an int", "delay="]),
        ("eta", "tomorrow", ["a str"]),
        ("eta", datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), ["out of range"]),
        ("delay", -0.001, ["-0.001 s", "from 0 s"]),
        ("delay", timedelta(days=-1), ["out of range"]),
        ("delay", math.nan, ["nan", "out of range"]),
        ("delay", math.inf, ["inf", "out of range"]),
        ("delay", 10**400, ["out of range"]),
        ("delay", timedelta.max, ["hundred years"]),
        ("delay", "5", ["a str", "seconds"]),
        ("delay", True, ["a bool", "seconds"]),
        ("delay", NOW, ["a datetime", "timedelta"]),
        ("queue", "", ["0 characters", "non-empty"]),
        ("queue", "x" * 201, ["201 characters", "at most 200"]),
        ("queue", "a\nb", [r"'\n'", "control"]),
        ("queue", "a\x00b", [r"'\x00'"]),
        ("queue", "a\x85b", [r"'\x85'"]),
        ("queue", "a\u2028b", [r"'\u2028'"]),
        ("queue", "a\ud800b", [r"'\ud800'"]),
        ("queue", b"images", ["a bytes", "str"]),
        ("queue", 1, ["an int", "str"]),
        ("priority", 10, ["out of range", "from -9 to 9", "lower runs first"]),
        ("priority", -10, ["out of range"]),
        ("priority", 10**5000, ["out of range"]),
        ("priority", 1.0, ["a float", "an int"]),
        ("priority", "high", ["a str"]),
        ("priority", True, ["a bool"]),
        ("id", "", ["non-empty"]),
        ("id", "x" * 201, ["at most 200"]),
        ("id", "a\tb", ["control"]),
        ("id", 7, ["an int"]),
        ("result_ttl", -1, ["-1 s", "None keeps"]),
        ("result_ttl", "forever", ["a str", "None keeps"]),
        ("result_ttl", False, ["a bool"]),
        ("metadata", [], ["a list", "mapping"]),
        ("metadata", "{}", ["a str", "mapping"]),
        ("metadata", {1: 2}, ["a key is an int", "str keys"]),
        ("metadata", {"a": [{None: 1}]}, ["a key is None"]),
        ("metadata", {"a": math.nan}, ["finite float"]),
        ("metadata", {"a": math.inf}, ["finite float"]),
        ("metadata", {"a": {1}}, ["set", "list and dict"]),
        ("metadata", {"a": NOW}, ["datetime"]),
        ("metadata", {"a": b""}, ["bytes"]),
        ("metadata", {"a": "\ud800"}, ["lone surrogate"]),
        ("metadata", {"a": 10**5000}, ["JSON object"]),
        ("metadata", {"a": "x" * 16_384}, ["16,384", "arguments"]),
        ("metadata", DEEP, ["nested more than 100 deep"]),
        ("metadata", LOOP, ["nested more than 100 deep"]),
        ("metadata", Hostile(), ["Mute"]),
        ("context", [("a", 1)], ["a list", "mapping"]),
        ("context", {1: "a"}, ["a key that is an int", "str keys"]),
        ("context", Hostile(), ["Mute", "plain dict"]),
        ("max_crashes", 0, ["out of range", "from 1 to 1000"]),
        ("max_crashes", 1001, ["out of range"]),
        ("max_crashes", True, ["a bool"]),
        ("max_crashes", None.__class__, ["a type"]),
    ],
    ids=repr_of_type,
)
def test_is_refused(name: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        TaskOptions(**{name: value})
    message = str(caught.value)
    assert message.startswith(name)
    for word in words:
        assert word in message


def test_metadata_of_the_largest_size() -> None:
    assert TaskOptions(metadata={"a": "x" * (16_384 - len('{"a": ""}'))}).metadata


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prioritee", "'priority'"),
        ("max_crash", "'max_crashes'"),
        ("meta_data", "'metadata'"),
        ("resultttl", "'result_ttl'"),
        ("zzz", "there are concurrency_key, concurrency_limit, context, debounce, delay, eta"),
    ],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValidationError, match=f"{name!r} is not an option") as caught:
        TaskOptions(**{name: 1})  # type: ignore[arg-type]
    assert hint in str(caught.value)


def test_eta_and_delay_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="eta and delay"):
        TaskOptions(eta=NOW, delay=0)


# -- Merging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "defaults", "merged"),
    [
        ({}, {}, {}),
        ({"priority": 1}, {}, {"priority": 1}),
        ({}, {"priority": 1}, {"priority": 1}),
        ({"priority": 0}, {"priority": 1, "queue": "a"}, {"priority": 0, "queue": "a"}),
        ({"eta": NOW}, {"delay": 5, "queue": "a"}, {"eta": NOW, "queue": "a"}),
        ({"delay": 5}, {"eta": NOW, "queue": "a"}, {"delay": 5, "queue": "a"}),
        ({"delay": 0}, {"delay": 5}, {"delay": 0}),
        ({"queue": "a"}, {"delay": 5}, {"queue": "a", "delay": 5}),
        ({"result_ttl": None}, {"result_ttl": 60}, {"result_ttl": None}),
        ({"queue": "a"}, {"result_ttl": None}, {"queue": "a", "result_ttl": None}),
        ({"metadata": {"a": 1}}, {"metadata": {"b": 2}}, {"metadata": {"a": 1}}),
    ],
)
def test_given_options_win(mine: Any, defaults: Any, merged: Any) -> None:
    before = TaskOptions(**defaults)
    assert TaskOptions(**mine).over(before) == TaskOptions(**merged)
    assert before == TaskOptions(**defaults)


@pytest.mark.parametrize(
    ("options", "due_at"),
    [
        ({}, None),
        ({"delay": 0}, None),
        ({"delay": 90}, NOW + timedelta(seconds=90)),
        ({"eta": NOW + timedelta(days=1)}, NOW + timedelta(days=1)),
        ({"eta": NOW - timedelta(days=1)}, NOW - timedelta(days=1)),
        ({"delay": timedelta(days=36_525)}, NOW + timedelta(days=36_525)),
    ],
)
def test_due_at(options: Any, due_at: datetime | None) -> None:
    assert TaskOptions(**options).due_at(NOW) == due_at


# -- Helpers for others ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"), [(0, 0.0), (3, 3.0), (0.25, 0.25), (timedelta(minutes=1), 60.0), (timedelta(0), 0.0)]
)
def test_seconds(value: Any, number: float) -> None:
    assert seconds(value, "lease") == number
    assert type(seconds(value, "lease")) is float
    assert to_timedelta(value, "lease") == timedelta(seconds=number)


def test_seconds_have_a_range() -> None:
    assert seconds(5, "lease", minimum=5, maximum=5) == 5
    for value in (4.9, 5.1, math.nan):
        with pytest.raises(ValidationError, match=r"lease is .* from 5 s to 5 s"):
            seconds(value, "lease", minimum=5, maximum=5)


def test_a_label_is_a_plain_str() -> None:
    assert type(label(Text("a"), "name")) is str


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("Europe/Berlin")])),
    st.timedeltas(),
    st.recursive(
        st.none() | st.floats() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    ),
)


@unhurried
@given(st.dictionaries(st.sampled_from([*TaskOptions().__slots__, "other"]), anything))
def test_whatever_is_given_is_kept_or_refused(given: dict[str, Any]) -> None:
    try:
        options = TaskOptions(**given)
    except ValidationError:
        return
    assert TaskOptions(**options.given()) == options
    assert pickle.loads(pickle.dumps(options)) == options
    options.due_at(NOW)
