"""A rate limit is a count and a period, written as people write it."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.errors import ValidationError
from sitq.rates import RateLimit, rate_limit

SECOND = timedelta(seconds=1)
FORMS = {
    "1/ms": RateLimit(1, SECOND / 1000),
    "5/s": RateLimit(5, SECOND),
    "5 / second": RateLimit(5, SECOND),
    " 5/2 seconds ": RateLimit(5, 2 * SECOND),
    "10/30s": RateLimit(10, 30 * SECOND),
    "10/30 sec": RateLimit(10, 30 * SECOND),
    "100/minute": RateLimit(100, 60 * SECOND),
    "100/m": RateLimit(100, 60 * SECOND),
    "100/15min": RateLimit(100, 900 * SECOND),
    "1/h": RateLimit(1, 3600 * SECOND),
    "1/2hours": RateLimit(1, 7200 * SECOND),
    "1000/day": RateLimit(1000, timedelta(days=1)),
    "10000/30d": RateLimit(10_000, timedelta(days=30)),
}


@pytest.mark.parametrize("text", FORMS)
def test_forms(text: str) -> None:
    assert rate_limit(text) == FORMS[text]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "another form: write a count and a period, as in '100/minute'"),
        ("100", "another form"),
        ("/s", "another form"),
        ("5/", "another form"),
        ("5/30", "another form"),
        ("-5/s", "another form"),
        ("5/-1s", "another form"),
        ("1.5/s", "another form"),
        ("5/1.5s", "another form"),
        ("5/s/s", "another form"),
        ("5/S", "another form"),
        ("\N{ARABIC-INDIC DIGIT FIVE}/s", "another form"),
        ("5/s\0", "another form"),
        ("9" * 5000 + "/s", "another form"),
        ("5/fortnight", "an unknown unit: use ms, s, m, h or d"),
        ("5/month", "an unknown unit"),
        ("0/s", "the count of rate_limit is out of range: give an int from 1 to 10000"),
        ("10001/s", "the count of rate_limit is out of range"),
        ("5/0s", "the period of rate_limit is 0 s, which is out of range"),
        ("5/31d", "the period of rate_limit is .* to 2.592e\\+06 s"),
        ("5/999999999d", "the period of rate_limit is"),
        (5, "is an int: write"),
        (None, "is None: write"),
        ((5, SECOND), "is a tuple: write"),
        (RateLimit(0, SECOND), "the count of rate_limit is out of range"),
        (RateLimit(True, SECOND), "the count of rate_limit is a bool"),
        (RateLimit(5, timedelta(0)), "the period of rate_limit is 0 s"),
        (RateLimit(5, math.nan), "the period of rate_limit is nan"),  # type: ignore[arg-type]
    ],
)
def test_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        rate_limit(value)


@given(st.integers(1, 10_000), st.integers(1, 30 * 24 * 3600))
def test_every_limit_in_range_comes_back(count: int, seconds: int) -> None:
    made = rate_limit(f"{count}/{seconds}s")
    assert made == RateLimit(count, timedelta(seconds=seconds)) == rate_limit(made)


@given(st.text() | st.from_regex(r"\s*\d+\s*/\s*\d*\s*[a-z]+\s*", fullmatch=True))
def test_whatever_is_written_is_taken_or_refused(text: str) -> None:
    try:
        made = rate_limit(text)
    except ValidationError:
        return
    assert 1 <= made.count <= 10_000
    assert timedelta(milliseconds=1) <= made.period <= timedelta(days=30)
