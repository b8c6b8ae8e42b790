"""complete: an outcome counts if its fence is the current one. Once, all in one go, and never against a newer run."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sitq.backends.base import Backend
from sitq.model import (
    Cancelled,
    Completed,
    Concurrency,
    Crashed,
    Failed,
    Heartbeat,
    Held,
    NewNote,
    NoteKind,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
)
from tests.support import (
    HOUR,
    LEASE,
    FakeClock,
    everything,
    new_task,
    new_tasks,
    record,
    reserve_one,
    reserved_ids,
    running,
)

OUTCOMES: dict[str, Callable[[Held, FakeClock], Outcome]] = {
    "succeeded": lambda held, clock: Succeeded(held, b"result"),
    "failed": lambda held, clock: Failed(held, b"error"),
    "retried": lambda held, clock: Retried(held, clock.now() + HOUR, b"error"),
    "cancelled": lambda held, clock: Cancelled(held, b"reason"),
    "released": lambda held, clock: Released(held),
    "crashed": lambda held, clock: Crashed(held, b"error"),
}
outcome_of_each_kind = pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES.keys())


# -- What each outcome writes ----------------------------------------------------------------------


async def test_succeeded(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    clock.advance(1)

    assert await backend.complete([Succeeded(held, b"result")]) == Completed(1)

    assert await record(backend, held.id) == replace(
        before, status=Status.SUCCESS, due_at=None, finished_at=clock.now(), result=b"result"
    )


async def test_failed(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    clock.advance(1)

    assert await backend.complete([Failed(held, b"error")]) == Completed(1)

    assert await record(backend, held.id) == replace(
        before, status=Status.FAILED, due_at=None, finished_at=clock.now(), error=b"error"
    )


@pytest.mark.parametrize("reason", [None, b"reason"])
async def test_cancelled(backend: Backend, clock: FakeClock, reason: bytes | None) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    clock.advance(1)

    assert await backend.complete([Cancelled(held, reason)]) == Completed(1)

    assert await record(backend, held.id) == replace(
        before, status=Status.CANCELLED, due_at=None, finished_at=clock.now(), error=reason
    )


async def test_retried(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    at = clock.now() + HOUR

    assert await backend.complete([Retried(held, at, b"error")]) == Completed(1)

    assert await record(backend, held.id) == replace(
        before, status=Status.PENDING, due_at=at, worker=None, started_at=None, error=b"error"
    )


@pytest.mark.parametrize(
    "make", [lambda held, at: Retried(held, at, b""), Released], ids=["retried", "released"]
)
async def test_the_next_start_is_kept_in_utc(
    backend: Backend, clock: FakeClock, make: Callable[[Held, datetime], Outcome]
) -> None:
    at = clock.now() + HOUR

    await backend.complete([make(await running(backend, new_task("a")), at.astimezone(timezone(2 * HOUR)))])

    due_at = (await record(backend, "a")).due_at
    assert due_at == at
    assert due_at is not None
    assert due_at.tzinfo is UTC


async def test_released_gives_the_attempt_back_but_not_the_fence(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    clock.advance(1)

    assert await backend.complete([Released(held)]) == Completed(1)

    assert await record(backend, held.id) == replace(
        before, status=Status.PENDING, due_at=clock.now(), worker=None, started_at=None, attempt=0
    )
    again = await reserve_one(backend)
    assert (again.attempt, again.crashes) == (1, 0)
    assert again.fence > held.fence


async def test_released_until_later(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)

    await backend.complete([Released(held, clock.now() + HOUR)])

    assert (await record(backend, held.id)).due_at == clock.now() + HOUR
    assert await reserved_ids(backend) == []


async def test_released_with_a_reason(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    at = clock.now() + HOUR

    assert await backend.complete([Released(held, at, b"reason")]) == Completed(1)

    assert await record(backend, held.id) == replace(
        before, status=Status.PENDING, due_at=at, worker=None, started_at=None, attempt=0, error=b"reason"
    )


async def test_a_release_without_a_reason_keeps_the_error_of_the_attempt_before(
    backend: Backend, clock: FakeClock
) -> None:
    held = await running(backend, new_task("a"))
    await backend.complete([Retried(held, clock.now(), b"first try")])
    await backend.complete([Released((await reserve_one(backend)).held)])

    assert (await record(backend, "a")).error == b"first try"


async def test_a_release_with_a_reason_of_a_task_that_was_asked_to_cancel_keeps_the_reason(
    backend: Backend,
) -> None:
    held = await running(backend)
    await backend.cancel([held.id])

    await backend.complete([Released(held, None, b"reason")])

    stored = await record(backend, held.id)
    assert (stored.status, stored.error) == (Status.CANCELLED, b"reason")


async def test_a_release_after_a_crash_gives_back_one_attempt_and_no_crash(
    backend: Backend, clock: FakeClock
) -> None:
    await running(backend, new_task("a"))
    clock.advance(LEASE)
    await backend.complete([Released((await reserve_one(backend)).held)])

    stored = await record(backend, "a")

    assert (stored.attempt, stored.crashes) == (1, 1)


async def test_a_success_forgets_the_error_of_the_attempt_before(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    await backend.complete([Retried(held, clock.now(), b"first try")])
    await backend.complete([Succeeded((await reserve_one(backend)).held, b"second try")])

    stored = await record(backend, "a")

    assert (stored.attempt, stored.result, stored.error) == (2, b"second try", None)


async def test_a_cancellation_without_a_reason_keeps_the_error_of_the_attempt_before(
    backend: Backend, clock: FakeClock
) -> None:
    held = await running(backend, new_task("a"))
    await backend.complete([Retried(held, clock.now(), b"first try")])
    await backend.complete([Cancelled((await reserve_one(backend)).held)])

    assert (await record(backend, "a")).error == b"first try"


async def test_crashed_ends_the_lease_and_nothing_else(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    clock.advance(1)

    assert await backend.complete([Crashed(held, b"error")]) == Completed(1)

    assert await record(backend, held.id) == replace(before, due_at=clock.now(), worker=None, error=b"error")
    again = await reserve_one(backend, "w2")
    assert (again.attempt, again.crashes, again.payload) == (2, 1, before.payload)
    assert again.fence > held.fence


async def test_nobody_holds_what_crashed(backend: Backend, clock: FakeClock) -> None:
    held = await has_crashed(backend, clock)
    before = await everything(backend)
    notes = await backend.notes(held.id)

    late = NewNote(held, NoteKind.LOG, b"late")
    assert await backend.heartbeat("w1", [held], LEASE, notes=[late]) == Heartbeat(lost=frozenset({held}))

    assert await everything(backend) == before
    assert await backend.notes(held.id) == notes
    assert [(note.kind, note.attempt, note.data) for note in notes] == [(NoteKind.ATTEMPT, 1, b"first")]


async def test_what_crashed_and_is_asked_to_cancel_is_handed_out_with_that(
    backend: Backend, clock: FakeClock
) -> None:
    held = await has_crashed(backend, clock)

    assert await backend.cancel([held.id]) == {held.id: Status.RUNNING}

    assert (await reserve_one(backend)).cancel_requested


async def test_what_crashed_keeps_its_place(backend: Backend, clock: FakeClock) -> None:
    one = Concurrency("key", 1)
    first = await running(backend, new_task("a", concurrency=one))
    await backend.enqueue([new_task("b", concurrency=one)])

    await backend.complete([Crashed(first, b"error")])

    assert await reserved_ids(backend) == ["a"]
    await backend.complete([Succeeded(Held("a", (await record(backend, "a")).fence), b"")])
    assert await reserved_ids(backend) == ["b"]


@outcome_of_each_kind
async def test_a_lease_that_ran_out_unnoticed_still_counts(
    backend: Backend, clock: FakeClock, outcome: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend)
    clock.advance(2 * LEASE)

    assert await backend.complete([outcome(held, clock)]) == Completed(1)


# -- Every outcome in every state ------------------------------------------------------------------

type Preparation = Callable[[Backend, FakeClock], Awaitable[Held]]


async def is_running(backend: Backend, clock: FakeClock) -> Held:
    return await running(backend)


async def is_asked_to_cancel(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    await backend.cancel([held.id])
    return held


async def was_taken_over(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    clock.advance(LEASE)
    await reserve_one(backend, "w2")
    return held


async def was_taken_over_and_finished(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    clock.advance(LEASE)
    await backend.complete([Succeeded((await reserve_one(backend, "w2")).held, b"newer")])
    return held


async def was_taken_over_and_retried(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    clock.advance(LEASE)
    await backend.complete([Retried((await reserve_one(backend, "w2")).held, clock.now() + HOUR, b"newer")])
    return held


async def was_retried(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    await backend.complete([Retried(held, clock.now() + HOUR, b"first")])
    return held


async def was_released(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    await backend.complete([Released(held)])
    return held


async def was_released_and_reserved(backend: Backend, clock: FakeClock) -> Held:
    held = await was_released(backend, clock)
    await reserve_one(backend, "w1")
    return held


async def was_retried_and_cancelled(backend: Backend, clock: FakeClock) -> Held:
    held = await was_retried(backend, clock)
    await backend.cancel([held.id])
    return held


async def was_asked_to_cancel_and_retried(backend: Backend, clock: FakeClock) -> Held:
    held = await is_asked_to_cancel(backend, clock)
    await backend.complete([Retried(held, clock.now() + HOUR, b"first")])
    return held


async def has_succeeded(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    await backend.complete([Succeeded(held, b"first")])
    return held


async def has_crashed(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    await backend.complete([Crashed(held, b"first")])
    return held


async def has_crashed_and_was_reserved(backend: Backend, clock: FakeClock) -> Held:
    held = await has_crashed(backend, clock)
    await reserve_one(backend, "w1")
    return held


async def has_failed(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    await backend.complete([Failed(held, b"first")])
    return held


async def was_cancelled(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend)
    await backend.complete([Cancelled(held, b"first")])
    return held


async def was_pruned(backend: Backend, clock: FakeClock) -> Held:
    held = await running(backend, new_task(result_ttl=timedelta(0)))
    await backend.complete([Succeeded(held, b"first")])
    assert await backend.prune(1) == 1
    return held


async def was_pruned_and_came_again(backend: Backend, clock: FakeClock) -> Held:
    held = await was_pruned(backend, clock)
    await running(backend, new_task(held.id))
    return held


async def never_ran(backend: Backend, clock: FakeClock) -> Held:
    stranger = await running(backend)
    task = new_task()
    await backend.enqueue([task])
    return Held(task.id, stranger.fence)


async def is_unknown(backend: Backend, clock: FakeClock) -> Held:
    return Held("unknown", 1)


SUCCESS, FAILED, CANCELLED, PENDING = Status.SUCCESS, Status.FAILED, Status.CANCELLED, Status.PENDING
RUNNING = Status.RUNNING

# While the task runs under this fence: where each outcome leads.
APPLIED: dict[Preparation, dict[str, Status]] = {
    is_running: {
        "succeeded": SUCCESS,
        "failed": FAILED,
        "retried": PENDING,
        "cancelled": CANCELLED,
        "released": PENDING,
        "crashed": RUNNING,
    },
    is_asked_to_cancel: {
        "succeeded": SUCCESS,
        "failed": FAILED,
        "retried": CANCELLED,
        "cancelled": CANCELLED,
        "released": CANCELLED,
        "crashed": RUNNING,
    },
}
# Otherwise nothing changes: which outcomes are taken for a repeated message, all others being stale.
REPEATED: dict[Preparation, set[str]] = {
    has_succeeded: {"succeeded"},
    has_failed: {"failed"},
    was_cancelled: {"cancelled"},
    was_retried: {"retried", "released"},
    was_released: {"retried", "released"},
    was_retried_and_cancelled: {"cancelled"},
    was_asked_to_cancel_and_retried: {"retried", "released", "cancelled"},
    has_crashed: {"crashed"},
    has_crashed_and_was_reserved: set(),
    was_taken_over: set(),
    was_taken_over_and_finished: set(),
    was_taken_over_and_retried: set(),
    was_released_and_reserved: set(),
    was_pruned: set(),
    was_pruned_and_came_again: set(),
    never_ran: set(),
    is_unknown: set(),
}


@pytest.mark.parametrize("kind", OUTCOMES)
@pytest.mark.parametrize("state", APPLIED, ids=lambda state: state.__name__)
async def test_an_outcome_is_applied(
    backend: Backend, clock: FakeClock, state: Preparation, kind: str
) -> None:
    held = await state(backend, clock)

    assert await backend.complete([OUTCOMES[kind](held, clock)]) == Completed(1)

    stored = await record(backend, held.id)
    assert stored.status is APPLIED[state][kind]
    assert (stored.due_at is None) is stored.status.finished
    assert (stored.finished_at == clock.now()) is stored.status.finished
    assert (await backend.stats()).stale_outcomes == 0


@pytest.mark.parametrize("kind", OUTCOMES)
@pytest.mark.parametrize("state", REPEATED, ids=lambda state: state.__name__)
async def test_an_outcome_changes_nothing(
    backend: Backend, clock: FakeClock, state: Preparation, kind: str
) -> None:
    held = await state(backend, clock)
    before = await everything(backend)
    clock.advance(1)

    answer = await backend.complete([OUTCOMES[kind](held, clock)])

    repeated = kind in REPEATED[state]
    assert answer == (Completed(1) if repeated else Completed(0, (held,)))
    assert (await backend.stats()).stale_outcomes == (0 if repeated else 1)
    assert await everything(backend) == before


async def test_a_retry_of_a_task_that_was_asked_to_cancel_keeps_its_error(
    backend: Backend, clock: FakeClock
) -> None:
    held = await was_asked_to_cancel_and_retried(backend, clock)

    stored = await record(backend, held.id)

    assert (stored.error, stored.finished_at) == (b"first", clock.now())


# -- Batches ---------------------------------------------------------------------------------------


async def test_an_empty_batch(backend: Backend) -> None:
    assert await backend.complete([]) == Completed(0)
    assert (await backend.stats()).stale_outcomes == 0


async def test_a_batch_of_every_kind(backend: Backend, clock: FakeClock) -> None:
    held = [await running(backend) for _ in OUTCOMES]

    answer = await backend.complete(
        [make(hold, clock) for hold, make in zip(held, OUTCOMES.values(), strict=True)]
    )

    assert answer == Completed(6)
    statuses = [(await record(backend, hold.id)).status for hold in held]
    assert statuses == [SUCCESS, FAILED, PENDING, CANCELLED, PENDING, RUNNING]


async def test_stale_outcomes_do_not_hold_up_the_others(backend: Backend, clock: FakeClock) -> None:
    lost = await was_taken_over(backend, clock)
    unknown = Held("unknown", 1)
    held = await running(backend)

    answer = await backend.complete(
        [Succeeded(lost, b"old"), Succeeded(held, b"result"), Failed(unknown, b"")]
    )

    assert answer == Completed(1, (lost, unknown))
    assert (await record(backend, held.id)).result == b"result"
    assert (await record(backend, lost.id)).status is Status.RUNNING
    assert (await backend.stats()).stale_outcomes == 2


@outcome_of_each_kind
async def test_the_same_outcome_twice_in_a_batch_counts_once(
    backend: Backend, clock: FakeClock, outcome: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend)

    answer = await backend.complete([outcome(held, clock)] * 2)

    assert answer == Completed(2)
    assert (await record(backend, held.id)).attempt == (
        0 if isinstance(outcome(held, clock), Released) else 1
    )
    assert (await backend.stats()).stale_outcomes == 0
    assert len(await backend.notes(held.id)) == isinstance(outcome(held, clock), Retried | Crashed)


@pytest.mark.parametrize("second", ["failed", "cancelled", "retried", "released", "crashed"])
async def test_of_two_outcomes_in_a_batch_the_first_wins(
    backend: Backend, clock: FakeClock, second: str
) -> None:
    held = await running(backend)

    answer = await backend.complete([Succeeded(held, b"first"), OUTCOMES[second](held, clock)])

    assert answer == Completed(1, (held,))
    stored = await record(backend, held.id)
    assert (stored.status, stored.result, stored.error) == (SUCCESS, b"first", None)
    assert (await backend.stats()).stale_outcomes == 1


async def test_a_retry_before_a_success_in_a_batch_wins(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)

    answer = await backend.complete([Retried(held, clock.now() + HOUR, b"first"), Succeeded(held, b"second")])

    assert answer == Completed(1, (held,))
    stored = await record(backend, held.id)
    assert (stored.status, stored.due_at, stored.result) == (PENDING, clock.now() + HOUR, None)


async def test_a_success_after_a_crash_in_a_batch_is_stale(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)

    answer = await backend.complete([Crashed(held, b"first"), Succeeded(held, b"second")])

    assert answer == Completed(1, (held,))
    assert await backend.complete([Succeeded(held, b"second")]) == Completed(0, (held,))
    assert (await record(backend, held.id)).status is RUNNING


async def test_a_repeated_success_keeps_the_first_result(backend: Backend, clock: FakeClock) -> None:
    held = await has_succeeded(backend, clock)

    assert await backend.complete([Succeeded(held, b"second")]) == Completed(1)

    assert (await record(backend, held.id)).result == b"first"


async def test_a_large_batch(backend: Backend) -> None:
    await backend.enqueue(new_tasks(2000))
    reserved = (await backend.reserve("w1", None, 2000, LEASE)).tasks

    answer = await backend.complete([Succeeded(task.held, b"result") for task in reserved])

    assert answer == Completed(2000)
    assert {task.status for task in await everything(backend)} == {SUCCESS}


@pytest.mark.parametrize("batches", [(5,), (3, 2)], ids=["reserved together", "reserved apart"])
@pytest.mark.parametrize("late", [0, 1])
async def test_each_of_a_batch_gets_its_own_result(
    backend: Backend, clock: FakeClock, batches: tuple[int, ...], late: int
) -> None:
    await backend.enqueue(new_tasks(sum(batches)))
    held = [
        task.held for limit in batches for task in (await backend.reserve("w1", None, limit, LEASE)).tasks
    ]
    stale = tuple(Held(one.id, one.fence - 1) for one in held[:late])
    outcomes = [Succeeded(one, one.id.encode()) for one in (*stale, *held[late:])]

    answer = await backend.complete(outcomes)

    assert answer == Completed(len(held) - late, stale)
    assert [(await record(backend, one.id)).result for one in held[:late]] == [None] * late
    assert [(await record(backend, one.id)).result for one in held[late:]] == [
        one.id.encode() for one in held[late:]
    ]


async def test_of_two_results_of_one_task_in_a_batch_the_first_is_kept(backend: Backend) -> None:
    held = await running(backend)

    answer = await backend.complete([Succeeded(held, b"first"), Succeeded(held, b"second")])

    assert answer == Completed(2)
    assert (await record(backend, held.id)).result == b"first"


# -- By hand ---------------------------------------------------------------------------------------


async def test_mark_success(backend: Backend) -> None:
    held = await running(backend)

    assert await backend.mark_success(held, b"result") is True
    assert await backend.mark_failure(held, b"error") is False

    stored = await record(backend, held.id)
    assert (stored.status, stored.result) == (SUCCESS, b"result")


async def test_mark_failure(backend: Backend) -> None:
    held = await running(backend)

    assert await backend.mark_failure(held, b"error") is True
    assert await backend.mark_success(held, b"result") is False

    stored = await record(backend, held.id)
    assert (stored.status, stored.error) == (FAILED, b"error")


async def test_get_result_of_an_unknown_task(backend: Backend) -> None:
    assert await backend.get_result("unknown") is None
