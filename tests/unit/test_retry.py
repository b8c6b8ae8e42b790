"""A policy is validated once, its waits are bounded for any attempt, and the decision over a failure is a function."""

import copy
import math
import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitq.errors import ValidationError
from sitq.retry import GIVE_UP, MAX_ATTEMPTS, Decision, RetryPolicy, decide, delay, is_retryable
from sitq.verbs import Cancel, Retry

unhurried = settings(deadline=None)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def low() -> float:
    return 0.0


def high() -> float:
    return math.nextafter(1, 0)


def steps(attempt: int) -> float:
    return attempt * 1.5


class Flaky(Exception):
    pass


class Flakier(Flaky):
    pass


# -- The policy ------------------------------------------------------------------------------------


def test_what_is_not_given() -> None:
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.backoff, policy.jitter) == (3, "exponential", "full")
    assert (policy.base, policy.factor, policy.max_delay) == (1.0, 2.0, 600.0)
    assert (policy.on, policy.give_up_on) == ((Exception,), ())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"max_attempts": 1}, {"max_attempts": 1}),
        ({"max_attempts": 10**6}, {"max_attempts": 10**6}),
        ({"backoff": steps}, {"backoff": steps}),
        ({"base": timedelta(minutes=1)}, {"base": 60.0, "max_delay": 600.0}),
        ({"base": 3600}, {"base": 3600.0, "max_delay": 3600.0}),
        ({"max_delay": 0.5}, {"base": 0.5, "max_delay": 0.5}),
        ({"base": 0, "max_delay": 0}, {"base": 0.0, "max_delay": 0.0}),
        ({"factor": 1}, {"factor": 1.0}),
        ({"jitter": True}, {"jitter": "full"}),
        ({"jitter": False}, {"jitter": "none"}),
        ({"jitter": "equal"}, {"jitter": "equal"}),
        ({"on": Flaky}, {"on": (Flaky,)}),
        ({"on": [Flaky, OSError]}, {"on": (Flaky, OSError)}),
        ({"on": BaseException}, {"on": (BaseException,)}),
        ({"give_up_on": {Flaky}}, {"give_up_on": (Flaky,)}),
    ],
)
def test_is_kept(given: Any, kept: dict[str, Any]) -> None:
    policy = RetryPolicy(**given)
    assert {name: getattr(policy, name) for name in kept} == kept
    assert all(type(getattr(policy, name)) is type(value) for name, value in kept.items())


class Meta(type):
    pass


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("max_attempts", 0, ["out of range", "from 1 to 1000000", "the first one counted"]),
        ("max_attempts", 10**6 + 1, ["out of range"]),
        ("max_attempts", True, ["a bool"]),
        ("max_attempts", None, ["None"]),
        ("backoff", "fibonacci", ["an unknown name", "'exponential', 'linear', 'constant'"]),
        ("backoff", 5, ["an int", "a function"]),
        ("base", -1, ["-1 s", "from 0 s"]),
        ("base", math.nan, ["nan"]),
        ("base", "1", ["a str", "seconds"]),
        ("factor", 0.5, ["out of range", "from 1 to 1000"]),
        ("factor", math.inf, ["out of range"]),
        ("factor", math.nan, ["out of range"]),
        ("factor", "2", ["a str"]),
        ("factor", True, ["a bool"]),
        ("max_delay", -1, ["-1 s"]),
        ("max_delay", math.inf, ["inf"]),
        ("jitter", "some", ["an unknown name", "'full', 'equal', 'none'"]),
        ("jitter", 0.1, ["a float", "a bool"]),
        ("on", (), ["empty", "max_attempts=1"]),
        ("on", "ConnectionError", ["a str", "on=(ConnectionError, TimeoutError)"]),
        ("on", (ValueError, 5), ["an int"]),
        ("on", int, ["the class int", "no exception"]),
        ("on", Meta, ["the class Meta", "no exception"]),
        ("on", None, ["None"]),
        ("give_up_on", [ValueError()], ["a ValueError", "exception classes"]),
    ],
)
def test_is_refused(field: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        RetryPolicy(**{field: value})
    message = str(caught.value)
    assert message.startswith(field)
    for word in words:
        assert word in message


def test_an_async_backoff_is_refused() -> None:
    async def later(attempt: int) -> float:
        return 1

    with pytest.raises(ValidationError, match=r"^backoff is an async function"):
        RetryPolicy(backoff=later)  # type: ignore[arg-type]


def test_base_and_max_delay_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match=r"^base is more than max_delay"):
        RetryPolicy(base=2, max_delay=1)
    with pytest.raises(ValidationError, match=r"^base is -1 s"):
        RetryPolicy(base=-1, max_delay=1)
    assert RetryPolicy(base=1, max_delay=1).base == 1.0


def test_a_policy_is_frozen_and_compares_by_value() -> None:
    policy = RetryPolicy(base=5)
    with pytest.raises(FrozenInstanceError):
        policy.base = 6  # type: ignore[misc]
    assert policy == RetryPolicy(base=timedelta(seconds=5))
    assert len({policy, RetryPolicy(base=5.0), RetryPolicy()}) == 2
    with pytest.raises(TypeError):
        RetryPolicy(3)  # type: ignore[call-arg]


policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, MAX_ATTEMPTS),
    backoff=st.sampled_from(["exponential", "linear", "constant", steps]),
    base=st.floats(0, 10**6),
    factor=st.floats(1, 1000),
    max_delay=st.floats(10**6, 10**9),
    jitter=st.sampled_from(["full", "equal", "none"]),
    on=st.lists(st.sampled_from([Flaky, OSError, BaseException]), min_size=1),
    give_up_on=st.lists(st.sampled_from([Flakier, KeyError])),
)


@unhurried
@given(policies)
def test_a_policy_comes_back(policy: RetryPolicy) -> None:
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert copy.deepcopy(policy) == policy


def test_the_pickle_holds_what_was_given_by_name() -> None:
    data = pickle.dumps(RetryPolicy(max_attempts=9))
    assert b"max_attempts" in data
    assert b"jitter" not in data


# -- The wait --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "waits"),
    [
        ({}, [1, 2, 4, 8, 16]),
        ({"base": 3, "factor": 10, "max_delay": 1000}, [3, 30, 300, 1000, 1000]),
        ({"factor": 1}, [1, 1, 1, 1, 1]),
        ({"backoff": "linear", "base": 2, "max_delay": 7}, [2, 4, 6, 7, 7]),
        ({"backoff": "constant", "base": 5}, [5, 5, 5, 5, 5]),
        ({"backoff": steps, "max_delay": 4}, [1.5, 3, 4, 4, 4]),
        ({"backoff": lambda attempt: timedelta(minutes=attempt)}, [60, 120, 180, 240, 300]),
        ({"base": 0}, [0, 0, 0, 0, 0]),
    ],
)
def test_the_wait_grows(given: Any, waits: list[float]) -> None:
    policy = RetryPolicy(jitter="none", **given)
    assert [delay(policy, attempt, high) for attempt in range(1, 6)] == waits


def test_jitter_is_within_its_bounds() -> None:
    for jitter, bottom in [("full", 0.0), ("equal", 4.0), ("none", 8.0)]:
        policy = RetryPolicy(jitter=jitter)  # type: ignore[arg-type]
        assert delay(policy, 4, low) == bottom
        assert delay(policy, 4, lambda: 0.5) == (8 + bottom) / 2
        assert 7.999 < delay(policy, 4, high) <= 8


@pytest.mark.parametrize(("jitter", "bottom"), [("full", 0.0), ("equal", 0.5)])
def test_jitter_is_spread_evenly(jitter: Any, bottom: float) -> None:
    random, policy = Random(7), RetryPolicy(jitter=jitter, backoff="constant")
    waits = [delay(policy, 1, random.random) for _ in range(10_000)]
    assert bottom <= min(waits) < max(waits) < 1
    for tenth in range(10):
        start = bottom + (1 - bottom) * tenth / 10
        share = sum(start <= wait < start + (1 - bottom) / 10 for wait in waits)
        assert 800 < share < 1200


@unhurried
@given(policies, st.integers(1, 10**6) | st.just(310), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_bounded_for_any_attempt(policy: RetryPolicy, attempt: int, number: float) -> None:
    assert 0 <= delay(policy, attempt, lambda: number) <= policy.max_delay


@unhurried
@given(policies, st.integers(1, 10**6 - 1), st.integers(1, 10**6 - 1))
def test_the_wait_never_shrinks(policy: RetryPolicy, one: int, other: int) -> None:
    first, second = sorted([one, other])
    assert delay(policy, first, lambda: 0.5) <= delay(policy, second, lambda: 0.5)


def raises(error: BaseException) -> Any:
    def backoff(attempt: int) -> float:
        raise error

    return backoff


@pytest.mark.parametrize(
    "backoff",
    [
        *(lambda _, value=value: value for value in (-1, math.nan, math.inf, 10**400, "5", None, True, [])),
        lambda _: timedelta(days=-1),
        lambda _: timedelta.max,
        lambda: 1,
        *map(raises, (ValueError("no"), OverflowError(), SystemExit(), RecursionError())),
    ],
)
def test_whatever_else_a_function_gives_counts_as_the_longest_wait(backoff: Any) -> None:
    assert delay(RetryPolicy(backoff=backoff, max_delay=30, jitter="none"), 1, low) == 30


@unhurried
@given(st.integers() | st.floats() | st.timedeltas() | st.none() | st.text(), st.integers(1, 10**6))
def test_what_a_function_gives_is_bounded(value: Any, attempt: int) -> None:
    policy = RetryPolicy(backoff=lambda _: value, max_delay=30)
    assert 0 <= delay(policy, attempt, high) <= 30


# -- The decision ----------------------------------------------------------------------------------


def in_seconds(number: float) -> Decision:
    return Decision(NOW + timedelta(seconds=number))


def test_one_attempt_without_a_policy() -> None:
    assert decide(None, Flaky(), 1, NOW, low) == GIVE_UP == Decision(None, exhausted=False)


def test_attempts_are_counted_from_one() -> None:
    policy = RetryPolicy(max_attempts=3, jitter="none")
    assert decide(policy, Flaky(), 1, NOW, low) == in_seconds(1)
    assert decide(policy, Flaky(), 2, NOW, low) == in_seconds(2)
    assert decide(policy, Flaky(), 3, NOW, low) == Decision(None, exhausted=True)
    assert decide(policy, Flaky(), 4, NOW, low) == Decision(None, exhausted=True)


def test_who_never_retries_exhausts_nothing() -> None:
    assert decide(RetryPolicy(max_attempts=1), Flaky(), 1, NOW, low) == GIVE_UP


def test_what_is_not_retryable_is_given_up_and_exhausts_nothing() -> None:
    policy = RetryPolicy(max_attempts=3, on=OSError)
    assert decide(policy, Flaky(), 1, NOW, low) == GIVE_UP
    assert decide(policy, Flaky(), 3, NOW, low) == GIVE_UP


class Empty(ExceptionGroup[Exception]):
    """Has another idea of what it holds."""

    exceptions = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "error", "retried"),
    [
        ({}, Flaky(), True),
        ({}, TimeoutError(), True),
        ({}, SystemExit(), False),
        ({}, KeyboardInterrupt(), False),
        ({"on": SystemExit}, SystemExit(), True),
        ({"on": Flaky}, Flakier(), True),
        ({"on": Flakier}, Flaky(), False),
        ({"give_up_on": Flaky}, Flakier(), False),
        ({"on": Flakier, "give_up_on": Flaky}, Flakier(), False),
        ({"give_up_on": Flakier}, Flaky(), True),
        ({}, ExceptionGroup("", [Flaky(), ValueError()]), True),
        ({}, BaseExceptionGroup("", [Flaky(), SystemExit()]), False),
        ({"on": Flaky}, ExceptionGroup("", [Flaky(), Flakier()]), True),
        ({"on": Flaky}, ExceptionGroup("", [Flaky(), ValueError()]), False),
        ({"on": Flaky}, ExceptionGroup("", [ExceptionGroup("", [Flaky()])]), True),
        ({"on": ExceptionGroup}, ExceptionGroup("", [ValueError()]), True),
        ({"give_up_on": Flaky}, ExceptionGroup("", [ValueError(), ExceptionGroup("", [Flaky()])]), False),
        ({"give_up_on": ExceptionGroup}, ExceptionGroup("", [Flaky()]), False),
        ({"give_up_on": Flaky}, Empty("", [Flaky()]), False),
    ],
)
def test_which_exceptions_are_retried(given: Any, error: BaseException, retried: bool) -> None:
    policy = RetryPolicy(jitter="none", **given)
    assert is_retryable(policy, error) is retried
    assert decide(policy, error, 1, NOW, low) == (in_seconds(1) if retried else GIVE_UP)


class Lying(Flaky):
    """Tells `isinstance` that it is something else."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError


def test_the_classes_count_that_an_exception_really_has() -> None:
    assert is_retryable(RetryPolicy(on=Flaky), Lying())
    assert not is_retryable(RetryPolicy(on=OSError), Lying())


def test_a_deep_group_is_no_danger() -> None:
    error: Exception = Flaky()
    for _ in range(5000):
        error = ExceptionGroup("", [error])
    assert is_retryable(RetryPolicy(on=Flaky), error)


# -- What the task asks for itself -----------------------------------------------------------------


def test_retry_is_retryable_whatever_the_policy_says() -> None:
    policy = RetryPolicy(on=OSError, give_up_on=Exception, jitter="none")
    assert decide(policy, Retry(), 2, NOW, low) == in_seconds(2)
    assert decide(policy, Retry(5), 2, NOW, low) == in_seconds(5)
    assert decide(policy, Retry(0), 2, NOW, low) == in_seconds(0)


def test_retry_may_wait_longer_than_the_policy_would() -> None:
    assert decide(RetryPolicy(max_delay=1), Retry(3600), 1, NOW, low) == in_seconds(3600)


def test_retry_is_bounded_by_the_policy() -> None:
    assert decide(RetryPolicy(max_attempts=2), Retry(5), 2, NOW, low) == Decision(None, exhausted=True)
    assert decide(RetryPolicy(max_attempts=1), Retry(5), 1, NOW, low) == GIVE_UP


def test_retry_without_a_policy_follows_the_usual_one() -> None:
    assert decide(None, Retry(), 1, NOW, lambda: 0.5) == in_seconds(0.5)
    assert decide(None, Retry(7), 2, NOW, low) == in_seconds(7)
    assert decide(None, Retry(7), 3, NOW, low) == Decision(None, exhausted=True)


def test_a_retry_that_was_tampered_with_follows_the_policy() -> None:
    class Own(Retry):
        def __init__(self) -> None:  # without that of its base
            pass

    asked = Retry(5)
    asked.delay = "soon"  # type: ignore[assignment]
    for error in (Own(), asked):
        assert decide(RetryPolicy(jitter="none"), error, 1, NOW, low) == in_seconds(1)


def test_other_verbs_are_no_business_of_the_policy() -> None:
    assert decide(None, Cancel("enough"), 1, NOW, low) == GIVE_UP
