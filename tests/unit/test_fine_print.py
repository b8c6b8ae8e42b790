"""What the pure core promises in passing: whose outcome it is, how long it is kept, what a message says to do.

Mutation testing found that nothing else looks at these.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import pytest

from sitq.emitter import Emitter
from sitq.errors import BackendError, PayloadRefusedError, TaskSerializationError, ValidationError
from sitq.failure import decode_error
from sitq.model import (
    DEFAULT_KEEP_FAILED,
    Cancelled,
    Crashed,
    Failed,
    Held,
    Outcome,
    Released,
    Reserved,
    ReservedTask,
    Retried,
    Status,
    Succeeded,
    leads_to,
)
from sitq.options import TaskOptions
from sitq.rates import RateLimit
from sitq.retry import RetryPolicy, decide, delay
from sitq.rules import RunRules
from sitq.serialization import Purpose, make_codec
from sitq.serialization.envelope import PYTHON, name_of, other_python, pack, unpack
from sitq.terms import terms
from sitq.verbs import Cancel, Snooze
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
from sitq.worker.shares import combine

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HELD = Held("t1", 7)


def now() -> datetime:
    return NOW


def reserved(**fields: Any) -> ReservedTask:
    return ReservedTask(*HELD, "work", "default", b"", **fields)


def a_run(
    stop: Stop | None = None, codec: Any = None, rules: RunRules | None = None, attempt: int = 1
) -> Run:
    task = reserved(attempt=attempt)
    codec = codec or make_codec()
    run = Run(task, task.held, rules or RunRules(), 0.0, lambda note: None, Emitter(), codec)
    run.stop = stop
    return run


def said(outcome: Outcome) -> str:
    error = getattr(outcome, "error", None)
    assert error is not None
    return decode_error(error).message


# -- The judge -------------------------------------------------------------------------------------


def test_every_outcome_is_of_the_run_that_is_held() -> None:
    late = RunRules(expires_at=NOW - timedelta(seconds=1))
    for outcome in (
        refuse(reserved(cancel_requested=True)),
        refuse(reserved(crashes=3)),
        expire(reserved(), late, now),
        park(reserved(), ValueError(), now),
        put_off(reserved(), ValueError(), now, unfinished=True),
        put_off(reserved(), ValueError(), now, unfinished=False),
        judge_value(a_run(), 1, now),
        judge_error(a_run(), ValueError(), now),
        judge_error(a_run(), Snooze(1), now),
        judge_error(a_run(), Cancel("enough"), now),
        judge_error(a_run(rules=RunRules(RetryPolicy())), ValueError(), now),
        judge_crash(a_run(), "killed by signal 9"),
        *(left_behind(a_run(stop), now) for stop in Stop),
        *(killed(a_run(stop), now) for stop in Stop),
    ):
        assert outcome is not None
        assert outcome.held == HELD


def test_what_crashed_too_often_is_kept_as_long_as_any_failure() -> None:
    outcome = refuse(reserved(crashes=3))
    assert isinstance(outcome, Failed)
    assert outcome.keep_for == DEFAULT_KEEP_FAILED
    assert "3 times" in said(outcome)
    assert "max_crashes is 3" in said(outcome)


@pytest.mark.parametrize(
    ("given", "kept"), [(None, DEFAULT_KEEP_FAILED), (0.0, timedelta(0)), (5.0, timedelta(seconds=5))]
)
def test_a_failure_is_kept_as_long_as_its_task_says(given: float | None, kept: timedelta) -> None:
    outcome = judge_error(a_run(rules=RunRules(keep_failed=given)), ValueError(), now)
    assert isinstance(outcome, Failed)
    assert outcome.keep_for == kept


def test_what_is_parked_comes_back_at_any_moment_of_a_minute() -> None:
    waits = [
        outcome.at - NOW
        for _ in range(100)
        if isinstance(outcome := park(reserved(), ValueError(), now), Released) and outcome.at
    ]
    assert len(waits) == 100
    assert PARKED_FOR <= min(waits) < 1.5 * PARKED_FOR < max(waits) <= 2 * PARKED_FOR


def test_who_waits_for_a_parent_that_runs_again_says_nothing_and_who_lacks_a_value_says_what() -> None:
    assert put_off(reserved(), ValueError("gone"), now, unfinished=True) == Released(HELD)
    missing = put_off(reserved(), ValueError("gone"), now, unfinished=False)
    assert isinstance(missing, Released)
    assert missing.at is not None
    assert missing.at >= NOW + PARKED_FOR
    assert said(missing) == "gone"


def test_the_first_crash_of_two_leaves_a_last_chance() -> None:
    assert on_last_chance(reserved(crashes=1, max_crashes=2))
    assert not on_last_chance(reserved(crashes=0, max_crashes=1))


def test_what_the_run_has_written_into_its_own_transaction_is_its_result() -> None:
    run = a_run()
    run.completed = b"as it was written"
    assert judge_value(run, "something else", now) == Succeeded(HELD, b"as it was written")


def test_a_result_is_written_for_its_task_and_as_a_result() -> None:
    class Codec:
        def encode_value(self, value: Any, task: str, purpose: Purpose) -> bytes:
            return f"{value} of {task} as {purpose}".encode()

    assert judge_value(a_run(codec=Codec()), 42, now) == Succeeded(HELD, b"42 of t1 as result")


def test_a_cancellation_has_a_reason_if_the_task_gave_one() -> None:
    def cancelled(error: BaseException) -> Outcome:
        run = a_run(Stop.CANCEL)
        run.noticed = True
        return judge_error(run, error, now)

    assert cancelled(asyncio.CancelledError()) == Cancelled(HELD, None)
    assert left_behind(a_run(Stop.CANCEL), now) == Cancelled(HELD, None)
    assert said(cancelled(ValueError("half done"))) == "half done"


def test_what_a_timeout_says_of_what_still_runs() -> None:
    rules = RunRules(timeout=2.0)
    late = "it did not finish within its timeout of 2 s"
    assert (
        said(left_behind(a_run(Stop.TIMEOUT, rules=rules), now))
        == f"{late}, and it has not stopped since: it still runs"
    )
    assert said(killed(a_run(Stop.TIMEOUT, rules=rules), now)) == f"{late}, and its process was killed"
    assert killed(a_run(Stop.RELEASE), now) == left_behind(a_run(Stop.LOST), now) == Released(HELD)


def test_a_crash_says_what_became_of_the_process() -> None:
    outcome = judge_crash(a_run(), "killed by signal 9")
    assert isinstance(outcome, Crashed)
    assert (decode_error(outcome.error).type, said(outcome)) == ("worker_lost", "killed by signal 9")


def test_a_runner_that_judged_by_itself_is_believed() -> None:
    outcome = Retried(HELD, NOW, b"why")
    assert judge_error(a_run(Stop.CANCEL), Judged(outcome), now) is outcome


def test_when_it_expires_it_says_when_and_which_attempt() -> None:
    outcome = expire(reserved(attempt=2), RunRules(expires_at=NOW - timedelta(seconds=1)), now)
    assert outcome is not None
    assert "after 2026-03-01T11:59:59+00:00, and attempt 2" in said(outcome)


def test_one_that_would_begin_too_late_is_exhausted_only_if_it_was_tried_before() -> None:
    policy = RetryPolicy(max_attempts=5, backoff="constant", base=10, jitter="none")
    rules = RunRules(policy, expires_at=NOW + timedelta(seconds=5))
    for attempt, exhausted in ((1, False), (2, True)):
        outcome = judge_error(a_run(rules=rules, attempt=attempt), ValueError(), now)
        assert isinstance(outcome, Failed)
        assert decode_error(outcome.error).exhausted is exhausted
    in_time = RunRules(policy, expires_at=NOW + timedelta(seconds=10))
    assert isinstance(judge_error(a_run(rules=in_time), ValueError(), now), Retried)


@pytest.mark.parametrize("asked", [False, True])
def test_where_outcomes_lead(asked: bool) -> None:
    back = Status.CANCELLED if asked else Status.PENDING
    assert leads_to(Succeeded(HELD, b""), asked) is Status.SUCCESS
    assert leads_to(Failed(HELD, b""), asked) is Status.FAILED
    assert leads_to(Cancelled(HELD), asked) is Status.CANCELLED
    assert leads_to(Retried(HELD, NOW, b""), asked) is back
    assert leads_to(Released(HELD), asked) is back
    assert leads_to(Crashed(HELD, b""), asked) is Status.RUNNING


# -- Shares ----------------------------------------------------------------------------------------


def test_what_was_reserved_after_an_error_is_run_too() -> None:
    task = reserved()
    for answers in ([BackendError("away"), Reserved([task])], [Reserved([task]), BackendError("away")]):
        assert combine(answers) == Reserved([task])
    with pytest.raises(BackendError, match="first"):
        combine([BackendError("first"), Reserved([]), BackendError("second")])


def test_the_next_look_is_at_the_first_of_several_moments() -> None:
    later = NOW + timedelta(seconds=1)
    for moments in ((NOW, later), (later, NOW), (None, NOW), (NOW, None)):
        assert combine([Reserved([], at) for at in moments]).next_due_at == NOW
    assert combine([Reserved([]), Reserved([])]).next_due_at is None


# -- Envelopes -------------------------------------------------------------------------------------


def test_one_bit_is_enough_to_be_refused() -> None:
    data = pack("json", b"[1, 2, 3]")
    assert unpack(data, "json", "call") == b"[1, 2, 3]"
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(TaskSerializationError):
                unpack(bytes(damaged), "json", "call")
    for cut in range(len(data)):
        with pytest.raises(TaskSerializationError):
            unpack(data[:cut], "json", "call")


def test_what_is_wrong_with_an_envelope_and_what_to_do() -> None:
    data = pack("json", b"body", version=2)
    with pytest.raises(
        TaskSerializationError, match=r"result has version 2 of the format json.*or a newer one"
    ):
        unpack(data, "json", "result")
    assert unpack(data, "json", "result", known=2) == b"body"
    with pytest.raises(TaskSerializationError, match="call are damaged: their checksum is wrong"):
        unpack(data[:-1], "json", "call")
    with pytest.raises(
        PayloadRefusedError,
        match=r"this call was written by the serializer json, and here other reads.* name that in also_reads",
    ):
        unpack(data, "other", "call")
    with pytest.raises(
        PayloadRefusedError, match="this call says of no serializer that it wrote it, and here json"
    ):
        unpack(b"nothing of the kind", "json", "call")


def test_code_by_value_is_of_one_python() -> None:
    data = pack("mine", b"code", by_value=True)
    assert unpack(data, "mine", "call") == b"code"
    at = 4 + len("mine") + 1
    assert data[at : at + 2] == PYTHON
    assert pack("mine", b"data")[at : at + 2] == b"\0\0"
    said = str(other_python("call", 3, 9))
    assert f"from Python 3.9, and this is Python {PYTHON[0]}.{PYTHON[1]}: bytecode" in said
    for major, minor in ((4, 0), (3, 9)):
        head = data[:at] + bytes([major, minor])
        foreign = head + crc32(b"code", crc32(head)).to_bytes(4) + b"code"
        with pytest.raises(TaskSerializationError, match=f"^this call .* from Python {major}.{minor}, and"):
            unpack(foreign, "mine", "call")


def test_bytes_that_are_too_short_have_no_name() -> None:
    data = pack("json", b"")
    assert [name_of(data[:cut]) for cut in range(8)] == [""] * 8
    assert name_of(data[:8]) == "json"
    assert name_of(b"sq\x01\x00") == "cloudpickle"
    assert name_of(b"sq\x03" + data[3:]) == name_of(b"qs" + data[2:]) == ""


# -- Retries ---------------------------------------------------------------------------------------


def test_no_wait_is_no_wait_however_often_it_failed() -> None:
    policy = RetryPolicy(base=0, max_delay=10, factor=1000, jitter="none")
    assert delay(policy, 1, lambda: 1.0) == delay(policy, 1_000_000, lambda: 1.0) == 0.0


def test_the_number_for_the_jitter_is_drawn_once() -> None:
    draws: list[float] = []

    def rng() -> float:
        draws.append(0.25)
        return 0.25

    for jitter, wait in (("full", 1.0), ("equal", 2.5), ("none", 4.0)):
        draws.clear()
        policy = RetryPolicy(backoff="constant", base=4, jitter=jitter)  # type: ignore[arg-type]
        assert decide(policy, ValueError(), 1, NOW, rng).retry_at == NOW + timedelta(seconds=wait)
        assert len(draws) == (jitter != "none")


def test_an_error_with_a_delay_of_its_own_asks_for_nothing() -> None:
    class Throttled(Exception):
        delay = timedelta(hours=1)

    policy = RetryPolicy(backoff="constant", base=4, jitter="none")
    assert decide(policy, Throttled(), 1, NOW, lambda: 1.0).retry_at == NOW + timedelta(seconds=4)


# -- Options and terms -----------------------------------------------------------------------------


def test_a_runner_travels_with_other_rules() -> None:
    options = TaskOptions(executor="thread", timeout=3, keep_failed=4, retry=1)
    assert terms(options, name="work", queue="default", now=NOW).rules == RunRules(
        RetryPolicy(max_attempts=2), 3.0, None, 4.0, "thread"
    )


def test_spans_from_a_millisecond_on() -> None:
    for name in ("debounce", "throttle", "expires", "timeout"):
        assert getattr(TaskOptions(**{name: 0.001}), name) == timedelta(milliseconds=1)  # type: ignore[misc]
        with pytest.raises(ValidationError, match=name):
            TaskOptions(**{name: 0.0009})  # type: ignore[misc]
    assert TaskOptions(unique_key="key", unique_until=0.001).unique_until == timedelta(milliseconds=1)
    with pytest.raises(ValidationError, match="unique_until"):
        TaskOptions(unique_key="key", unique_until=0.0009)


def test_a_number_out_of_range_is_told_what_it_means() -> None:
    with pytest.raises(
        ValidationError, match=r"from 0 to 999999, how often to try again after the first attempt$"
    ):
        TaskOptions(max_retries=-1)
    with pytest.raises(ValidationError, match="retry is out of range"):
        TaskOptions(retry=-1)


def test_a_rate_that_was_made_by_hand_is_checked_too() -> None:
    assert TaskOptions(rate_limit=RateLimit(5, timedelta(seconds=1))).rate_limit == RateLimit(
        5, timedelta(seconds=1)
    )
    with pytest.raises(ValidationError, match="count of rate_limit"):
        TaskOptions(rate_limit=RateLimit(0, timedelta(seconds=1)))
    with pytest.raises(ValidationError, match="period of rate_limit"):
        TaskOptions(rate_limit=RateLimit(1, timedelta(0)))


def test_what_a_task_depends_on_is_named_once_and_in_order() -> None:
    assert TaskOptions(depends_on="b").depends_on == ("b",)
    assert TaskOptions(depends_on=iter(["b", "a", "b"])).depends_on == ("b", "a")
    fix = "give the handle or the id of a task, or several of them$"
    for wrong, message in (
        (7, "^depends_on is an int"),
        (b"a", "^depends_on is a bytes"),
        ({"a": 1}, "^depends_on is a dict"),
        (["a", 7], "^depends_on has an int in it"),
    ):
        with pytest.raises(ValidationError, match=f"{message}: {fix}"):
            TaskOptions(depends_on=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"^depends_on has 0 characters"):
        TaskOptions(depends_on=["a", ""])


def test_what_becomes_of_a_child_has_two_names() -> None:
    for name in ("cancel", "run"):
        assert TaskOptions(on_parent_failure=name).on_parent_failure == name  # type: ignore[arg-type]
    for wrong, what in (("retry", "an unknown name"), (1, "an int")):
        with pytest.raises(ValidationError, match=f"^on_parent_failure is {what}: give 'cancel' or 'run'$"):
            TaskOptions(on_parent_failure=wrong)  # type: ignore[arg-type]
