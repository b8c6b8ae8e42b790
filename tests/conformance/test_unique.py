"""Unique keys: one holder at a time over all queues, until its start, its end or an instant."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sitq.backends.base import Backend
from sitq.model import (
    Cancelled,
    Enqueued,
    Failed,
    Held,
    NewTask,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    Unique,
    Until,
)
from tests.support import (
    HOUR,
    LEASE,
    FakeClock,
    everything,
    found_ids,
    new_task,
    record,
    reserve_one,
    reserved_ids,
    running,
)

MICROSECOND = timedelta(microseconds=1)

ENDS: dict[str, Callable[[Held], Outcome]] = {
    "success": lambda held: Succeeded(held, b"result"),
    "failed": lambda held: Failed(held, b"error"),
    "cancelled": lambda held: Cancelled(held),
}
GIVEN_BACK: dict[str, Callable[[Held, FakeClock], Outcome]] = {
    "released": lambda held, clock: Released(held),
    "retried": lambda held, clock: Retried(held, clock.now(), b"error"),
}
each_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
given_back = pytest.mark.parametrize("give_back", GIVEN_BACK.values(), ids=GIVEN_BACK.keys())


def keyed(
    task_id: str, until: Until | datetime | timedelta = Until.END, *, replace: bool = False, **fields: object
) -> NewTask:
    return new_task(task_id, unique=Unique("key", until, replace), **fields)


async def holder(backend: Backend) -> str:
    """Who holds the key, by the answer to one more; "nobody" if that one was stored."""
    [answer] = await backend.enqueue([keyed("nobody", queue="asking")])
    if answer.created:
        await backend.cancel(["nobody"])
        assert await backend.prune(1, ids=["nobody"]) == 1
    return answer.id


# -- Who comes second ------------------------------------------------------------------------------


async def test_the_answer_is_the_holder(backend: Backend) -> None:
    await backend.enqueue([keyed("a")])
    before = await everything(backend)

    assert await backend.enqueue([keyed("b")]) == [Enqueued("a", created=False)]

    assert await everything(backend) == before
    assert await backend.get_result("b") is None
    assert await reserved_ids(backend) == ["a"]


async def test_the_key_belongs_to_all_queues_and_names(backend: Backend) -> None:
    await backend.enqueue([keyed("a", queue="one", name="resize")])

    assert await backend.enqueue([keyed("b", queue="two", name="send")]) == [Enqueued("a", created=False)]
    assert await found_ids(backend) == ["a"]


async def test_other_keys_and_no_key_are_free(backend: Backend) -> None:
    await backend.enqueue([keyed("a")])

    answers = await backend.enqueue(
        [new_task("b", unique=Unique("Key")), new_task("c", unique=Unique("")), new_task("d"), new_task("e")]
    )

    assert [answer.created for answer in answers] == [True] * 4


@pytest.mark.parametrize("text", ["größe 大きさ \N{SNOWMAN}", "a'b\"c;--", "a\nb", "", " ", "x" * 1000])
async def test_a_key_is_any_text(backend: Backend, text: str) -> None:
    await backend.enqueue([new_task("a", unique=Unique(text)), new_task("b", unique=Unique(text + "."))])

    assert await backend.enqueue([new_task("c", unique=Unique(text))]) == [Enqueued("a", created=False)]


async def test_two_in_one_batch(backend: Backend) -> None:
    answers = await backend.enqueue([new_task("x"), keyed("a"), keyed("b"), new_task("y"), keyed("c")])

    assert answers == [
        Enqueued("x", True),
        Enqueued("a", True),
        Enqueued("a", False),
        Enqueued("y", True),
        Enqueued("a", False),
    ]
    assert await found_ids(backend) == ["y", "a", "x"]


async def test_every_client_meets_the_holder(clients: list[Backend]) -> None:
    await clients[0].enqueue([keyed("a")])

    for number, client in enumerate(clients):
        assert await client.enqueue([keyed(f"b{number}")]) == [Enqueued("a", created=False)]


async def test_a_failing_batch_takes_no_key(backend: Backend) -> None:
    with pytest.raises((TypeError, ValueError)):
        await backend.enqueue([keyed("a"), new_task("b", metadata={"bad": object()})])

    assert await backend.enqueue([keyed("c")]) == [Enqueued("c", created=True)]


@pytest.mark.parametrize(
    "unique",
    [
        None,
        Unique("key"),
        Unique("key", Until.START, replace=True),
        Unique("key", datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        Unique("key", datetime(2026, 6, 1, 12, 0, 0, 1, tzinfo=timezone(2 * HOUR))),
    ],
    ids=["none", "end", "start", "instant", "another zone"],
)
async def test_the_record_says_what_was_asked(backend: Backend, unique: Unique | None) -> None:
    await backend.enqueue([new_task("a", unique=unique)])

    [listed] = await everything(backend)

    assert (await record(backend, "a")).unique == listed.unique == unique
    if listed.unique and isinstance(listed.unique.until, datetime):
        assert listed.unique.until.tzinfo is UTC


# -- An id that is there comes before the key ------------------------------------------------------


async def test_the_holder_stored_again_is_itself(backend: Backend) -> None:
    await backend.enqueue([keyed("a", payload=b"first")])
    before = await record(backend, "a")

    answer = await backend.enqueue([keyed("a", payload=b"second", replace=True)])

    assert answer == [Enqueued("a", created=False)]
    assert await record(backend, "a") == before


async def test_a_batch_stored_again_has_the_same_ids(backend: Backend) -> None:
    batch = [keyed("a"), keyed("b"), new_task("c")]
    first = await backend.enqueue(batch)

    again = await backend.enqueue(batch)

    assert [answer.id for answer in again] == [answer.id for answer in first] == ["a", "a", "c"]
    assert not any(answer.created for answer in again)


@pytest.mark.parametrize("replace", [False, True])
async def test_an_id_that_is_there_wins_over_a_key_that_is_held(backend: Backend, replace: bool) -> None:
    await backend.enqueue([keyed("a"), new_task("b")])
    before = await everything(backend)

    assert await backend.enqueue([keyed("b", replace=replace)]) == [Enqueued("b", created=False)]

    assert await everything(backend) == before
    assert await holder(backend) == "a"


async def test_an_id_that_is_there_does_not_take_a_free_key(backend: Backend) -> None:
    await backend.enqueue([new_task("a")])

    await backend.enqueue([keyed("a")])

    assert await holder(backend) == "nobody"


async def test_a_former_holder_stored_again_does_not_take_the_key(backend: Backend) -> None:
    held = await running(backend, keyed("a"))
    await backend.complete([Succeeded(held, b"")])

    assert await backend.enqueue([keyed("a")]) == [Enqueued("a", created=False)]

    assert await holder(backend) == "nobody"


# -- Until the end ---------------------------------------------------------------------------------


@each_end
async def test_until_end_each_end_frees_it(backend: Backend, end: Callable[[Held], Outcome]) -> None:
    held = await running(backend, keyed("a"))
    assert await holder(backend) == "a"

    await backend.complete([end(held)])

    assert await backend.enqueue([keyed("b")]) == [Enqueued("b", created=True)]
    assert await holder(backend) == "b"


@pytest.mark.parametrize("until", [Until.START, Until.END], ids=str)
async def test_a_cancel_before_the_start_frees_it(backend: Backend, until: Until) -> None:
    await backend.enqueue([keyed("a", until)])
    await backend.cancel(["a"])

    assert await holder(backend) == "nobody"


@given_back
async def test_until_end_a_task_given_back_keeps_it(
    backend: Backend, clock: FakeClock, give_back: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend, keyed("a"))

    await backend.complete([give_back(held, clock)])

    assert await holder(backend) == "a"


@given_back
async def test_until_end_a_task_cancelled_instead_of_given_back_frees_it(
    backend: Backend, clock: FakeClock, give_back: Callable[[Held, FakeClock], Outcome]
) -> None:
    held = await running(backend, keyed("a"))
    await backend.cancel(["a"])
    assert await holder(backend) == "a"

    await backend.complete([give_back(held, clock)])

    assert await holder(backend) == "nobody"


async def test_until_end_a_lost_lease_keeps_it(backend: Backend, clock: FakeClock) -> None:
    await running(backend, keyed("a"))
    clock.advance(LEASE)
    assert await holder(backend) == "a"

    assert await reserved_ids(backend) == ["a"]

    assert await holder(backend) == "a"


async def test_a_stale_end_frees_nothing(backend: Backend, clock: FakeClock) -> None:
    first = await running(backend, keyed("a"))
    clock.advance(LEASE)
    await reserve_one(backend, "w2")

    await backend.complete([Succeeded(first, b"")])

    assert await holder(backend) == "a"


async def test_an_end_that_is_sent_again_takes_nothing_from_the_next_holder(backend: Backend) -> None:
    held = await running(backend, keyed("a"))
    await backend.complete([Succeeded(held, b"")])
    await backend.enqueue([keyed("b")])

    await backend.complete([Succeeded(held, b"")])
    await backend.cancel(["a"])
    await backend.prune(10, ids=["a"])

    assert await holder(backend) == "b"


# -- Until the start -------------------------------------------------------------------------------


async def test_until_start_the_first_reservation_frees_it(backend: Backend) -> None:
    await backend.enqueue([keyed("a", Until.START)])
    assert await holder(backend) == "a"

    assert await reserved_ids(backend) == ["a"]

    assert await backend.enqueue([keyed("b", Until.START)]) == [Enqueued("b", created=True)]


@given_back
@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken by another"])
async def test_until_start_a_task_given_back_does_not_take_it_again(
    backend: Backend, clock: FakeClock, give_back: Callable[[Held, FakeClock], Outcome], taken: bool
) -> None:
    held = await running(backend, keyed("a", Until.START))
    if taken:
        await backend.enqueue([keyed("b", due_at=clock.now() + HOUR)])

    await backend.complete([give_back(held, clock)])

    assert await holder(backend) == ("b" if taken else "nobody")
    assert await reserved_ids(backend) == ["a"]
    assert await holder(backend) == ("b" if taken else "nobody")


async def test_until_start_a_lost_lease_does_not_take_it_again(backend: Backend, clock: FakeClock) -> None:
    await running(backend, keyed("a", Until.START))
    clock.advance(LEASE)
    await backend.enqueue([keyed("b", Until.START, due_at=clock.now() + HOUR)])

    assert await reserved_ids(backend) == ["a"]

    assert await holder(backend) == "b"


@each_end
async def test_until_start_the_end_takes_nothing_from_the_next_holder(
    backend: Backend, end: Callable[[Held], Outcome]
) -> None:
    held = await running(backend, keyed("a", Until.START))
    await backend.enqueue([keyed("b", Until.START)])

    await backend.complete([end(held)])

    assert await holder(backend) == "b"


async def test_who_comes_second_may_hold_it_for_longer(backend: Backend) -> None:
    await running(backend, keyed("a", Until.START))
    await running(backend, keyed("b", Until.END))

    assert await holder(backend) == "b"


# -- Until an instant ------------------------------------------------------------------------------


async def test_until_an_instant_to_the_microsecond(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([keyed("a", clock.now() + HOUR)])

    clock.advance(HOUR - MICROSECOND)
    assert await holder(backend) == "a"

    clock.advance(MICROSECOND)
    assert await holder(backend) == "nobody"


@each_end
async def test_until_an_instant_survives_the_end(
    backend: Backend, clock: FakeClock, end: Callable[[Held], Outcome]
) -> None:
    held = await running(backend, keyed("a", clock.now() + HOUR))
    await backend.complete([end(held)])

    assert await backend.enqueue([keyed("b", replace=True)]) == [Enqueued("a", created=False)]
    clock.advance(HOUR)
    assert await backend.enqueue([keyed("b")]) == [Enqueued("b", created=True)]


async def test_until_an_instant_survives_a_cancel_before_the_start(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([keyed("a", clock.now() + HOUR)])
    await backend.cancel(["a"])
    before = await record(backend, "a")

    assert await backend.enqueue([keyed("b", replace=True)]) == [Enqueued("a", created=False)]

    assert await record(backend, "a") == before


async def test_until_an_instant_survives_pruning_until_then(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, keyed("a", clock.now() + HOUR, result_ttl=timedelta(0)))
    await backend.complete([Succeeded(held, b"")])

    clock.advance(HOUR - MICROSECOND)
    assert await backend.prune(10) == 0
    assert await backend.prune(10, ids=["a"]) == 0
    assert await holder(backend) == "a"

    clock.advance(MICROSECOND)
    assert await backend.prune(10) == 1


async def test_an_instant_that_has_passed_frees_it_though_the_task_goes_on(
    backend: Backend, clock: FakeClock
) -> None:
    first = await running(backend, keyed("a", clock.now() + LEASE / 2))
    clock.advance(LEASE / 2)
    await backend.enqueue([keyed("b")])

    await backend.complete([Succeeded(first, b"")])
    assert await backend.prune(10, ids=["a"]) == 1

    assert await holder(backend) == "b"


async def test_two_in_one_batch_until_an_instant(backend: Backend, clock: FakeClock) -> None:
    answers = await backend.enqueue([keyed("a", clock.now() + HOUR), keyed("b", clock.now() + 2 * HOUR)])

    assert answers == [Enqueued("a", created=True), Enqueued("a", created=False)]
    clock.advance(HOUR)
    assert await holder(backend) == "nobody"


async def test_a_span_counts_from_the_storing(backend: Backend, clock: FakeClock) -> None:
    task = keyed("a", HOUR)
    clock.advance(2 * HOUR)  # whoever made it was stopped
    at = clock.now()
    await backend.enqueue([task])

    stored = (await record(backend, "a")).unique
    assert stored is not None
    assert stored.until == at + HOUR
    clock.advance(HOUR - MICROSECOND)
    assert await holder(backend) == "a"
    clock.advance(MICROSECOND)
    assert await holder(backend) == "nobody"


async def test_two_in_one_batch_for_a_span(backend: Backend) -> None:
    answers = await backend.enqueue([keyed("a", HOUR), keyed("b", HOUR)])

    assert answers == [Enqueued("a", created=True), Enqueued("a", created=False)]


async def test_a_span_of_no_length_takes_no_key(backend: Backend) -> None:
    answers = await backend.enqueue([keyed("a", timedelta(0)), keyed("b", timedelta(0)), keyed("c")])

    assert [answer.created for answer in answers] == [True, True, True]
    assert await holder(backend) == "c"


async def test_an_instant_in_the_past_takes_no_key(backend: Backend, clock: FakeClock) -> None:
    answers = await backend.enqueue([keyed("a", clock.now()), keyed("b", clock.now() - HOUR), keyed("c")])

    assert [answer.created for answer in answers] == [True, True, True]
    assert await holder(backend) == "c"
    assert await backend.enqueue([keyed("d", clock.now() - HOUR)]) == [Enqueued("c", created=False)]


# -- Replace ---------------------------------------------------------------------------------------


async def test_the_holder_takes_over_payload_and_due_time_and_nothing_else(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([keyed("a", payload=b"first", due_at=clock.now() + LEASE)])
    before = await record(backend, "a")

    answer = await backend.enqueue(
        [
            keyed(
                "b",
                Until.START,
                replace=True,
                payload=b"second",
                due_at=clock.now() + HOUR,
                queue="other",
                priority=5,
                name="other",
                metadata={"tenant": 12},
            )
        ]
    )

    assert answer == [Enqueued("a", created=False)]
    after = await record(backend, "a")
    assert (after.payload, after.due_at) == (b"second", clock.now() + HOUR)
    assert (after.seq, after.queue, after.priority, after.name, after.metadata, after.enqueued_at) == (
        before.seq,
        before.queue,
        before.priority,
        before.name,
        before.metadata,
        before.enqueued_at,
    )
    assert after.unique is not None
    assert after.unique.until is Until.END
    assert await found_ids(backend) == ["a"]


async def test_each_push_moves_the_start(backend: Backend, clock: FakeClock) -> None:
    for number in range(5):
        await backend.enqueue(
            [keyed(f"{number}", replace=True, payload=b"%d" % number, due_at=clock.now() + HOUR)]
        )
        clock.advance(HOUR / 2)
        assert await reserved_ids(backend) == []

    clock.advance(HOUR / 2)
    reserved = await reserve_one(backend)
    assert (reserved.id, reserved.payload) == ("0", b"4")


async def test_without_a_due_time_the_holder_is_due_now(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([keyed("a", due_at=clock.now() + HOUR)])

    await backend.enqueue([keyed("b", replace=True)])

    assert await reserved_ids(backend) == ["a"]


async def test_two_in_one_batch_the_second_of_which_replaces(backend: Backend, clock: FakeClock) -> None:
    later = clock.now() + HOUR
    answers = await backend.enqueue(
        [keyed("a", payload=b"first"), keyed("b", replace=True, payload=b"second", due_at=later)]
    )

    assert answers == [Enqueued("a", created=True), Enqueued("a", created=False)]
    assert ((await record(backend, "a")).payload, (await record(backend, "a")).due_at) == (b"second", later)


async def test_it_is_who_comes_second_that_asks_to_replace(backend: Backend) -> None:
    await backend.enqueue([keyed("a", replace=True, payload=b"first")])

    await backend.enqueue([keyed("b", payload=b"second")])

    assert (await record(backend, "a")).payload == b"first"


@pytest.mark.parametrize("give_back", [None, *GIVEN_BACK.values()], ids=["runs", *GIVEN_BACK.keys()])
async def test_a_holder_that_was_reserved_once_is_left_alone(
    backend: Backend, clock: FakeClock, give_back: Callable[[Held, FakeClock], Outcome] | None
) -> None:
    held = await running(backend, keyed("a"))
    if give_back is not None:
        await backend.complete([give_back(held, clock)])
    before = await record(backend, "a")
    clock.advance(1)

    answer = await backend.enqueue([keyed("b", replace=True, due_at=clock.now() + HOUR)])

    assert answer == [Enqueued("a", created=False)]
    assert await record(backend, "a") == before


async def test_a_failing_batch_replaces_nothing(backend: Backend) -> None:
    await backend.enqueue([keyed("a")])
    before = await record(backend, "a")

    with pytest.raises((TypeError, ValueError)):
        await backend.enqueue([keyed("b", replace=True), new_task("c", metadata={"bad": object()})])

    assert await record(backend, "a") == before


# -- Pruned ----------------------------------------------------------------------------------------


async def test_an_id_that_was_pruned_may_come_again_with_its_key(backend: Backend) -> None:
    held = await running(backend, keyed("a", result_ttl=timedelta(0)))
    await backend.complete([Succeeded(held, b"")])
    await backend.prune(10)

    assert await backend.enqueue([keyed("a")]) == [Enqueued("a", created=True)]

    assert await holder(backend) == "a"
    assert (await record(backend, "a")).status is Status.PENDING
