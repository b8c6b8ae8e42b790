"""notes: what a task says while it runs, in order, from whoever holds it, and what happened to it."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pytest

from sitq.backends.base import Backend
from sitq.model import (
    NOTES_KEPT,
    Completed,
    Failed,
    Heartbeat,
    Held,
    NewNote,
    Note,
    NoteKind,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
)
from tests.support import (
    ENDS,
    LEASE,
    FakeClock,
    finish,
    new_task,
    new_tasks,
    record,
    reserve_one,
    reserved_ids,
    running,
)

type Write = Callable[[Backend, Sequence[NewNote]], Awaitable[None]]

BY_WORKERS = [NoteKind.PROGRESS, NoteKind.LOG, NoteKind.VALUE]

BYTES = {
    "nothing": b"",
    "one zero byte": b"\x00",
    "every byte": bytes(range(256)),
    "not UTF-8": b"\xff\xfe\xed\xa0\x80",
    "1 MiB": b"\x00\xff" * 524_288,
}


async def by_heartbeat(backend: Backend, notes: Sequence[NewNote]) -> None:
    assert await backend.heartbeat("w1", [], LEASE, notes=notes) == Heartbeat()


async def by_complete(backend: Backend, notes: Sequence[NewNote]) -> None:
    assert await backend.complete([], notes=notes) == Completed(0)


either_way = pytest.mark.parametrize("write", [by_heartbeat, by_complete])


def log(held: Held, data: bytes = b"text") -> NewNote:
    return NewNote(held, NoteKind.LOG, data)


async def said(backend: Backend, task_id: str, kind: NoteKind | None = None) -> list[bytes]:
    notes = await backend.notes(task_id, limit=10_000)
    return [note.data for note in notes if kind in (None, note.kind)]


# -- Written and read ------------------------------------------------------------------------------


@either_way
@pytest.mark.parametrize("kind", BY_WORKERS, ids=str)
async def test_a_note(backend: Backend, clock: FakeClock, write: Write, kind: NoteKind) -> None:
    held = await running(backend)
    before = await record(backend, held.id)
    clock.advance(1.000_001)

    await write(backend, [NewNote(held, kind, b"text")])

    [note] = await backend.notes(held.id)
    assert note == Note(note.position, kind, attempt=1, at=clock.now(), data=b"text")
    assert note.kind is kind
    assert note.position > 0
    assert note.at.utcoffset() == timedelta(0)
    assert await record(backend, held.id) == before


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES.keys())
async def test_bytes_come_back_as_they_went_in(backend: Backend, data: bytes) -> None:
    held = await running(backend)

    await backend.heartbeat("w1", [], LEASE, notes=[log(held, data)])

    assert await said(backend, held.id) == [data]


async def test_nothing_was_said(backend: Backend) -> None:
    await backend.enqueue([new_task("a")])

    assert await backend.notes("a") == []
    assert await backend.notes("unknown") == []


@either_way
async def test_they_keep_their_order(backend: Backend, write: Write) -> None:
    held = await running(backend)
    kinds = [NoteKind.LOG, NoteKind.VALUE, NoteKind.LOG, NoteKind.PROGRESS, NoteKind.VALUE]

    for call in range(3):
        await write(backend, [NewNote(held, kind, b"%d" % call) for kind in kinds])

    found = await backend.notes(held.id)
    assert [note.data for note in found if note.kind is NoteKind.LOG] == [b"0", b"0", b"1", b"1", b"2", b"2"]
    assert [note.kind for note in found[-5:]] == kinds
    positions = [note.position for note in found]
    assert positions == sorted(set(positions))


async def test_positions_grow_over_the_store(clients: list[Backend]) -> None:
    first, second = await running(clients[0]), await running(clients[0])

    newest = 0
    for client in clients:
        for held in (first, second):
            await client.heartbeat("w1", [], LEASE, notes=[log(held), log(held)])
            *_, before, last = await clients[0].notes(held.id)
            assert newest < before.position < last.position
            newest = last.position


async def test_several_tasks_in_one_call(backend: Backend) -> None:
    first, second = await running(backend), await running(backend)

    await backend.heartbeat("w1", [], LEASE, notes=[log(first, b"1"), log(second, b"2"), log(first, b"3")])

    assert await said(backend, first.id) == [b"1", b"3"]
    assert await said(backend, second.id) == [b"2"]


async def test_the_attempt_is_the_one_that_runs(backend: Backend, clock: FakeClock) -> None:
    first = await running(backend, new_task("a"))
    await backend.heartbeat("w1", [first], LEASE, notes=[log(first)])
    clock.advance(LEASE)
    second = (await reserve_one(backend, "w2")).held
    await backend.heartbeat("w2", [second], LEASE, notes=[log(second)])

    assert [note.attempt for note in await backend.notes("a")] == [1, 2]


async def test_a_renewal_and_notes_in_one_call(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)
    await backend.cancel([held.id])
    clock.advance(LEASE / 2)

    beat = await backend.heartbeat("w1", [held, Held("lost", 1)], LEASE, notes=[log(held)])

    assert beat == Heartbeat(lost=frozenset({Held("lost", 1)}), cancelled=frozenset({held}))
    assert (await record(backend, held.id)).due_at == clock.now() + LEASE
    assert await said(backend, held.id) == [b"text"]


@pytest.mark.parametrize("end", ENDS, ids=["success", "failed", "cancelled"])
async def test_the_last_words_come_with_the_end(backend: Backend, end: Callable[[Held], Outcome]) -> None:
    held = await running(backend)

    assert await backend.complete([end(held)], notes=[log(held, b"last")]) == Completed(1)

    assert await said(backend, held.id) == [b"last"]


# -- How many are kept -----------------------------------------------------------------------------


@either_way
@pytest.mark.parametrize("kind", BY_WORKERS, ids=str)
async def test_the_newest_of_a_kind_are_kept(backend: Backend, write: Write, kind: NoteKind) -> None:
    held = await running(backend)
    kept = NOTES_KEPT[kind]
    notes = [NewNote(held, kind, b"%d" % number) for number in range(kept + 5)]

    await write(backend, notes[: kept - 1])
    await write(backend, notes[kept - 1 :])

    assert await said(backend, held.id) == [note.data for note in notes[-kept:]]


@pytest.mark.parametrize("kind", BY_WORKERS, ids=str)
async def test_more_than_are_kept_in_one_call(backend: Backend, kind: NoteKind) -> None:
    held = await running(backend)
    notes = [NewNote(held, kind, b"%d" % number) for number in range(2 * NOTES_KEPT[kind] + 1)]

    await backend.heartbeat("w1", [], LEASE, notes=notes)

    assert await said(backend, held.id) == [note.data for note in notes[-NOTES_KEPT[kind] :]]


async def test_kinds_do_not_push_each_other_out(backend: Backend) -> None:
    held = await running(backend)
    first = [NewNote(held, kind, b"first") for kind in BY_WORKERS]

    await backend.heartbeat("w1", [], LEASE, notes=first)
    await backend.heartbeat("w1", [], LEASE, notes=[log(held)] * 2_000)

    assert await said(backend, held.id, NoteKind.PROGRESS) == [b"first"]
    assert await said(backend, held.id, NoteKind.VALUE) == [b"first"]


async def test_tasks_do_not_push_each_other_out(backend: Backend) -> None:
    first, second = await running(backend), await running(backend)

    await backend.heartbeat("w1", [], LEASE, notes=[NewNote(first, NoteKind.PROGRESS, b"first")])
    await backend.heartbeat("w1", [], LEASE, notes=[NewNote(second, NoteKind.PROGRESS, b"second")])

    assert await said(backend, first.id) == [b"first"]


# -- Whose notes count -----------------------------------------------------------------------------


@either_way
async def test_notes_of_who_lost_its_lease_are_dropped(
    backend: Backend, clock: FakeClock, write: Write
) -> None:
    first = await running(backend, new_task("a"))
    clock.advance(LEASE)
    second = (await reserve_one(backend, "w2")).held

    await write(backend, [log(first, b"first"), log(second, b"second"), log(first, b"third")])

    assert await said(backend, "a") == [b"second"]


@either_way
async def test_a_lease_that_ran_out_unnoticed_still_counts(
    backend: Backend, clock: FakeClock, write: Write
) -> None:
    held = await running(backend)
    clock.advance(2 * LEASE)

    await write(backend, [log(held)])

    assert await said(backend, held.id) == [b"text"]


@either_way
@pytest.mark.parametrize(
    "outcome",
    [*ENDS, Released],
    ids=["success", "failed", "cancelled", "released"],
)
async def test_notes_after_the_run_are_dropped(
    backend: Backend, write: Write, outcome: Callable[[Held], Outcome]
) -> None:
    held = await running(backend)
    await backend.complete([outcome(held)])

    await write(backend, [log(held)])

    assert await backend.notes(held.id) == []


@either_way
async def test_notes_on_what_never_ran_are_dropped(backend: Backend, write: Write) -> None:
    await backend.enqueue([new_task("pending")])
    held = await running(backend)

    await write(
        backend, [log(Held("pending", 0)), log(Held("unknown", 1)), log(Held(held.id, held.fence + 1))]
    )

    assert [await backend.notes(task_id) for task_id in ("pending", "unknown", held.id)] == [[], [], []]


async def test_dropped_notes_are_no_stale_outcomes(backend: Backend) -> None:
    held = await running(backend)

    assert await backend.complete([Succeeded(held, b"")], notes=[log(Held("unknown", 1))]) == Completed(1)

    assert (await backend.stats()).stale_outcomes == 0


async def test_a_repeated_end_leaves_no_second_note(backend: Backend) -> None:
    held = await running(backend)

    for _ in range(2):
        assert await backend.complete([Succeeded(held, b"")], notes=[log(held)]) == Completed(1)

    assert await said(backend, held.id) == [b"text"]


# -- Reading on ------------------------------------------------------------------------------------


async def test_page_by_page(backend: Backend) -> None:
    held = await running(backend)
    kinds = [NoteKind.LOG, NoteKind.VALUE]
    notes = [NewNote(held, kinds[number % 2], b"%d" % number) for number in range(25)]
    await backend.heartbeat("w1", [], LEASE, notes=notes)

    pages, after = [], 0
    while page := await backend.notes(held.id, after=after, limit=10):
        pages.append(page)
        after = page[-1].position

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [note.data for page in pages for note in page] == [note.data for note in notes]


async def test_what_is_new_since_the_last_look(backend: Backend) -> None:
    held, other = await running(backend), await running(backend)
    await backend.heartbeat("w1", [], LEASE, notes=[log(held, b"old")])
    [old] = await backend.notes(held.id)

    assert await backend.notes(held.id, after=old.position) == []
    await backend.heartbeat("w1", [], LEASE, notes=[log(other), log(held, b"new")])

    assert [note.data for note in await backend.notes(held.id, after=old.position)] == [b"new"]
    assert [note.data for note in await backend.notes(held.id, after=old.position - 1)] == [b"old", b"new"]


async def test_a_limit_takes_the_oldest(backend: Backend) -> None:
    held = await running(backend)
    await backend.heartbeat("w1", [], LEASE, notes=[log(held, b"%d" % number) for number in range(3)])

    assert [note.data for note in await backend.notes(held.id, limit=2)] == [b"0", b"1"]
    assert await backend.notes(held.id, limit=0) == []


async def test_a_page_has_a_thousand_if_nothing_else_is_asked(backend: Backend) -> None:
    held = await running(backend)
    notes = [NewNote(held, kind, b"") for kind in (NoteKind.LOG, NoteKind.VALUE) for _ in range(600)]
    await backend.heartbeat("w1", [], LEASE, notes=notes)

    assert len(await backend.notes(held.id)) == 1_000


# -- Gone with the task ----------------------------------------------------------------------------


async def test_pruned_with_the_task(backend: Backend) -> None:
    held = await running(backend, new_task("a", result_ttl=timedelta(0)))
    await backend.complete([Succeeded(held, b"")], notes=[log(held)])
    other = await running(backend)
    await backend.heartbeat("w1", [], LEASE, notes=[log(other)])

    assert await backend.prune(10) == 1

    assert await backend.notes("a") == []
    assert await said(backend, other.id) == [b"text"]
    await running(backend, new_task("a"))
    assert await backend.notes("a") == []


async def test_positions_of_what_is_gone_are_never_used_again(backend: Backend) -> None:
    newest = 0
    for _ in range(3):
        held = await running(backend, new_task("a", result_ttl=timedelta(0)))
        progress = NewNote(held, NoteKind.PROGRESS, b"")
        await backend.heartbeat("w1", [], LEASE, notes=[progress, progress, progress])
        [note] = await backend.notes("a")
        assert note.position >= newest + 3
        newest = note.position
        await finish(backend, "a")
        assert await backend.prune(10) == 1


# -- What happened to the task ---------------------------------------------------------------------


async def test_each_retry_leaves_its_error(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a")])
    for number in range(3):
        held = (await reserve_one(backend)).held
        clock.advance(1)
        await backend.complete([Retried(held, clock.now(), b"error %d" % number)])

    notes = await backend.notes("a")

    assert [(note.kind, note.attempt, note.data) for note in notes] == [
        (NoteKind.ATTEMPT, 1, b"error 0"),
        (NoteKind.ATTEMPT, 2, b"error 1"),
        (NoteKind.ATTEMPT, 3, b"error 2"),
    ]
    assert notes[-1].at == clock.now()


async def test_what_the_task_said_comes_before_what_became_of_it(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend)

    await backend.complete([Retried(held, clock.now(), b"error")], notes=[log(held, b"last")])

    assert await said(backend, held.id) == [b"last", b"error"]


async def test_the_newest_attempts_are_kept(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue([new_task("a")])
    kept = NOTES_KEPT[NoteKind.ATTEMPT]
    for number in range(kept + 3):
        held = (await reserve_one(backend)).held
        await backend.complete([Retried(held, clock.now(), b"%d" % number)])

    assert await said(backend, "a") == [b"%d" % number for number in range(3, kept + 3)]


async def test_a_retry_of_a_task_that_was_asked_to_cancel_leaves_its_error(
    backend: Backend, clock: FakeClock
) -> None:
    held = await running(backend)
    await backend.cancel([held.id])

    await backend.complete([Retried(held, clock.now(), b"error")])

    assert (await record(backend, held.id)).status is Status.CANCELLED
    assert await said(backend, held.id, NoteKind.ATTEMPT) == [b"error"]


async def test_a_repeated_or_stale_retry_leaves_none(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    retried = Retried(held, clock.now(), b"error")

    for _ in range(2):
        assert await backend.complete([retried]) == Completed(1)
    await reserve_one(backend)
    assert await backend.complete([retried]) == Completed(0, (held,))

    assert await said(backend, "a") == [b"error"]


@pytest.mark.parametrize(
    "outcome",
    [*ENDS, Released, lambda held: Released(held, None, b"reason")],
    ids=["success", "failed", "cancelled", "released", "released with a reason"],
)
async def test_no_other_outcome_leaves_one(backend: Backend, outcome: Callable[[Held], Outcome]) -> None:
    held = await running(backend)

    await backend.complete([outcome(held)])

    assert await backend.notes(held.id) == []


async def test_many_retries_in_one_call(backend: Backend, clock: FakeClock) -> None:
    await backend.enqueue(new_tasks(100))
    found = (await backend.reserve("w1", None, 100, LEASE)).tasks

    await backend.complete([Retried(task.held, clock.now(), task.payload) for task in found])

    for task in found:
        assert await said(backend, task.id) == [task.payload]
    assert len(await reserved_ids(backend)) == 100


async def test_a_failure_at_last_leaves_the_errors_before_it(backend: Backend, clock: FakeClock) -> None:
    held = await running(backend, new_task("a"))
    await backend.complete([Retried(held, clock.now(), b"first")])
    await backend.complete([Failed((await reserve_one(backend)).held, b"last")])

    assert await said(backend, "a") == [b"first"]
    assert (await record(backend, "a")).error == b"last"
