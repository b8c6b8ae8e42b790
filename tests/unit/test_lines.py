"""Those that a limit holds up: where they stand, who is let in, and that no room is lost on the way."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.sqlite import SQLiteBackend, limits, reserve
from sitq.model import Concurrency, NewTask, Rate, Reserved, Unique
from tests.support import (
    HOUR,
    LEASE,
    MINUTE,
    FakeClock,
    bounded,
    finish,
    new_task,
    new_tasks,
    paced,
    reserved_ids,
    running,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def backend(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "tasks.db", clock=clock)
    await backend.open()
    yield backend
    await backend.close()


def both(task_id: str, **fields: Any) -> NewTask:
    return new_task(task_id, concurrency=Concurrency("key", 1), rate=Rate("key", 1, MINUTE), **fields)


async def reserved(backend: SQLiteBackend, limit: int = 100) -> Reserved:
    return await backend.reserve("w1", None, limit, HOUR)


async def rows(backend: SQLiteBackend, sql: str) -> list[Any]:
    def read(db: sqlite3.Connection) -> list[Any]:
        return db.execute(sql).fetchall()

    return await backend._writer.run(read)


async def in_line(backend: SQLiteBackend) -> list[str]:
    sql = "SELECT id FROM sitq_tasks JOIN sitq_limits USING (seq) WHERE line IS NOT NULL ORDER BY seq"
    return [row[0] for row in await rows(backend, sql)]


# -- Where they stand ------------------------------------------------------------------------------


async def test_one_that_is_held_up_leaves_the_index_of_what_is_due(backend: SQLiteBackend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("a"), paced("b"), new_task("c")])

    assert await reserved_ids(backend) == ["b", "c"]

    assert await in_line(backend) == ["a"]
    assert await rows(backend, "SELECT id FROM sitq_tasks WHERE due_at IS NULL") == [("a",)]


async def test_a_line_is_gone_when_nobody_is_left_in_it(backend: SQLiteBackend, clock: FakeClock) -> None:
    await running(backend, bounded("now"))
    await running(backend, paced("soon"))
    await backend.enqueue([bounded("a"), paced("b")])
    assert await reserved_ids(backend) == []
    assert len(await rows(backend, "SELECT 1 FROM sitq_lines")) == 2

    await finish(backend, "now", "soon")
    clock.advance(MINUTE)
    assert await reserved_ids(backend) == ["a", "b"]
    await finish(backend, "a", "b")
    clock.advance(MINUTE)
    assert await reserved_ids(backend) == []

    assert await rows(backend, "SELECT 1 FROM sitq_lines") == []


async def test_a_task_leaves_its_line_whatever_takes_it_out(backend: SQLiteBackend, clock: FakeClock) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("cancelled"), bounded("moved", unique=Unique("key")), bounded("stays")])
    assert await reserved_ids(backend) == []
    assert await in_line(backend) == ["cancelled", "moved", "stays"]

    await backend.cancel(["cancelled"])
    await backend.enqueue([new_task(unique=Unique("key", replace=True), due_at=clock.now() + HOUR)])

    assert await in_line(backend) == ["stays"]
    await finish(backend, "now")
    assert await reserved_ids(backend) == ["stays"]


# -- Order -----------------------------------------------------------------------------------------


async def test_a_full_key_in_front_of_one_queue_brings_no_worse_task_of_another_before_its_own(
    backend: SQLiteBackend,
) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded(priority=-1, queue="a"), new_task("better", queue="a")])
    await backend.enqueue([new_task("worse", queue="b", priority=1)])

    assert await reserved_ids(backend, limit=1) == ["better"]


async def test_who_is_kept_by_his_rate_lets_the_next_of_his_key_in_before_those_behind(
    backend: SQLiteBackend, clock: FakeClock
) -> None:
    await running(backend, bounded("now"))
    await running(backend, paced("just now"))
    await backend.enqueue([both("first"), bounded("second")])
    assert await reserved_ids(backend, lease=HOUR) == []
    await backend.enqueue([bounded("third")])

    await finish(backend, "now")

    assert await reserved_ids(backend) == ["second"]
    assert await in_line(backend) == ["first", "third"]


async def test_who_is_kept_by_a_full_key_lets_the_next_of_his_rate_in(
    backend: SQLiteBackend, clock: FakeClock
) -> None:
    await running(backend, paced("just now"))
    await backend.enqueue([both("first"), paced("second")])
    assert await reserved_ids(backend, lease=HOUR) == []
    await running(backend, bounded("now"))
    clock.advance(MINUTE)

    assert await reserved_ids(backend, queues=["default"], lease=HOUR) == ["second", "just now", "now"]
    assert await in_line(backend) == ["first"]


# -- Room is passed on -----------------------------------------------------------------------------


async def test_a_place_is_not_lost_in_a_queue_that_is_paused(backend: SQLiteBackend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("paused", queue="a", priority=-1), bounded("open", queue="b")])
    assert await reserved_ids(backend) == []
    await backend.set_paused("a", True)

    await finish(backend, "now")

    assert await reserved_ids(backend) == ["open"]
    await backend.set_paused("a", False)
    assert await reserved_ids(backend) == []
    await finish(backend, "open")
    assert await reserved_ids(backend) == ["paused"]


async def test_a_place_is_not_lost_with_one_that_was_let_in_and_cancelled(backend: SQLiteBackend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("first"), bounded("second")])
    assert await reserved_ids(backend) == []
    await finish(backend, "now")
    assert await in_line(backend) == ["second"]

    await backend.cancel(["first"])

    assert await reserved_ids(backend) == ["second"]


async def test_a_start_is_not_lost_with_one_that_was_let_in_and_moved(
    backend: SQLiteBackend, clock: FakeClock
) -> None:
    await running(backend, paced("just now"))
    await finish(backend, "just now")
    await backend.enqueue([paced("first", unique=Unique("key")), paced("second")])
    assert await reserved_ids(backend) == []
    clock.advance(MINUTE)
    assert (await backend.reserve("w1", ["elsewhere"], 1, LEASE)).tasks == []  # lets the first one in
    assert await in_line(backend) == ["second"]

    await backend.enqueue([new_task(unique=Unique("key", replace=True), due_at=clock.now() + HOUR)])

    assert await reserved_ids(backend) == ["second"]


async def test_by_its_id_a_task_in_line_starts_as_soon_as_there_is_room(backend: SQLiteBackend) -> None:
    await running(backend, bounded("now"))
    await backend.enqueue([bounded("first"), bounded("second")])
    assert await reserved_ids(backend) == []
    await finish(backend, "now")

    assert await reserved_ids(backend, ids=["second"]) == ["second"]
    assert await reserved_ids(backend) == []
    assert await in_line(backend) == ["first"]


# -- Many ------------------------------------------------------------------------------------------


async def test_a_call_puts_only_so_many_in_line_and_says_to_go_on_at_once(
    backend: SQLiteBackend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "_MOST_HELD_UP", 10)
    monkeypatch.setattr(reserve, "_LOOK", 5)
    await running(backend, bounded("now"))
    await backend.enqueue([*(bounded() for _ in range(25)), new_task("behind")])

    answers = [await reserved(backend, limit=5) for _ in range(3)]

    assert [answer.next_due_at == clock.now() for answer in answers] == [True, True, False]
    assert [task.id for answer in answers for task in answer.tasks] == ["behind"]
    assert len(await in_line(backend)) == 25


async def test_a_line_of_a_high_rate_is_let_in_bit_by_bit_and_to_the_full(
    backend: SQLiteBackend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_MOST_FREED", 10)
    await backend.enqueue([paced(count=25) for _ in range(60)])
    assert len((await reserved(backend)).tasks) == 25
    clock.advance(MINUTE)

    assert (await backend.reserve("w1", ["elsewhere"], 1, LEASE)).tasks == []
    assert len(await in_line(backend)) == 25
    assert len((await reserved(backend)).tasks) == 25
    assert len(await in_line(backend)) == 10


async def test_a_rate_is_kept_for_its_period_and_for_its_tasks_and_no_longer(
    backend: SQLiteBackend, clock: FakeClock
) -> None:
    for number in range(5):
        await running(backend, paced(f"{number}", count=3))
        await finish(backend, f"{number}")
        clock.advance(MINUTE / 3)
    assert len(await rows(backend, "SELECT 1 FROM sitq_starts")) == 3

    await backend.prune(10)
    assert len(await rows(backend, "SELECT 1 FROM sitq_starts")) == 3
    clock.advance(2 * MINUTE)
    await backend.prune(10)  # its tasks are there, and one that is requeued has to know its period
    assert len(await rows(backend, "SELECT 1 FROM sitq_rates")) == 1
    clock.advance(HOUR)  # it is looked at again
    await backend.prune(10, ids=[f"{number}" for number in range(5)])

    assert await rows(backend, "SELECT 1 FROM sitq_starts") == []
    assert await rows(backend, "SELECT 1 FROM sitq_rates") == []


async def test_pruned_tasks_leave_nothing_behind(backend: SQLiteBackend, clock: FakeClock) -> None:
    await backend.enqueue([both("a"), *new_tasks(2)])
    await backend.cancel(["a"])

    assert await backend.prune(10, ids=["a"]) == 1

    assert await rows(backend, "SELECT 1 FROM sitq_limits") == []
