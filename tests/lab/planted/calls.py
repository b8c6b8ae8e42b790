"""Bugs in what goes around a call: bytes and who vouches for them, retries, options, schedules."""

from tests.lab.planted.bug import Bug

QUEUE = "tests/integration/test_queue.py"
SCHEDULES = "tests/integration/test_schedules.py"
RETRY = "tests/unit/test_retry.py"
WRAPPERS = "tests/unit/test_wrappers.py"

CALLS = (
    Bug(
        "anything-passes-for-signed",
        "serialization/signed.py",
        "        if not hmac.compare_digest(",
        "        if len(mac) != _SIZE and not hmac.compare_digest(",
        (f"{WRAPPERS}::test_what_is_protected_is_read_by_its_own_task_only",),
    ),
    Bug(
        "a-signature-holds-for-any-purpose",
        "serialization/keys.py",
        "parts = (format.encode(), self.data, about.purpose.encode(), task)",
        "parts = (format.encode(), self.data, task)",
        (f"{WRAPPERS}::test_what_is_protected_is_read_by_its_own_task_only",),
    ),
    Bug(
        "a-signature-holds-for-any-task",
        "serialization/keys.py",
        'task = (about.task or "").encode("utf-8", "surrogatepass") if self._bound else b""',
        'task = b""',
        (f"{WRAPPERS}::test_what_is_protected_is_read_by_its_own_task_only",),
    ),
    Bug(
        "a-result-is-read-before-it-is-verified",
        "serialization/wrapper.py",
        "return self.inner.decode_value(self.unwrap(data, about), about)",
        "return self.unwrap(self.inner.decode_value(data, about), about)",
        (f"{WRAPPERS}::test_nothing_inside_is_called_for_what_cannot_be_verified",),
    ),
    Bug(
        "damaged-bytes-are-read",
        "serialization/envelope.py",
        "if len(crc) < 4 or crc32(body, crc32(head)).to_bytes(4) != crc:",
        "if len(crc) < 4:",
        ("tests/unit/test_fine_print.py::test_one_bit_is_enough_to_be_refused",),
    ),
    Bug(
        "a-result-of-any-size",
        "serialization/pickles.py",
        "    if len(data) > max_payload:\n        raise result_too_large(len(data), max_payload)",
        "    if len(data) > 2 * max_payload:\n        raise result_too_large(len(data), max_payload)",
        (f"{QUEUE}::test_a_result_of_max_payload_is_kept_and_one_byte_more_is_a_recorded_failure",),
    ),
    Bug(
        "a-call-of-any-size",
        "serialization/pickles.py",
        "    if len(data) > max_payload:\n        raise call_too_large(call, len(data), max_payload)",
        "    if len(data) > max_payload + 1:\n        raise call_too_large(call, len(data), max_payload)",
        (f"{QUEUE}::test_max_payload_is_exact_to_the_byte",),
    ),
    Bug(
        "no-jitter",
        "retry.py",
        "return span * rng()",
        "return span",
        (f"{RETRY}::test_jitter_is_within_its_bounds",
         f"{RETRY}::test_jitter_is_spread_evenly"),
    ),
    Bug(
        "no-longest-wait",
        "retry.py",
        "    span = min(span, top)\n",
        "",
        (f"{RETRY}::test_the_wait_is_bounded_for_any_attempt",),
    ),
    Bug(
        "one-attempt-too-many",
        "retry.py",
        "if attempt >= policy.max_attempts:",
        "if attempt > policy.max_attempts:",
        (f"{RETRY}::test_attempts_are_counted_from_one",),
    ),
    Bug(
        "the-delay-of-a-retry-is-ignored",
        "retry.py",
        "        return Decision(now + wish)",
        "        return Decision(now)",
        (f"{RETRY}::test_retry_may_wait_longer_than_the_policy_would",),
    ),
    Bug(
        "what-is-to-be-given-up-is-retried",
        "retry.py",
        "    if any(_is_one_of(one, policy.give_up_on) for one in (error, *held)):",
        "    if all(_is_one_of(one, policy.give_up_on) for one in (error, *held)):",
        (f"{RETRY}::test_which_exceptions_are_retried",),
    ),
    Bug(
        "each-worker-makes-the-task-of-a-tick",
        "schedules.py",
        'id=f"{name}@{at}",',
        'id=f"{name}@{at}@{id(entry)}",',
        (f"{SCHEDULES}::test_a_worker_that_dies_after_it_enqueued_is_repeated_without_effect",),
    ),
    Bug(
        "an-overlap-is-not-skipped",
        "schedules.py",
        'unique=Unique(_DEFINITION + name) if overlap == "skip" else None,',
        "unique=None,",
        (f"{SCHEDULES}::test_overlap_skip_drops_ticks_until_the_task_ends",),
    ),
    Bug(
        "a-tick-is-settled-before-its-task-is-stored",
        "worker/ticker.py",
        "        enqueued = await self._store(ticks)\n        if settled:\n"
        "            await save_last(self._backend, settled)",
        "        if settled:\n            await save_last(self._backend, settled)\n"
        "        enqueued = await self._store(ticks)",
        (f"{SCHEDULES}::test_a_worker_that_dies_before_it_enqueues_leaves_the_tick_to_others",),
    ),
    Bug(
        "what-was-reserved-after-an-error-is-dropped",
        "worker/shares.py",
        "            errors.append(answer)\n            continue",
        "            errors.append(answer)\n            break",
        ("tests/unit/test_fine_print.py::test_what_was_reserved_after_an_error_is_run_too",),
    ),
    Bug(
        "a-queue-gets-more-than-its-share",
        "worker/shares.py",
        "            self._credits[best] -= self._total",
        "            self._credits[best] -= 1",
        ("tests/unit/test_shares.py::test_over_time_shares_follow_the_weights_whatever_the_slots",),
    ),
)  # fmt: skip
