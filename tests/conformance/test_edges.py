"""edges: who waits for whom, and what becomes of them when a parent ends. Each verb that stores, ends or revives."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from sitq.backends.base import Backend
from sitq.errors import ParentNotFoundError, QueueFullError, ValidationError
from sitq.model import (
    FINISHED,
    Cancelled,
    Edge,
    Enqueued,
    Failed,
    Held,
    NewTask,
    NoteKind,
    Outcome,
    QueueTopic,
    Released,
    Retried,
    Status,
    Succeeded,
    TaskId,
    TaskTopic,
    Unique,
    Until,
)
from tests.support import (
    ENDS,
    HOUR,
    LEASE,
    MINUTE,
    PATIENCE,
    FakeClock,
    bounded,
    everything,
    finish,
    found_ids,
    new_task,
    next_due_at,
    paced,
    record,
    reserved_ids,
    running,
)

FAILS: dict[str, Callable[[Held], Outcome]] = {
    "failed": lambda held: Failed(held, b"error"),
    "cancelled": lambda held: Cancelled(held, b"reason"),
}
each_failure = pytest.mark.parametrize("fails", FAILS.values(), ids=FAILS.keys())


def child(
    task_id: TaskId, *parents: TaskId, accepts: frozenset[Status] | None = None, **fields: object
) -> NewTask:
    edges = tuple(Edge(parent) if accepts is None else Edge(parent, accepts) for parent in parents)
    return new_task(task_id, edges=edges, **fields)


async def states(backend: Backend) -> dict[TaskId, str]:
    return {task.id: task.status.value for task in reversed(await everything(backend))}


async def ended(backend: Backend, task_id: TaskId, fails: Callable[[Held], Outcome]) -> Held:
    held = await running(backend, new_task(task_id))
    await backend.complete([fails(held)])
    return held


# -- enqueue ---------------------------------------------------------------------------------------


async def test_a_child_waits(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a"), new_task("b")])

    assert await backend.enqueue([child("c", "a", "b")]) == [Enqueued("c", created=True)]

    stored = await record(backend, "c")
    assert (stored.status, stored.parents, stored.due_at) == (Status.WAITING, ("a", "b"), clock.now())
    assert await reserved_ids(backend) == ["a", "b"]
    assert await reserved_ids(backend, ids=["c"]) == []
    assert await next_due_at(backend, ["other"]) is None


async def test_parents_of_the_same_batch(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a"), new_task("other"), child("c", "b", "a")])

    assert await states(backend) == {"a": "pending", "b": "waiting", "other": "pending", "c": "waiting"}


@pytest.mark.parametrize("parent", ["unknown", "later", "c", "pruned"])
async def test_a_parent_has_to_be_there_first(backend: Backend, parent: TaskId) -> None:
    await backend.enqueue([new_task("there"), new_task("pruned")])
    await backend.cancel(["pruned"])
    await backend.prune(1, ids=["pruned"])

    with pytest.raises(ParentNotFoundError, match=f"there is no task '{parent}' to depend on") as caught:
        await backend.enqueue([new_task("before"), child("c", "there", parent), new_task("later")])

    assert caught.value.task_id == parent
    assert isinstance(caught.value, ValidationError)
    assert await found_ids(backend) == ["there"]


async def test_what_failed_leaves_the_tasks_of_others_alone(clients: list[Backend]) -> None:
    with pytest.raises(ParentNotFoundError):
        await clients[0].enqueue([new_task("a"), child("b", "unknown")])
    await clients[1].enqueue([new_task("a"), child("b", "a")])

    assert await states(clients[0]) == {"a": "pending", "b": "waiting"}


async def test_a_parent_that_has_succeeded(backend: Backend) -> None:
    await ended(backend, "a", lambda held: Succeeded(held, b"1"))

    await backend.enqueue([child("b", "a")])

    [reserved] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    assert (reserved.id, reserved.parents) == ("b", ("a",))


@each_failure
async def test_a_parent_that_has_failed(
    backend: Backend, clock: FakeClock, fails: Callable[[Held], Outcome]
) -> None:
    await ended(backend, "a", fails)

    answer = await backend.enqueue([child("b", "a"), child("c", "b"), child("d", "a", accepts=FINISHED)])

    assert [one.created for one in answer] == [True] * 3
    for task_id in ("b", "c"):
        stored = await record(backend, task_id)
        assert (stored.status, stored.cancelled_by) == (Status.CANCELLED, "a")
        assert (stored.finished_at, stored.due_at, stored.error) == (clock.now(), None, None)
    assert await reserved_ids(backend) == ["d"]


async def test_the_same_id_again_changes_nothing(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), new_task("b"), child("c", "a")])

    again = [child("c", "b"), child("a", "unknown")]

    assert await backend.enqueue(again) == [Enqueued("c", created=False), Enqueued("a", created=False)]
    assert (await record(backend, "c")).parents == ("a",)


async def test_a_parent_that_was_not_stored_for_its_key_stands_for_the_holder(backend: Backend) -> None:
    await backend.enqueue([new_task("holder", unique=Unique("key"))])

    await backend.enqueue([new_task("second", unique=Unique("key")), child("c", "second", "holder")])

    assert (await record(backend, "c")).parents == ("holder", "holder")
    await finish_next(backend)
    assert await reserved_ids(backend) == ["c"]


async def test_the_holder_may_be_in_the_same_batch(backend: Backend) -> None:
    key = Unique("key")

    await backend.enqueue(
        [new_task("first", unique=key), new_task("second", unique=key), child("c", "second")]
    )

    assert (await record(backend, "c")).parents == ("first",)
    await finish_next(backend)
    assert await reserved_ids(backend) == ["c"]


async def finish_next(backend: Backend) -> TaskId:
    [task] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.complete([Succeeded(task.held, b"")])
    return task.id


async def test_what_has_edges_neither_replaces_nor_is_replaced(backend: Backend) -> None:
    replacing = Unique("key", Until.START, replace=True)
    await backend.enqueue([new_task("a"), new_task("holder", unique=replacing)])
    before = await record(backend, "holder")

    await backend.enqueue([child("b", "a", unique=replacing)])
    assert await record(backend, "holder") == before

    waiting = Unique("other", Until.START, replace=True)
    await backend.enqueue([child("c", "a", unique=waiting)])
    before = await record(backend, "c")
    await backend.enqueue([new_task("d", unique=waiting)])
    assert await record(backend, "c") == before


async def test_a_child_that_is_stored_as_cancelled_lets_go_of_its_key(backend: Backend) -> None:
    await ended(backend, "a", FAILS["failed"])

    answers = await backend.enqueue(
        [child("b", "a", unique=Unique("key")), new_task("c", unique=Unique("key"))]
    )

    assert [one.created for one in answers] == [True, True]


async def test_those_that_wait_hold_their_key(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a", unique=Unique("key"))])

    assert await backend.enqueue([new_task("c", unique=Unique("key"))]) == [Enqueued("b", created=False)]


async def test_max_pending_counts_those_that_wait_when_they_are_released(backend: Backend) -> None:
    children = [child(f"c{number}", "a") for number in range(5)]
    await backend.enqueue([new_task("a"), *children], max_pending={"default": 1})
    with pytest.raises(QueueFullError):
        await backend.enqueue([new_task("b")], max_pending={"default": 1})
    await backend.enqueue([child("d", "a")], max_pending={"default": 1})

    await finish_next(backend)

    with pytest.raises(QueueFullError):
        await backend.enqueue([new_task("b")], max_pending={"default": 6})
    await backend.enqueue([new_task("b")], max_pending={"default": 7})


async def test_those_that_wait_are_counted_and_found(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])

    [queue] = (await backend.stats()).queues

    assert {status: number for status, number in queue.counts.items() if number} == {
        Status.PENDING: 1,
        Status.WAITING: 1,
    }
    assert await found_ids(backend, statuses=[Status.WAITING]) == ["b"]
    assert await found_ids(backend, statuses=[Status.WAITING, Status.PENDING]) == ["b", "a"]


# -- complete: release -----------------------------------------------------------------------------


async def test_the_last_parent_releases(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), new_task("b"), child("c", "a", "b")])
    a, b = (await backend.reserve("w1", None, 2, LEASE)).tasks

    await backend.complete([Succeeded(a.held, b"1")])
    assert (await record(backend, "c")).status is Status.WAITING
    await backend.complete([Succeeded(b.held, b"2")])

    [reserved] = (await backend.reserve("w1", None, 2, LEASE)).tasks
    assert (reserved.id, reserved.parents, reserved.attempt) == ("c", ("a", "b"), 1)


async def test_parents_that_end_in_one_call(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), new_task("b"), child("c", "a", "b", "a")])
    tasks = (await backend.reserve("w1", None, 2, LEASE)).tasks

    await backend.complete([Succeeded(task.held, b"") for task in tasks])

    assert await reserved_ids(backend) == ["c"]


async def test_a_release_rings_the_queue_of_the_child(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a", queue="images")])
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks

    async with backend.listen([QueueTopic("images")]) as signal:
        await backend.complete([Succeeded(a.held, b"")])
        assert await signal.wait(PATIENCE)


async def test_a_release_by_a_cancel_rings_the_queue_of_the_child(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a", accepts=FINISHED, queue="images")])

    async with backend.listen([QueueTopic("images")]) as signal:
        await backend.cancel(["a"])
        assert await signal.wait(PATIENCE)


async def test_its_own_start_counts_from_the_release_on(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a"), child("late", "a", due_at=clock.now() + HOUR)])
    await backend.enqueue([child("soon", "a", due_at=clock.now() + MINUTE)])
    clock.advance(2 * MINUTE)
    released_at = clock.now()

    await finish_next(backend)

    assert (await record(backend, "soon")).due_at == released_at
    assert (await record(backend, "late")).due_at == released_at + HOUR - 2 * MINUTE
    assert await reserved_ids(backend) == ["soon"]
    clock.advance(HOUR)
    assert "late" in await reserved_ids(backend)


async def test_a_parent_that_is_tried_again_has_not_finished(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    for outcome in (
        lambda held: Retried(held, clock.now(), b"error"),
        lambda held: Released(held),
    ):
        [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks
        await backend.complete([outcome(a.held)])
        assert (await record(backend, "b")).status is Status.WAITING

    await finish_next(backend)
    assert await reserved_ids(backend) == ["b"]


async def test_a_lost_parent_that_is_taken_over_has_not_finished(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    [first] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    clock.advance(LEASE)
    [second] = (await backend.reserve("w2", None, 1, LEASE)).tasks

    await backend.complete([Succeeded(first.held, b"")])
    assert (await record(backend, "b")).status is Status.WAITING
    await backend.complete([Succeeded(second.held, b"")])
    assert await reserved_ids(backend) == ["b"]


async def test_an_outcome_that_is_sent_again_changes_nothing(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a"), child("c", "b")])
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.complete([Succeeded(a.held, b"")])
    [b] = (await backend.reserve("w1", None, 1, LEASE)).tasks

    assert (await backend.complete([Succeeded(a.held, b"")])).accepted == 1

    assert await states(backend) == {"a": "success", "b": "running", "c": "waiting"}
    await backend.complete([Succeeded(b.held, b"")])
    assert await reserved_ids(backend) == ["c"]


async def test_children_of_limited_tasks_and_limited_children(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([bounded("a"), bounded("b")])
    behind = (Edge("a"),)
    await backend.enqueue([bounded("c")._replace(edges=behind), paced("d")._replace(edges=behind)])
    assert await reserved_ids(backend) == ["a"]

    await finish(backend, "a")

    assert await reserved_ids(backend) == ["b", "d"]
    await finish(backend, "b")
    assert await reserved_ids(backend) == ["c"]


# -- complete and cancel: the subtree --------------------------------------------------------------


@each_failure
async def test_a_failure_cancels_the_subtree(
    backend: Backend, clock: FakeClock, fails: Callable[[Held], Outcome]
) -> None:
    await backend.enqueue(
        [new_task("a"), new_task("z"), child("b", "a", "z"), child("c", "b"), child("d", "c", "z")]
    )
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks

    await backend.complete([fails(a.held)])

    for task_id in ("b", "c", "d"):
        stored = await record(backend, task_id)
        assert (stored.status, stored.cancelled_by, stored.error) == (Status.CANCELLED, "a", None)
        assert (stored.finished_at, stored.due_at) == (clock.now(), None)
    assert (await record(backend, "a")).cancelled_by is None
    assert await finish_next(backend) == "z"
    assert await reserved_ids(backend) == []


async def test_a_cancelled_child_is_rung(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a"), child("c", "b")])
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks

    async with backend.listen([TaskTopic("c")]) as signal:
        await backend.complete([Failed(a.held, b"error")])
        assert await signal.wait(PATIENCE)


@pytest.mark.parametrize("end", ENDS)
async def test_a_child_may_accept_every_end(backend: Backend, end: Callable[[Held], Outcome]) -> None:
    await backend.enqueue([new_task("a"), child("b", "a", accepts=FINISHED), child("c", "b")])
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks

    await backend.complete([end(a.held)])

    assert await reserved_ids(backend) == ["b"]
    assert (await record(backend, "c")).status is Status.WAITING


async def test_a_child_that_wants_a_failure(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a", accepts=frozenset({Status.FAILED}))])

    await finish_next(backend)

    stored = await record(backend, "b")
    assert (stored.status, stored.cancelled_by) == (Status.CANCELLED, "a")


async def test_cancelling_a_parent_cancels_the_subtree(backend: Backend) -> None:
    await backend.enqueue(
        [new_task("a"), child("b", "a"), child("c", "b"), child("d", "c", accepts=FINISHED)]
    )

    assert await backend.cancel(["a"]) == {"a": Status.CANCELLED}

    assert await states(backend) == {"a": "cancelled", "b": "cancelled", "c": "cancelled", "d": "pending"}
    assert [task.cancelled_by for task in reversed(await everything(backend))] == [None, "a", "a", None]


async def test_cancelling_those_that_wait(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a"), child("c", "b")])

    assert await backend.cancel(["c", "b"]) == {"b": Status.CANCELLED, "c": Status.CANCELLED}

    assert [task.cancelled_by for task in await everything(backend)] == [None] * 3
    assert await found_ids(backend, statuses=[Status.WAITING]) == []
    await finish_next(backend)
    assert await reserved_ids(backend) == []


async def test_a_running_parent_that_is_asked_to_cancel_ends_first(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks

    await backend.cancel(["a"])
    assert (await record(backend, "b")).status is Status.WAITING
    await backend.complete([Retried(a.held, clock.now(), b"error")])

    assert (await record(backend, "b")).cancelled_by == "a"


async def test_the_nearest_failure_is_named(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), new_task("b"), child("x", "a"), child("c", "x", "b")])
    tasks = (await backend.reserve("w1", None, 2, LEASE)).tasks

    await backend.complete([Failed(task.held, b"error") for task in tasks])

    assert (await record(backend, "c")).cancelled_by == "b"


# -- requeue ---------------------------------------------------------------------------------------


async def test_a_requeued_parent_does_not_bring_back_its_children(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.complete([Failed(a.held, b"error")])

    assert await backend.requeue(["a"]) == ["a"]
    await finish_next(backend)
    assert (await record(backend, "b")).status is Status.CANCELLED

    assert await backend.requeue(["b"]) == ["b"]
    assert (await record(backend, "b")).cancelled_by is None
    assert await reserved_ids(backend) == ["b"]


async def test_a_subtree_that_is_requeued_waits_again(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a"), child("c", "b")])
    [a] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.complete([Failed(a.held, b"error")])

    assert await backend.requeue(["c", "b", "a"]) == ["a", "b", "c"]

    assert await states(backend) == {"a": "pending", "b": "waiting", "c": "waiting"}
    assert [note.kind for note in await backend.notes("c")] == [NoteKind.REQUEUED]
    for task_id in ("a", "b", "c"):
        assert await finish_next(backend) == task_id


async def test_without_its_parent_a_child_stays_as_it_is(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a"), child("c", "b")])
    await backend.cancel(["a"])
    before = await everything(backend)

    assert await backend.requeue(["b", "c"]) == []

    assert await everything(backend) == before


async def test_a_child_that_waits_for_others_waits_for_a_requeued_parent_again(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), new_task("z"), child("c", "a", "z", accepts=FINISHED)])
    await backend.cancel(["a"])
    await backend.requeue(["a"])
    [z] = (await backend.reserve("w1", None, 1, LEASE, ids=["z"])).tasks

    await backend.complete([Succeeded(z.held, b"")])

    assert (await record(backend, "c")).status is Status.WAITING
    assert await finish_next(backend) == "a"
    assert await reserved_ids(backend) == ["c"]


@pytest.mark.parametrize("back", ["retried", "released"])
async def test_a_running_child_that_is_given_back_waits_for_a_requeued_parent(
    backend: Backend, clock: FakeClock, back: str
) -> None:
    await backend.enqueue([new_task("a"), child("b", "a", accepts=FINISHED)])
    await backend.cancel(["a"])
    [b] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.requeue(["a"])
    outcome = Retried(b.held, clock.now() + MINUTE, b"error") if back == "retried" else Released(b.held)

    assert (await backend.complete([outcome])).accepted == 1

    stored = await record(backend, "b")
    assert (stored.status, stored.worker, stored.started_at) == (Status.WAITING, None, None)
    assert (await backend.complete([outcome])).accepted == 1  # the reply was lost
    clock.advance(MINUTE)
    assert await finish_next(backend) == "a"
    assert await reserved_ids(backend) == ["b"]


# -- prune -----------------------------------------------------------------------------------------


async def test_a_parent_is_kept_for_a_child_that_has_not_succeeded(
    backend: Backend, clock: FakeClock
) -> None:
    await backend.enqueue([new_task("a", result_ttl=HOUR), child("b", "a", result_ttl=HOUR)])
    await finish_next(backend)
    clock.advance(2 * HOUR)

    assert await backend.prune(10) == 0
    assert await backend.prune(10, ids=["a"]) == 0
    [b] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.complete([Failed(b.held, b"error")])
    assert await backend.prune(10) == 0

    await backend.requeue(["b"])
    await finish_next(backend)
    assert await backend.prune(10) == 1
    assert await found_ids(backend) == ["b"]
    assert (await record(backend, "b")).parents == ("a",)


async def test_a_dead_letter_goes_with_its_parents(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a", result_ttl=HOUR), child("b", "a"), child("c", "b", result_ttl=HOUR)])
    await finish_next(backend)
    [b] = (await backend.reserve("w1", None, 1, LEASE)).tasks
    await backend.complete([Failed(b.held, b"error", keep_for=24 * HOUR * 30)])
    clock.advance(HOUR)
    assert await backend.prune(10) == 1  # the leaf
    clock.advance(24 * HOUR * 30)

    assert await backend.prune(10) == 2


async def test_a_chain_drains_from_its_end(backend: Backend, clock: FakeClock) -> None:
    names = [f"t{number}" for number in range(20)]
    chain = [new_task(names[0], result_ttl=HOUR)]
    chain += [child(name, before, result_ttl=HOUR) for before, name in pairwise(names)]
    await backend.enqueue(chain)
    await backend.cancel(["t0"])
    clock.advance(HOUR)

    for left in (12, 4):
        assert await backend.prune(8) == 8
        assert await found_ids(backend) == names[:left][::-1]
    assert await backend.prune(10) == 4


async def test_what_is_chosen_goes_with_what_depends_on_it(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a"), child("c", "b"), child("d", "a")])
    await backend.cancel(["a"])

    assert await backend.prune(10, ids=["a", "b", "c"]) == 2
    assert await found_ids(backend) == ["d", "a"]
    assert await backend.prune(10, ids=["a", "d"]) == 2


async def test_an_id_that_is_used_again_is_another_task(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    await finish_next(backend)
    await finish_next(backend)
    await backend.prune(10, ids=["a"])

    await backend.enqueue([new_task("a"), child("c", "a")])
    await backend.cancel(["a"])

    assert await states(backend) == {"b": "success", "a": "cancelled", "c": "cancelled"}


async def test_a_parent_may_go_before_its_child(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    await finish_next(backend)
    await finish_next(backend)

    for task_id in ("a", "b"):
        assert await backend.prune(10, ids=[task_id]) == 1

    assert await everything(backend) == []


async def test_an_id_that_is_used_again_has_no_edges_of_before(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    await backend.cancel(["b"])
    await backend.prune(10, ids=["b"])

    held = await running(backend, new_task("b"))
    await backend.complete([Released(held)])
    assert (await record(backend, "b")).status is Status.PENDING


async def test_an_id_that_is_used_again_has_no_failed_parent_of_before(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), child("b", "a")])
    await backend.cancel(["a"])
    await backend.prune(10, ids=["b"])

    await ended(backend, "b", lambda held: Failed(held, b"error"))
    assert await backend.requeue(["b"]) == ["b"]
    assert await reserved_ids(backend) == ["b"]


# -- Many ------------------------------------------------------------------------------------------


async def test_ten_thousand_parents(backend: Backend) -> None:
    names = [f"p{number}" for number in range(10_000)]
    await backend.enqueue([*map(new_task, names), child("all", *names)])

    while tasks := (await backend.reserve("w1", None, 1_000, LEASE)).tasks:
        last = tasks[-1]
        if last.id == "all":
            break
        assert (await backend.complete([Succeeded(task.held, b"") for task in tasks])).stale == ()

    assert [task.id for task in tasks] == ["all"]
    assert tasks[0].parents == tuple(names)


async def test_a_failure_among_ten_thousand_children(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), *(child(f"c{number}", "a") for number in range(10_000))])

    await backend.cancel(["a"])

    [queue] = (await backend.stats()).queues
    assert queue.counts[Status.CANCELLED] == 10_001


@pytest.mark.parametrize("fails", [False, True])
async def test_a_chain_of_a_thousand(backend: Backend, fails: bool) -> None:
    names = [f"t{number}" for number in range(1_000)]
    await backend.enqueue([new_task(names[0]), *(child(name, before) for before, name in pairwise(names))])
    if fails:
        await backend.cancel([names[0]])
        found = await everything(backend)
        assert {task.cancelled_by for task in found[:-1]} == {names[0]}
        assert len(await backend.requeue(names)) == 1_000
    for name in names:
        assert await finish_next(backend) == name
    assert await reserved_ids(backend) == []


async def test_it_is_all_still_there_after_a_restart(clients: list[Backend]) -> None:
    await clients[0].enqueue([new_task("a"), child("b", "a")])
    before = await record(clients[0], "b")

    assert await record(clients[-1], "b") == before
    await finish_next(clients[-1])
    assert await reserved_ids(clients[1]) == ["b"]
