"""What a task may raise or return about its own end: validated, readable, and the same after a pickle."""

import copy
import math
import pickle
from datetime import timedelta
from typing import Any

import pytest

from sitq.errors import ValidationError
from sitq.verbs import Cancel, Retry, Snooze, Verb


@pytest.mark.parametrize("given", [90, 90.0, timedelta(seconds=90)])
def test_a_delay_is_kept_as_a_timedelta(given: Any) -> None:
    assert Snooze(given).delay == Retry(given).delay == timedelta(seconds=90)


def test_what_is_not_given() -> None:
    assert Retry().delay is None
    assert Cancel().reason == ""


@pytest.mark.parametrize("verb", [Snooze, Retry])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "5", True, timedelta.max])
def test_a_bad_delay_is_refused(verb: Any, value: Any) -> None:
    with pytest.raises(ValidationError, match="delay is"):
        verb(value)


def test_snooze_needs_a_delay() -> None:
    with pytest.raises(ValidationError, match="delay is None"):
        Snooze(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 5, b"no"])
def test_a_bad_reason_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="reason is"):
        Cancel(value)


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        (Snooze(90), "put off for 90 s"),
        (Retry(), "asked for another attempt"),
        (Retry(0.5), "asked for another attempt after 0.5 s"),
        (Cancel(), ""),
        (Cancel("the order is gone"), "the order is gone"),
    ],
)
def test_a_verb_is_an_exception_that_reads_and_comes_back(verb: Verb, text: str) -> None:
    assert isinstance(verb, Exception)
    for one in (verb, pickle.loads(pickle.dumps(verb)), copy.copy(verb)):
        assert type(one) is type(verb)
        assert (str(one), vars(one)) == (text, vars(verb))


def test_the_cause_stays_with_it() -> None:
    def gives_up_for_now() -> None:
        try:
            raise ConnectionError("away")
        except ConnectionError as error:
            raise Retry(5) from error

    with pytest.raises(Retry) as caught:
        gives_up_for_now()
    assert isinstance(caught.value.__cause__, ConnectionError)
