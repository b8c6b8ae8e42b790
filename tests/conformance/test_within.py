"""within: what is written in a transaction of the application is there if and only if the application commits it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from sitq.backends.base import Backend, Within, finished, no_notes
from sitq.errors import BackendUnsupportedError, QueueFullError, ValidationError
from sitq.model import (
    Crashed,
    Enqueued,
    Failed,
    Held,
    NewNote,
    NoteKind,
    QueueTopic,
    Released,
    Status,
    Succeeded,
    TaskTopic,
    Unique,
)
from tests.application import KINDS, Application, Kind, application
from tests.conformance.conftest import only
from tests.support import (
    HOUR,
    PATIENCE,
    FakeClock,
    bounded,
    everything,
    found_ids,
    new_task,
    new_tasks,
    paced,
    record,
    reserved_ids,
    running,
)

shared = only(shared=True)


@pytest.fixture(params=KINDS)
async def app(request: pytest.FixtureRequest, backend: Backend, tmp_path: Path) -> AsyncIterator[Application]:
    async with application(tmp_path / "tasks.db", cast("Kind", request.param)) as app:
        yield app


@pytest.fixture
def inside(backend: Backend, app: Application) -> Within:
    return backend.within(app.connection)


# -- Storages that share no transaction ------------------------------------------------------------


@only(shared=False)
async def test_a_storage_without_a_file_refuses_and_says_what_can(backend: Backend) -> None:
    db = sqlite3.connect(":memory:")
    with pytest.raises((BackendUnsupportedError, ValidationError), match="file"):
        backend.within(db)
    db.close()


# -- enqueue ---------------------------------------------------------------------------------------


@shared
async def test_there_with_the_commit(backend: Backend, app: Application, inside: Within) -> None:
    await app.order(1)
    assert await inside.enqueue([new_task("a"), new_task("b")]) == [Enqueued("a", True), Enqueued("b", True)]
    assert await everything(backend) == []

    await app.commit()

    assert await reserved_ids(backend) == ["a", "b"]
    assert await app.orders() == [1]


@shared
async def test_gone_with_a_rollback(backend: Backend, app: Application, inside: Within) -> None:
    await backend.enqueue([new_task("before")])
    before = await everything(backend)
    await app.order(1)
    await inside.enqueue([new_task("a", unique=Unique("key")), bounded("b"), paced("c"), *new_tasks(5)])

    await app.rollback()

    assert await everything(backend) == before
    assert await app.orders() == []
    assert await backend.enqueue([new_task("d", unique=Unique("key"))]) == [Enqueued("d", True)]


@shared
async def test_a_savepoint_of_the_application_takes_it_along(
    backend: Backend, app: Application, inside: Within
) -> None:
    await app.execute("BEGIN")
    await inside.enqueue([new_task("kept")])
    await app.execute("SAVEPOINT mine")
    await app.order(1)
    await inside.enqueue(new_tasks(3))
    await app.execute("ROLLBACK TO mine")
    await inside.enqueue([new_task("kept too")])
    await app.commit()

    assert await found_ids(backend) == ["kept too", "kept"]
    assert await app.orders() == []


@shared
async def test_the_answers_are_those_of_enqueue(backend: Backend, app: Application, inside: Within) -> None:
    await backend.enqueue([new_task("there", unique=Unique("key"))])

    batch = [new_task("there"), new_task("second", unique=Unique("key")), new_task("new"), new_task("new")]
    answers = await inside.enqueue(batch)
    again = await inside.enqueue([new_task("new")])
    await app.commit()

    assert answers == [
        Enqueued("there", False), Enqueued("there", False), Enqueued("new", True), Enqueued("new", False)
    ]  # fmt: skip
    assert again == [Enqueued("new", False)]
    assert await inside.enqueue([]) == []
    await app.rollback()


@shared
async def test_what_is_stored_is_what_enqueue_stores(
    backend: Backend, app: Application, inside: Within, clock: FakeClock
) -> None:
    fields = {
        "queue": "mail",
        "priority": 3,
        "due_at": clock.now() + HOUR,
        "metadata": {"a": ["\N{SNOWMAN}"]},
    }
    task = bounded("a", unique=Unique("key"), **fields)
    await inside.enqueue([task])
    await app.commit()
    await backend.enqueue([task._replace(id="b", unique=Unique("other"))])

    a, b = await record(backend, "a"), await record(backend, "b")
    for name in ("name", "queue", "status", "priority", "due_at", "enqueued_at", "metadata", "payload"):
        assert getattr(a, name) == getattr(b, name)
    assert (a.unique, a.concurrency) == (task.unique, task.concurrency)


@shared
async def test_a_holder_takes_over_with_the_commit(
    backend: Backend, app: Application, inside: Within, clock: FakeClock
) -> None:
    unique = Unique("key", replace=True)
    await backend.enqueue([new_task("a", payload=b"old", unique=unique)])
    second = new_task("b", payload=b"new", unique=unique, due_at=clock.now() + HOUR)

    assert await inside.enqueue([second]) == [Enqueued("a", False)]
    assert (await record(backend, "a")).payload == b"old"
    await app.rollback()
    assert (await record(backend, "a")).payload == b"old"
    await inside.enqueue([second])
    await app.commit()

    assert (await record(backend, "a")).payload == b"new"
    assert await reserved_ids(backend) == []


@shared
async def test_a_full_queue_refuses_and_the_transaction_goes_on(
    backend: Backend, app: Application, inside: Within
) -> None:
    limit = {"default": 2}
    await app.order(1)
    await inside.enqueue([new_task("a")], max_pending=limit)
    with pytest.raises(QueueFullError):
        await inside.enqueue(new_tasks(2), max_pending=limit)
    await inside.enqueue([new_task("b")], max_pending=limit)
    await app.order(2)
    await app.commit()

    assert await found_ids(backend) == ["b", "a"]
    assert await app.orders() == [1, 2]
    with pytest.raises(QueueFullError):
        await backend.enqueue(new_tasks(1), max_pending=limit)


@shared
async def test_what_was_rolled_back_leaves_room(backend: Backend, app: Application, inside: Within) -> None:
    limit = {"default": 2}
    await inside.enqueue(new_tasks(2), max_pending=limit)
    await app.rollback()

    assert len(await backend.enqueue(new_tasks(2), max_pending=limit)) == 2
    with pytest.raises(QueueFullError):
        await backend.enqueue(new_tasks(1), max_pending=limit)


@shared
async def test_a_call_that_fails_leaves_nothing_of_itself(
    backend: Backend, app: Application, inside: Within
) -> None:
    await app.order(1)
    await inside.enqueue([new_task("a")])
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever a task that cannot be stored raises
        await inside.enqueue([new_task("b"), new_task("c", name=cast("str", object()))])
    await app.order(2)
    await app.commit()

    assert await found_ids(backend) == ["a"]
    assert await app.orders() == [1, 2]


@shared
async def test_the_queues_are_rung_after_the_commit_and_not_before(
    backend: Backend, app: Application, inside: Within
) -> None:
    async with backend.listen([QueueTopic("mail")]) as mail, backend.listen([QueueTopic("other")]) as other:
        await inside.enqueue([new_task("a", queue="mail")])
        assert not await mail.wait(0.2)

        await app.commit()

        assert await mail.wait(PATIENCE)
        assert not other._rung


# -- complete --------------------------------------------------------------------------------------


@shared
async def test_a_success_stands_with_the_commit(backend: Backend, app: Application, inside: Within) -> None:
    held = await running(backend)
    await app.order(1)
    assert await inside.complete(Succeeded(held, b"value"))
    assert (await record(backend, held.id)).status is Status.RUNNING

    await app.commit()

    found = await record(backend, held.id)
    assert (found.status, found.result, found.due_at) == (Status.SUCCESS, b"value", None)


@shared
async def test_a_success_goes_with_a_rollback(backend: Backend, app: Application, inside: Within) -> None:
    held = await running(backend)
    await inside.complete(Succeeded(held, b"value"))
    await app.rollback()

    assert (await record(backend, held.id)).status is Status.RUNNING
    assert await backend.mark_failure(held, b"error")


@shared
async def test_the_same_outcome_afterwards_is_a_repetition(
    backend: Backend, app: Application, inside: Within
) -> None:
    held = await running(backend)
    await inside.complete(Succeeded(held, b"value"))
    await app.commit()

    assert (await backend.complete([Succeeded(held, b"other")])).accepted == 1
    assert (await backend.complete([Failed(held, b"error")])).stale == (held,)
    found = await record(backend, held.id)
    assert (found.status, found.result) == (Status.SUCCESS, b"value")


@shared
async def test_it_is_accepted_once(backend: Backend, app: Application, inside: Within) -> None:
    held = await running(backend)
    assert await inside.complete(Succeeded(held, b"value"))
    assert not await inside.complete(Succeeded(held, b"value"))
    await app.commit()

    assert not await inside.complete(Succeeded(held, b"value"))
    await app.rollback()
    assert (await backend.stats()).stale_outcomes == 0


@shared
async def test_of_a_run_that_crashed_nothing_is_written_or_counted(
    backend: Backend, app: Application, inside: Within
) -> None:
    held = await running(backend)
    await backend.complete([Crashed(held, b"its process died")])
    asked: list[Held] = []

    def notes() -> list[NewNote]:
        asked.append(held)
        return []

    assert not await inside.complete(Succeeded(held, b"value"), notes=notes)
    await app.commit()

    assert asked == []
    assert (await backend.stats()).stale_outcomes == 0


@shared
async def test_a_run_that_does_not_count_any_more_changes_nothing(
    backend: Backend, app: Application, inside: Within, clock: FakeClock
) -> None:
    lost, released, ended = [await running(backend, new_task(name)) for name in ("lost", "released", "ended")]
    await backend.complete([Released(released), Failed(ended, b"error")])
    clock.advance(HOUR)
    [again] = [
        task for task in (await backend.reserve("w2", None, 9, HOUR)).tasks if task.id == lost.id
    ]  # fmt: skip
    before = await everything(backend)

    for held in (lost, released, ended, Held("unknown", 1), Held(lost.id, again.fence + 1)):
        assert not await inside.complete(Succeeded(held, b"value"), notes=no_notes)
    await app.commit()

    assert await everything(backend) == before
    assert await inside.complete(Succeeded(again.held, b"value"))
    await app.commit()


@shared
async def test_notes_go_along(backend: Backend, app: Application, inside: Within) -> None:
    held = await running(backend)
    await inside.complete(Succeeded(held, b""), notes=lambda: [NewNote(held, NoteKind.LOG, b"line")])
    assert await backend.notes(held.id) == []
    await app.commit()

    assert [note.data for note in await backend.notes(held.id)] == [b"line"]


@shared
async def test_the_end_lets_others_in_and_rings(backend: Backend, app: Application, inside: Within) -> None:
    held = await running(backend, bounded("a", queue="mail"))
    await backend.enqueue([bounded("b", queue="mail")])
    assert await reserved_ids(backend) == []
    async with backend.listen([TaskTopic("a")]) as ended, backend.listen([QueueTopic("mail")]) as queue:
        await inside.complete(Succeeded(held, b""))
        assert not await ended.wait(0.2)
        assert not queue._rung
        await app.commit()
        assert await ended.wait(PATIENCE)
        assert await queue.wait(PATIENCE)

    assert await reserved_ids(backend) == ["b"]


@shared
async def test_it_enqueues_and_completes_in_one_transaction(
    backend: Backend, app: Application, inside: Within
) -> None:
    held = await running(backend)
    await inside.complete(Succeeded(held, b""))
    await inside.enqueue([new_task("next")])
    await app.order(1)
    await app.rollback()
    assert await found_ids(backend) == [held.id]

    await inside.complete(Succeeded(held, b""))
    await inside.enqueue([new_task("next")])
    await app.order(2)
    await app.commit()

    assert await reserved_ids(backend) == ["next"]
    assert await app.orders() == [2]


# -- Without a loop --------------------------------------------------------------------------------


@shared
def test_a_connection_that_blocks_needs_no_loop(backend: Backend, tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "tasks.db")
    inside = backend.within(db)

    assert inside.blocking
    assert finished(inside.enqueue([new_task("a")])) == [Enqueued("a", True)]
    db.commit()
    assert db.execute("SELECT id FROM sitq_tasks").fetchall() == [("a",)]
    db.close()


async def test_only_what_does_not_wait_is_finished_at_once() -> None:
    with pytest.raises(RuntimeError, match="waits"):
        finished(asyncio.sleep(0))
