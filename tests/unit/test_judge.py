"""What follows from what happened to an attempt: a table of facts and outcomes, without a store, a clock or a task."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitq.emitter import Emitter
from sitq.errors import TaskSerializationError
from sitq.failure import decode_error
from sitq.model import Cancelled, Crashed, Failed, Outcome, Released, ReservedTask, Retried, Succeeded
from sitq.retry import RetryPolicy
from sitq.rules import DEFAULT_TIMEOUT, RunRules
from sitq.serialization import decode_value, make_codec
from sitq.verbs import Cancel, Retry, Snooze, Verb
from sitq.worker.judge import (
    PARKED_FOR,
    expire,
    judge_crash,
    judge_error,
    judge_value,
    killed,
    left_behind,
    on_last_chance,
    park,
    put_off,
    refuse,
)
from sitq.worker.run import Judged, Run, Stop

CODEC = make_codec(max_payload=1000)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEADY = RetryPolicy(max_attempts=3, backoff="constant", base=10, jitter="none")
AGAIN = NOW + timedelta(seconds=10)


def now() -> datetime:
    return NOW


def reserved(**fields: Any) -> ReservedTask:
    return ReservedTask("t1", 7, "work", "default", b"", **fields)


def a_run(
    stop: Stop | None = None, *, noticed: bool = False, attempt: int = 1, rules: RunRules | None = None
) -> Run:
    task = reserved(attempt=attempt)
    rules = rules or RunRules(STEADY)
    run = Run(task, task.held, rules, 0.0, lambda note: None, Emitter(), CODEC)
    run.stop, run.noticed = stop, noticed
    return run


def while_cancelled(make: Callable[[], BaseException]) -> BaseException:
    """An error that was raised while a cancellation was handled."""
    try:
        try:
            raise asyncio.CancelledError
        except asyncio.CancelledError:
            raise make()  # noqa: B904
    except BaseException as error:
        return error


def told(outcome: Outcome) -> tuple[type[Outcome], str | None]:
    """The kind of an outcome and the class that its error names."""
    error = getattr(outcome, "error", None)
    return type(outcome), None if error is None else decode_error(error).type


# -- A run that returned ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "noticed", "outcome"),
    [
        (None, False, Succeeded),
        (Stop.CANCEL, False, Succeeded),
        (Stop.CANCEL, True, Cancelled),
        (Stop.RELEASE, False, Succeeded),
        (Stop.RELEASE, True, Released),
        # A time limit is hard: what comes after it is late, whatever it is.
        (Stop.TIMEOUT, False, Retried),
        (Stop.TIMEOUT, True, Retried),
    ],
)
def test_a_value_counts_unless_the_run_was_stopped(stop: Stop | None, noticed: bool, outcome: type) -> None:
    made = judge_value(a_run(stop, noticed=noticed), 42, now)
    assert type(made) is outcome
    assert made.held == reserved().held
    if isinstance(made, Succeeded):
        assert decode_value(made.result) == 42


def test_a_value_that_cannot_be_stored_is_not_worth_another_try() -> None:
    for value in (threading.Lock(), "x" * 2000):
        made = judge_value(a_run(), value, now)
        assert isinstance(made, Failed)
        assert not decode_error(made.error).exhausted


def test_what_only_looks_like_a_verb_is_a_value() -> None:
    made = judge_value(a_run(), Mock(spec=Snooze), now)
    assert told(made) == (
        Failed,
        f"{TaskSerializationError.__module__}.TaskSerializationError",
    ), "a mock cannot travel"


# -- Verbs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", [judge_value, judge_error])
@pytest.mark.parametrize("stop", [None, *Stop])
def test_a_verb_counts_raised_or_returned_and_whatever_stops_the_run(
    judge: Callable[..., Outcome], stop: Stop | None
) -> None:
    def outcome(verb: Verb, **run: Any) -> Outcome:
        return judge(a_run(stop, **run), verb, now)

    assert outcome(Snooze(5)) == Released(reserved().held, NOW + timedelta(seconds=5))
    cancelled = outcome(Cancel("not needed"))
    assert isinstance(cancelled, Cancelled)
    assert cancelled.error is not None
    reason = decode_error(cancelled.error)
    assert (reason.type, reason.message) == ("cancelled", "not needed")
    retried = outcome(Retry(90))
    assert isinstance(retried, Retried)
    assert retried.at == NOW + timedelta(seconds=90)
    plain = outcome(Retry())
    assert isinstance(plain, Retried)
    assert plain.at == AGAIN
    last = outcome(Retry(90), attempt=3)
    assert isinstance(last, Failed)
    assert decode_error(last.error).exhausted


def test_retry_without_a_policy_has_three_attempts() -> None:
    ends = [
        type(judge_error(a_run(attempt=attempt, rules=RunRules()), Retry(1), now)) for attempt in (1, 2, 3)
    ]
    assert ends == [Retried, Retried, Failed]


def test_a_verb_of_any_make_does_no_harm() -> None:
    class Odd(Snooze):
        def __init__(self) -> None:
            pass

    class Worse(Retry):
        def __init__(self) -> None:
            pass

        @property
        def delay(self) -> Any:  # type: ignore[override]
            raise ZeroDivisionError

    assert judge_error(a_run(), Odd(), now) == Released(reserved().held, NOW)
    verbs: list[Any] = [Snooze(1), Snooze(1), Retry(1)]
    for verb, spoilt in zip(verbs, ["x", timedelta.max, timedelta.max], strict=True):
        verb.delay = spoilt
        assert isinstance(judge_error(a_run(), verb, now), Failed)
    bad = Cancel("x")
    bad.reason = 5  # type: ignore[assignment]
    assert isinstance(judge_error(a_run(), bad, now), Failed)
    assert told(judge_value(a_run(), Worse(), now)) == (Failed, "ZeroDivisionError"), (
        "what went wrong is told"
    )


# -- A run that raised -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError(), Retried),
        (TimeoutError(), Retried),
        (ExceptionGroup("", [ValueError()]), Retried),
        # Not an Exception: nobody has said that it is worth another try.
        (KeyboardInterrupt(), Failed),
        (SystemExit(1), Failed),
        (asyncio.CancelledError(), Failed),
        (BaseExceptionGroup("", [ValueError(), SystemExit(1)]), Failed),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_judged_by_the_policy(error: BaseException, outcome: type) -> None:
    assert type(judge_error(a_run(), error, now)) is outcome
    assert type(judge_error(a_run(rules=RunRules()), error, now)) is Failed, (
        "without one there is one attempt"
    )


def test_attempts_run_out() -> None:
    first, third = (judge_error(a_run(attempt=attempt), ValueError("no"), now) for attempt in (1, 3))
    assert isinstance(first, Retried)
    assert first.at == AGAIN
    assert isinstance(third, Failed)
    assert decode_error(third.error).exhausted
    assert not decode_error(first.error).exhausted
    alone = judge_error(a_run(rules=RunRules()), ValueError("no"), now)
    assert isinstance(alone, Failed)
    assert not decode_error(alone.error).exhausted, "one attempt is not several"


def test_the_wait_is_spread_as_the_policy_says() -> None:
    spread = RetryPolicy(max_attempts=2, backoff="constant", base=10, jitter="full")
    made = [judge_error(a_run(rules=RunRules(spread)), ValueError(), now) for _ in range(20)]
    waits = [outcome.at for outcome in made if isinstance(outcome, Retried)]
    assert len(waits) == 20
    assert NOW <= min(waits) < max(waits) <= AGAIN


CUT_OFF = [
    asyncio.CancelledError(),
    while_cancelled(lambda: ConnectionError("cut off")),
    while_cancelled(lambda: ExceptionGroup("", [ValueError()])),
    BaseExceptionGroup("", [ValueError(), asyncio.CancelledError()]),
    BaseExceptionGroup("", [while_cancelled(lambda: ConnectionError("in a child"))]),
]


@pytest.mark.parametrize("error", CUT_OFF, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("stop", "outcome"), [(Stop.CANCEL, Cancelled), (Stop.RELEASE, Released), (Stop.TIMEOUT, Retried)]
)
def test_an_error_of_a_run_that_was_cut_off_is_not_its_own(
    error: BaseException, stop: Stop, outcome: type
) -> None:
    assert type(judge_error(a_run(stop), error, now)) is outcome


@pytest.mark.parametrize(
    ("stop", "noticed", "kind"),
    [
        (Stop.CANCEL, False, (Retried, "ValueError")),
        (Stop.CANCEL, True, (Cancelled, "ValueError")),
        (Stop.RELEASE, False, (Retried, "ValueError")),
        (Stop.RELEASE, True, (Released, None)),
        (Stop.TIMEOUT, False, (Retried, "TimeoutError")),
    ],
)
def test_an_error_of_its_own_is_judged_unless_the_stop_was_noticed(
    stop: Stop, noticed: bool, kind: tuple[type, str | None]
) -> None:
    assert told(judge_error(a_run(stop, noticed=noticed), ValueError("its own"), now)) == kind


def test_a_cause_that_is_its_own_cause_ends() -> None:
    error = ValueError()
    error.__cause__ = error
    assert isinstance(judge_error(a_run(Stop.CANCEL), error, now), Retried)


# -- Time limits -----------------------------------------------------------------------------------


def test_an_attempt_that_took_too_long_says_how_long_and_where() -> None:
    def wait_for_godot() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError) as caught:
        wait_for_godot()
    made = judge_error(a_run(Stop.TIMEOUT, rules=RunRules(timeout=2.5)), caught.value, now)
    assert isinstance(made, Failed)
    info = decode_error(made.error)
    assert (info.type, info.message) == ("TimeoutError", "it did not finish within its timeout of 2.5 s")
    assert "wait_for_godot" in info.traceback


def test_the_policy_decides_over_a_timeout_as_over_any_error() -> None:
    choosy = RetryPolicy(on=ConnectionError)
    assert isinstance(left_behind(a_run(Stop.TIMEOUT), now), Retried)
    assert isinstance(left_behind(a_run(Stop.TIMEOUT, rules=RunRules(choosy)), now), Failed)
    patient = RetryPolicy(give_up_on=TimeoutError)
    assert isinstance(left_behind(a_run(Stop.TIMEOUT, rules=RunRules(patient)), now), Failed)


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [(Stop.TIMEOUT, Failed), (Stop.CANCEL, Cancelled), (Stop.RELEASE, Released), (None, Released)],
)
def test_what_goes_on_is_judged_by_why_it_was_to_stop(stop: Stop | None, outcome: type) -> None:
    made = left_behind(a_run(stop, rules=RunRules()), now)
    assert type(made) is outcome
    if isinstance(made, Failed):
        assert "it still runs" in decode_error(made.error).message


def test_no_attempt_is_without_a_limit() -> None:
    assert RunRules().limit == DEFAULT_TIMEOUT == 24 * 3600
    assert RunRules(timeout=3).limit == 3


# -- Expiry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "expired"), [(-1, False), (0, False), (1, True)])
def test_nothing_starts_after_its_expiry(late: int, expired: bool) -> None:
    rules = RunRules(expires_at=NOW - timedelta(microseconds=late))
    outcome = expire(reserved(attempt=2), rules, now)
    assert isinstance(outcome, Cancelled) is expired
    if outcome is not None:
        assert told(outcome) == (Cancelled, "expired")
    assert expire(reserved(), RunRules(), now) is None


def test_an_attempt_that_would_begin_after_the_expiry_is_given_up_now() -> None:
    in_time = RunRules(STEADY, expires_at=AGAIN)
    too_late = RunRules(STEADY, expires_at=AGAIN - timedelta(microseconds=1))
    assert isinstance(judge_error(a_run(rules=in_time), ValueError(), now), Retried)
    first = judge_error(a_run(rules=too_late), ValueError("why"), now)
    second = judge_error(a_run(rules=too_late, attempt=2), Retry(10), now)
    for made, exhausted in [(first, False), (second, True)]:
        assert isinstance(made, Failed)
        assert decode_error(made.error).exhausted is exhausted


# -- Before a run ----------------------------------------------------------------------------------


def test_a_task_that_was_cancelled_or_crashed_too_often_is_refused() -> None:
    assert refuse(reserved()) is None
    assert refuse(reserved(crashes=2)) is None
    assert told(refuse(reserved(crashes=3)) or Released(reserved().held)) == (Failed, "worker_lost")
    assert refuse(reserved(cancel_requested=True, crashes=3)) == Cancelled(reserved().held)


@given(st.integers(0, 20), st.integers(1, 20))
@settings(deadline=None)
def test_the_last_chance_comes_once_before_the_end(crashes: int, max_crashes: int) -> None:
    task = reserved(crashes=crashes, max_crashes=max_crashes)
    if on_last_chance(task):
        assert refuse(task) is None
        assert refuse(task._replace(crashes=crashes + 1)) is not None
        assert crashes > 0


@given(st.text(max_size=20))
@settings(deadline=None)
def test_what_cannot_be_loaded_is_parked_for_a_minute_or_two(text: str) -> None:
    made = park(reserved(), TaskSerializationError(text), now)
    assert isinstance(made, Released)
    assert made.at is not None
    assert timedelta(minutes=1) == PARKED_FOR
    assert NOW + PARKED_FOR <= made.at <= NOW + 2 * PARKED_FOR
    assert made.error is not None
    assert decode_error(made.error).type == "sitq.errors.TaskSerializationError"


def test_what_lacks_the_values_of_others_waits_for_them_or_is_parked() -> None:
    error = TaskSerializationError("it cannot be read")
    assert put_off(reserved(), error, now, unfinished=True) == Released(reserved().held)
    parked = put_off(reserved(), error, now, unfinished=False)
    assert isinstance(parked, Released)
    assert parked.at is not None
    assert parked.at >= NOW + PARKED_FOR
    assert told(parked) == (Released, "sitq.errors.TaskSerializationError")


def test_what_is_judged_already_stays_as_it_is() -> None:
    outcome = Released(reserved().held, AGAIN)
    assert judge_error(a_run(Stop.CANCEL, noticed=True), Judged(outcome), now) is outcome


def test_the_death_of_its_process_is_a_crash_and_no_attempt_that_failed() -> None:
    outcome = judge_crash(a_run(attempt=3), "it was ended by SIGSEGV")
    assert isinstance(outcome, Crashed)
    error = decode_error(outcome.error)
    assert (error.type, error.message) == ("worker_lost", "it was ended by SIGSEGV")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(Stop.CANCEL, Cancelled), (Stop.RELEASE, Released), (Stop.LOST, Released), (Stop.TIMEOUT, Retried)],
)
def test_what_was_stopped_with_its_process_is_judged_by_why(stop: Stop, expected: type[Outcome]) -> None:
    outcome = killed(a_run(stop), now)
    assert type(outcome) is expected
    if isinstance(outcome, Retried):
        assert "and its process was killed" in decode_error(outcome.error).message


# -- Whatever happens ------------------------------------------------------------------------------


def broken(attempt: int) -> float:
    return 1 / (attempt - attempt)


errors = st.sampled_from(
    [ValueError("x"), KeyboardInterrupt(), Snooze(1), Retry(), Retry(5), Cancel("x"), *CUT_OFF]
)
policies = st.none() | st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 10**6),
    backoff=st.sampled_from(["exponential", "linear", "constant", broken]),
    on=st.sampled_from([Exception, BaseException, ConnectionError]),
)


@given(
    ended=errors | st.integers() | st.builds(object),
    policy=policies,
    stop=st.none() | st.sampled_from(Stop),
    noticed=st.booleans(),
    attempt=st.integers(1, 10**6),
    expires=st.none() | st.integers(-1000, 1000),
)
@settings(deadline=None)
def test_there_is_always_one_outcome_for_the_run_that_is_held(
    ended: Any,
    policy: RetryPolicy | None,
    stop: Stop | None,
    noticed: bool,
    attempt: int,
    expires: int | None,
) -> None:
    expires_at = None if expires is None else NOW + timedelta(seconds=expires)
    run = a_run(stop, noticed=noticed, attempt=attempt, rules=RunRules(policy, None, expires_at))
    judge = judge_error if isinstance(ended, BaseException) else judge_value
    made = judge(run, ended, now)
    assert made.held == run.held
    match made:
        case Retried(_, at, _):
            assert at >= NOW
            assert attempt < (3 if policy is None else policy.max_attempts)
            assert expires_at is None or at <= expires_at
        case Succeeded():
            assert stop is not Stop.TIMEOUT
            assert not (stop and noticed)
        case _:
            pass
