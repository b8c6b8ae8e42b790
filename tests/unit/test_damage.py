"""Rows that sitq did not write: found by tests/lab/fuzz."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.sqlite.schema import moment
from sitq.errors import BackendConnectionError, BackendError, ValidationError
from sitq.model import FINISHED, Concurrency, Edge, Rate, Status, Succeeded, TaskQuery, Unique
from tests.support import HOUR, LEASE, FakeClock, new_task, reserved_ids


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path, durability="fast", clock=FakeClock())
    await backend.open()
    yield backend
    await backend.close()


def write(path: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(sql, values).rowcount > 0


def loosen(path: Path) -> None:
    """Let the table of tasks take everything, as one does that another program has copied. New connections see it."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, ' STRICT', '') WHERE name = 'sitq_tasks'")


@pytest.mark.parametrize(
    "change",
    [
        "metadata = '{'",
        "metadata = ''",
        "metadata = CAST(x'ff' AS TEXT)",
        "name = CAST(x'ff' AS TEXT)",
        "queue = CAST(x'ff' AS TEXT)",
    ],
)
async def test_a_task_that_cannot_be_read_does_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path, change: str
) -> None:
    await backend.enqueue([new_task("bad", metadata={}), new_task("good")])
    write(path, f"UPDATE sitq_tasks SET {change} WHERE id = 'bad'")
    assert await reserved_ids(backend) == ["good"]
    assert await reserved_ids(backend) == []
    assert (await backend.cancel(["good"]))["good"] is Status.RUNNING
    assert await backend.prune(1, ids=["bad"]) == 1


@pytest.mark.parametrize("column", ["attempt", "crashes", "max_crashes", "metadata", "cancel_requested"])
async def test_bytes_where_no_column_takes_them_do_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path, column: str
) -> None:
    await backend.enqueue([new_task("bad", max_crashes=5), new_task("good")])
    await backend.close()
    loosen(path)
    write(path, f"UPDATE sitq_tasks SET {column} = x'' WHERE id = 'bad'")
    await backend.open()
    assert "good" in await reserved_ids(backend)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("instant", ["-1e308", "-9e999", "-9223372036854775808", "'-1e308'"])
async def test_a_needed_task_that_expired_before_all_times_does_not_hold_up_pruning(
    backend: SQLiteBackend, path: Path, instant: str
) -> None:
    parent, child = new_task("bad", result_ttl=timedelta(0)), new_task("child", edges=(Edge("bad"),))
    await backend.enqueue([parent, child])
    [task] = (await backend.reserve("w1", None, 10, LEASE)).tasks
    await backend.complete([Succeeded(task.held, b"")])
    await backend.close()
    loosen(path)
    write(path, f"UPDATE sitq_tasks SET expires_at = {instant} WHERE id = 'bad'")
    await backend.open()
    assert await backend.prune(10) == 0
    assert await reserved_ids(backend) == ["child"]


async def test_what_depends_on_a_task_that_cannot_be_read_goes_the_way_of_a_failed_parent(
    backend: SQLiteBackend, path: Path
) -> None:
    parents = [Edge("bad")]
    children = [new_task("child", edges=parents), new_task("heir", edges=[Edge("bad", FINISHED)])]
    await backend.enqueue([new_task("bad", metadata={}), *children, new_task("last", edges=[Edge("child")])])
    write(path, "UPDATE sitq_tasks SET metadata = '{' WHERE id = 'bad'")
    assert await reserved_ids(backend) == ["heir"]
    found = {one.id: one for one in await backend.find(TaskQuery(ids=["child", "last"]))}
    assert {one.status for one in found.values()} == {Status.CANCELLED}
    assert {one.cancelled_by for one in found.values()} == {"bad"}


async def test_a_child_that_cannot_be_read_either_waits_and_does_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path
) -> None:
    child = new_task("child", edges=[Edge("bad")])
    await backend.enqueue([new_task("bad", metadata={}), child, new_task("good")])
    write(path, "UPDATE sitq_tasks SET metadata = '{' WHERE id = 'bad'")
    write(path, "UPDATE sitq_tasks SET queue = CAST(x'ff' AS TEXT) WHERE id = 'child'")
    assert await reserved_ids(backend) == ["good"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(
            "SELECT id, status FROM sitq_tasks WHERE due_at IS NULL ORDER BY seq"
        ).fetchall() == [
            ("bad", "failed"),
            ("child", "waiting"),
        ]


async def test_a_limited_task_in_no_known_state_is_not_handed_out_for_ever(
    backend: SQLiteBackend, path: Path
) -> None:
    await backend.enqueue([new_task("bad", concurrency=Concurrency("c", 1)), new_task("good")])
    write(path, "UPDATE sitq_tasks SET status = 'odd' WHERE id = 'bad'")
    assert await reserved_ids(backend) == ["good"]
    assert await reserved_ids(backend) == []


async def test_the_queue_of_a_task_that_is_not_due_yet_does_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path
) -> None:
    later = FakeClock().now() + HOUR
    await backend.enqueue([new_task("bad", due_at=later), new_task("good"), new_task("next", due_at=later)])
    write(path, "UPDATE sitq_tasks SET queue = CAST(x'ff' AS TEXT) WHERE id = 'bad'")
    assert await reserved_ids(backend) == ["good"]


async def test_a_limited_task_without_its_limits_does_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path
) -> None:
    await backend.enqueue([new_task("bad", concurrency=Concurrency("c", 1)), new_task("good")])
    write(path, "DELETE FROM sitq_limits")
    assert await reserved_ids(backend) == ["good"]


@pytest.mark.parametrize("key", ["concurrency_key", "rate_key"])
async def test_a_key_of_a_limit_that_cannot_be_read_does_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path, key: str
) -> None:
    limits = {"concurrency": Concurrency("a", 1), "rate": Rate("a", 1, HOUR)}
    await backend.enqueue([new_task("bad", **limits), new_task("good")])
    write(path, f"UPDATE sitq_limits SET {key} = CAST(x'ff' AS TEXT)")
    assert await reserved_ids(backend) == ["good"]
    assert await reserved_ids(backend) == []


async def test_a_damaged_task_that_stands_in_a_line_does_not_hold_up_those_behind_it(
    backend: SQLiteBackend, path: Path
) -> None:
    one = Concurrency("c", 1)
    await backend.enqueue([new_task(name, concurrency=one) for name in ("first", "bad", "good")])
    held = (await backend.reserve("w1", None, 10, LEASE)).tasks
    assert [task.id for task in held] == ["first"]
    write(path, "UPDATE sitq_tasks SET name = CAST(x'ff' AS TEXT) WHERE id = 'bad'")
    await backend.complete([Succeeded(held[0].held, b"")])
    assert await reserved_ids(backend) == ["good"]


async def test_a_task_whose_key_another_one_has_does_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path
) -> None:
    await backend.enqueue([new_task("bad", unique=Unique("key"))])
    write(path, "UPDATE sitq_tasks SET status = 'odd' WHERE id = 'bad'")
    await backend.enqueue([new_task("good", unique=Unique("key"))])
    assert await reserved_ids(backend) == ["good"]


async def test_a_task_that_is_due_after_all_times_does_not_hold_up_the_others(
    backend: SQLiteBackend, path: Path
) -> None:
    await backend.enqueue([new_task("bad", due_at=datetime(2030, 1, 1, tzinfo=UTC)), new_task("good")])
    write(path, "UPDATE sitq_tasks SET due_at = ? WHERE id = 'bad'", 2**62)
    await backend.reserve("w1", None, 1, HOUR)
    assert (await backend.reserve("w1", None, 10, LEASE)).tasks == []


@pytest.mark.parametrize(
    "change", ["status = 'odd'", "metadata = '['", "unique_until = 'odd', unique_key = 'a'"]
)
async def test_readers_get_a_typed_error(backend: SQLiteBackend, path: Path, change: str) -> None:
    await backend.enqueue([new_task("bad")])
    write(path, f"UPDATE sitq_tasks SET {change}")
    with pytest.raises(BackendError, match="not as sitq writes it"):
        await backend.find(TaskQuery())


async def test_a_parent_in_no_known_state_is_a_typed_error(backend: SQLiteBackend, path: Path) -> None:
    await backend.enqueue([new_task("bad")])
    write(path, "UPDATE sitq_tasks SET status = 'odd'")
    with pytest.raises(BackendError, match="not as sitq writes it"):
        await backend.enqueue([new_task(edges=(Edge("bad"),))])


@pytest.mark.parametrize("change", ["value = -5", "value = 0"])
async def test_a_file_without_a_version_is_refused(backend: SQLiteBackend, path: Path, change: str) -> None:
    write(path, f"UPDATE sitq_meta SET {change} WHERE key = 'schema_version'")
    with pytest.raises(BackendConnectionError, match="which no sitq wrote"):
        await SQLiteBackend(path).open()


def test_numbers_beyond_all_times_are_the_nearest_one() -> None:
    assert moment(2**63 - 1) == datetime.max.replace(tzinfo=UTC)
    assert moment(-(2**63)) == datetime.min.replace(tzinfo=UTC)
    assert moment(1) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=1)


@pytest.mark.parametrize("path", ["/", "a\0b", "../" * 50])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="give the path of a file"):
        SQLiteBackend(path)


async def test_what_no_task_is_to_blame_for_is_told(backend: SQLiteBackend, path: Path) -> None:
    await backend.enqueue([new_task("good")])
    write(path, "INSERT INTO sitq_paused (queue) VALUES (CAST(x'ff' AS TEXT))")
    with pytest.raises(BackendError, match="not as sitq writes it"):
        await reserved_ids(backend)
