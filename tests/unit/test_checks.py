"""Checks that many values share: ranges, types, and messages that name the field and never show a secret."""

import math
from datetime import timedelta
from typing import Any

import pytest

from sitq.checks import integer, kind, label, seconds, to_timedelta
from sitq.errors import ValidationError


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("a str of its own mind")


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


@pytest.mark.parametrize("value", [1, 5, True + 1])
def test_an_integer_in_range_is_kept(value: int) -> None:
    assert integer(value, "count", minimum=1, maximum=5) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "out of range"),
        (6, "out of range"),
        (True, "a bool"),
        (1.0, "a float"),
        ("1", "a str"),
        (None, "None"),
    ],
)
def test_another_integer_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=f"^count is {words}: give an int from 1 to 5, no more"):
        integer(value, "count", minimum=1, maximum=5, note=", no more")


def test_a_value_is_named_by_its_type() -> None:
    assert [kind(value) for value in (None, 1, "secret", object)] == ["None", "an int", "a str", "a type"]
