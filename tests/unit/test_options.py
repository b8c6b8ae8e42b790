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

from sitq.errors import ValidationError
from sitq.model import Until
from sitq.options import DEFAULT_NAMES, OPTION_NAMES, UNSET, TaskOptions
from sitq.rates import RateLimit
from sitq.retry import RetryPolicy

# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Moment(datetime):
    """A subclass, as pandas, pendulum and freezegun have."""


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = -5


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
        ("retry", 3, RetryPolicy(max_attempts=4)),
        ("retry", 0, RetryPolicy(max_attempts=1)),
        ("retry", RetryPolicy(base=5), RetryPolicy(base=5)),
        ("max_retries", 0, 0),
        ("max_retries", 999_999, 999_999),
        ("retry_delay", 0, timedelta(0)),
        ("retry_delay", 1.5, timedelta(seconds=1.5)),
        ("timeout", 0.001, timedelta(milliseconds=1)),
        ("timeout", timedelta(days=30), timedelta(days=30)),
        ("expires", 60, timedelta(minutes=1)),
        ("keep_failed", 60, timedelta(minutes=1)),
        ("expires", Moment(2026, 3, 1, 12, tzinfo=UTC), NOW),
        ("unique_key", "import:7", "import:7"),
        ("unique_until", "start", Until.START),
        ("unique_until", Until.END, Until.END),
        ("unique_until", 60, timedelta(minutes=1)),
        ("debounce", 0.5, timedelta(seconds=0.5)),
        ("throttle", timedelta(hours=1), timedelta(hours=1)),
        ("concurrency_key", Colour.RED, "red"),
        ("concurrency_limit", 1, 1),
        ("concurrency_limit", 10_000, 10_000),
        ("rate_limit", "100/minute", RateLimit(100, timedelta(minutes=1))),
        ("rate_limit", RateLimit(5, timedelta(seconds=1)), RateLimit(5, timedelta(seconds=1))),
        ("rate_key", "task:7", "task:7"),
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


def test_a_pickle_from_before_there_were_more_options() -> None:
    """As a dataclass with nine fields pickled itself."""
    options = object.__new__(TaskOptions)
    options.__setstate__([None, None, "images", 3, None, UNSET, None, None, 2])
    assert options == TaskOptions(queue="images", priority=3, max_crashes=2)
    assert options.given() == {"queue": "images", "priority": 3, "max_crashes": 2}


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
        ("retry", -1, ["from 0 to 999999", "after the first attempt"]),
        ("retry", 10**6, ["out of range"]),
        ("retry", True, ["a bool", "a RetryPolicy"]),
        ("retry", "3", ["a str", "the number of retries, or a RetryPolicy"]),
        ("retry", RetryPolicy, ["a type"]),
        ("max_retries", -1, ["out of range"]),
        ("max_retries", 1.0, ["a float"]),
        ("retry_delay", -1, ["-1 s"]),
        ("retry_delay", "1m", ["a str", "seconds"]),
        ("timeout", 0, ["0 s", "from 0.001 s"]),
        ("timeout", timedelta(days=31), ["out of range", "to 2.592e+06 s"]),
        ("timeout", math.inf, ["inf"]),
        ("expires", 0, ["0 s"]),
        ("keep_failed", -1, ["-1 s"]),
        ("expires", True, ["a bool"]),
        ("expires", "tomorrow", ["a str", "aware datetime", "duration"]),
        ("expires", datetime(2026, 3, 1), ["naive"]),
        ("unique_key", "", ["non-empty"]),
        ("unique_key", 7, ["an int"]),
        ("unique_key", "sitq:task:a", ["'sitq:'"]),
        ("unique_until", "done", ["an unknown name", "'start', 'end' or a duration"]),
        ("unique_until", 0, ["0 s", "'start' or 'end'"]),
        ("unique_until", NOW, ["a datetime"]),
        ("debounce", 0, ["0 s", "from 0.001 s"]),
        ("debounce", "1s", ["a str"]),
        ("throttle", -1, ["-1 s"]),
        ("throttle", None.__class__, ["a type"]),
        ("concurrency_key", "a\nb", [r"'\n'"]),
        ("concurrency_limit", 0, ["from 1 to 10000"]),
        ("concurrency_limit", 10_001, ["out of range"]),
        ("rate_limit", "fast", ["another form", "'100/minute'"]),
        ("rate_limit", 5, ["an int", "'100/minute'"]),
        ("rate_key", "sitq:queue:mail", ["'sitq:'"]),
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
        ("retries", "'max_retries'"),
        ("time_out", "'timeout'"),
        ("ratelimit", "'rate_limit'"),
        ("zzz", "there are concurrency_key, concurrency_limit, context, debounce, delay, depends_on"),
    ],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValidationError, match=f"{name!r} is not an option") as caught:
        TaskOptions(**{name: 1})  # type: ignore[arg-type]
    assert hint in str(caught.value)


GIVEN: dict[str, Any] = {
    "eta": NOW,
    "delay": 0,
    "retry": 0,
    "max_retries": 0,
    "retry_delay": 0,
    "debounce": 5,
    "throttle": 5,
    "unique_until": "end",
}
CONTRADICTIONS = [
    ("eta", "delay"),
    ("debounce", "eta"),
    ("debounce", "delay"),
    ("retry", "max_retries"),
    ("retry", "retry_delay"),
    ("debounce", "throttle"),
    ("unique_until", "debounce"),
    ("unique_until", "throttle"),
]


@pytest.mark.parametrize(("one", "other"), CONTRADICTIONS)
def test_contradictions_are_refused_by_name(one: str, other: str) -> None:
    for names in ((one, other), (other, one)):
        with pytest.raises(ValidationError, match=f"^{one} and {other} both say .*: give one of them"):
            TaskOptions(**{name: GIVEN[name] for name in names})


def test_nothing_else_contradicts() -> None:
    wrong = {frozenset(pair) for pair in CONTRADICTIONS}
    for one in GIVEN:
        for other in GIVEN:
            if one != other and {one, other} not in wrong:
                assert set(TaskOptions(**{name: GIVEN[name] for name in (one, other)}).given()) == {
                    one,
                    other,
                }


def test_what_belongs_to_a_single_call() -> None:
    per_call = {"eta", "delay", "id", "context", "depends_on", "on_parent_failure"}
    assert per_call == OPTION_NAMES - DEFAULT_NAMES
    assert set(TaskOptions.__dataclass_fields__) == OPTION_NAMES


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
        ({"retry": 0}, {"retry": 3}, {"retry": 0}),
        ({"max_retries": 1}, {"retry": 3}, {"max_retries": 1}),
        ({"retry_delay": 1, "queue": "a"}, {"retry": 3}, {"retry_delay": 1, "queue": "a"}),
        ({"retry": 3}, {"max_retries": 1, "retry_delay": 5, "queue": "a"}, {"retry": 3, "queue": "a"}),
        ({"max_retries": 1}, {"retry_delay": 5}, {"max_retries": 1, "retry_delay": 5}),
        ({"delay": 5}, {"debounce": 9, "unique_key": "a"}, {"delay": 5, "unique_key": "a"}),
        ({"eta": NOW}, {"debounce": 9}, {"eta": NOW}),
        ({"debounce": 9}, {"throttle": 5, "unique_key": "a"}, {"debounce": 9, "unique_key": "a"}),
        ({"throttle": 5}, {"debounce": 9}, {"throttle": 5}),
        ({"debounce": 9}, {"unique_until": "end", "unique_key": "a"}, {"debounce": 9, "unique_key": "a"}),
        (
            {"unique_until": "end", "unique_key": "a"},
            {"throttle": 5},
            {"unique_until": "end", "unique_key": "a"},
        ),
        ({"unique_key": "a"}, {"debounce": 9}, {"unique_key": "a", "debounce": 9}),
        ({"timeout": 5}, {"expires": 9}, {"timeout": 5, "expires": 9}),
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
        ({"debounce": 5}, NOW + timedelta(seconds=5)),
    ],
)
def test_due_at(options: Any, due_at: datetime | None) -> None:
    assert TaskOptions(**options).due_at(NOW) == due_at


# -- Anything -------------------------------------------------------------------------------------


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
@given(st.dictionaries(st.sampled_from([*sorted(OPTION_NAMES), "other"]), anything))
def test_whatever_is_given_is_kept_or_refused(given: dict[str, Any]) -> None:
    try:
        options = TaskOptions(**given)
    except ValidationError:
        return
    assert TaskOptions(**options.given()) == options
    assert pickle.loads(pickle.dumps(options)) == options
    options.due_at(NOW)
