"""What options come to: the values of the storage and the rules of the worker, complete or refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.errors import ValidationError
from sitq.model import Concurrency, Rate, Unique, Until
from sitq.options import TaskOptions
from sitq.retry import RetryPolicy
from sitq.rules import NO_RULES, RunRules
from sitq.terms import NO_TERMS, Terms, terms

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def of(**given: Any) -> Terms:
    return terms(TaskOptions(**given), name="app.send", queue="mail", now=NOW)


def test_nothing_given() -> None:
    assert of() == NO_TERMS
    assert of(queue="mail", priority=1, id="a", metadata={}, context={"a": 1}, max_crashes=1) == NO_TERMS
    assert of().rules is NO_RULES


# -- Rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ({"retry": 3}, RunRules(retry=RetryPolicy(max_attempts=4))),
        ({"retry": 0}, RunRules(retry=RetryPolicy(max_attempts=1))),
        ({"retry": RetryPolicy(base=5)}, RunRules(retry=RetryPolicy(base=5))),
        ({"max_retries": 3}, RunRules(retry=RetryPolicy(max_attempts=4))),
        ({"max_retries": 0}, RunRules(retry=RetryPolicy(max_attempts=1))),
        (
            {"max_retries": 1, "retry_delay": 5},
            RunRules(retry=RetryPolicy(max_attempts=2, backoff="constant", base=5, jitter="none")),
        ),
        (
            {"retry_delay": timedelta(hours=1)},
            RunRules(retry=RetryPolicy(max_attempts=3, backoff="constant", base=3600, jitter="none")),
        ),
        ({"timeout": 1.5}, RunRules(timeout=1.5)),
        ({"timeout": MINUTE}, RunRules(timeout=60.0)),
        ({"expires": 60}, RunRules(expires_at=NOW + MINUTE)),
        ({"keep_failed": 60}, RunRules(keep_failed=60.0)),
        ({"expires": NOW + MINUTE}, RunRules(expires_at=NOW + MINUTE)),
        ({"expires": NOW - MINUTE}, RunRules(expires_at=NOW - MINUTE)),
    ],
)
def test_rules(given: Any, rules: RunRules) -> None:
    assert of(**given) == Terms(rules=rules)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"expires": 5, "delay": 6}, "expires is before delay"),
        ({"expires": NOW, "eta": NOW + MINUTE}, "expires is before eta"),
        ({"expires": 5, "debounce": 6}, "expires is before debounce"),
    ],
)
def test_a_task_that_would_expire_before_it_starts_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=f"^{words}, so it would never start"):
        of(**given)


def test_a_task_may_expire_at_its_earliest_start() -> None:
    assert of(expires=60, delay=60).due_at == of(expires=60, delay=60).rules.expires_at == NOW + MINUTE


# -- Unique keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "unique"),
    [
        ({"unique_key": "a"}, Unique("a", Until.END)),
        ({"unique_key": "a", "unique_until": "end"}, Unique("a", Until.END)),
        ({"unique_key": "a", "unique_until": "start"}, Unique("a", Until.START)),
        ({"unique_key": "a", "unique_until": 60}, Unique("a", MINUTE)),
        ({"throttle": 60}, Unique("sitq:task:app.send", MINUTE)),
        ({"throttle": 60, "unique_key": "a"}, Unique("a", MINUTE)),
    ],
)
def test_unique(given: Any, unique: Unique) -> None:
    assert of(**given) == Terms(unique=unique)


def test_debounce_starts_after_the_quiet_time_and_is_replaced_until_then() -> None:
    assert of(debounce=60) == Terms(
        due_at=NOW + MINUTE, unique=Unique("sitq:task:app.send", Until.START, replace=True)
    )
    assert of(debounce=60, unique_key="a").unique == Unique("a", Until.START, replace=True)


def test_a_throttled_task_may_be_delayed() -> None:
    assert of(throttle=60, delay=60) == Terms(
        due_at=NOW + MINUTE, unique=Unique("sitq:task:app.send", MINUTE)
    )


# -- Limits ----------------------------------------------------------------------------------------


def test_limits() -> None:
    assert of(concurrency_key="a", concurrency_limit=2) == Terms(concurrency=Concurrency("a", 2))
    assert of(rate_limit="10/30s") == Terms(rate=Rate("sitq:queue:mail", 10, timedelta(seconds=30)))
    assert of(rate_limit="10/30s", rate_key="a") == Terms(rate=Rate("a", 10, timedelta(seconds=30)))


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ({"unique_until": "start"}, "unique_key"),
        ({"concurrency_limit": 2}, "concurrency_key"),
        ({"concurrency_key": "a"}, "concurrency_limit"),
        ({"rate_key": "a"}, "rate_limit"),
    ],
)
def test_an_option_without_the_one_that_it_needs_is_refused(given: Any, other: str) -> None:
    [name] = given
    with pytest.raises(ValidationError, match=f"^{name} was given without {other}"):
        of(**given)


def test_one_may_come_from_the_task_and_the_other_from_the_call() -> None:
    defaults = TaskOptions(concurrency_limit=2, unique_until="start", rate_key="a")
    call = TaskOptions(concurrency_key="user-7", unique_key="user-7", rate_limit="1/s")
    made = terms(call.over(defaults), name="app.send", queue="mail", now=NOW)
    assert made.concurrency == Concurrency("user-7", 2)
    assert made.unique == Unique("user-7", Until.START)
    assert made.rate == Rate("a", 1, timedelta(seconds=1))


@given(st.text(min_size=1, max_size=20).map(lambda text: "sitq:" + text) | st.just("sitq:queue:mail"))
def test_a_given_key_cannot_be_one_that_is_made_here(key: str) -> None:
    for name in ("unique_key", "concurrency_key", "rate_key"):
        with pytest.raises(ValidationError, match=f"^{name} "):
            TaskOptions(**{name: key})  # type: ignore[arg-type]
