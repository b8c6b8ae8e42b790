"""The file is removed, replaced or moved under those who have it open: nobody is told that something is stored then."""

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from sitq import BackendConnectionError, TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend, lane
from sitq.events import StorageFailed
from sitq.model import Succeeded
from tests.integration.support import recorded, run_python
from tests.support import LEASE, everything, new_task, reserve_one

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there an open file cannot be removed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "tasks.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path)
    await backend.open()
    yield backend
    await backend.close()


def unlink(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def unlink_the_database_alone(path: Path) -> None:
    path.unlink()


def unlink_the_log(path: Path) -> None:
    path.with_name("tasks.db-wal").unlink()


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    asyncio.run(_make(other))
    for name in ("tasks.db-wal", "tasks.db-shm"):
        path.with_name(name).unlink()
    other.replace(path)


async def _make(path: Path) -> None:
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.close()


def move_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def remove_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


LOSSES = [
    unlink,
    unlink_the_database_alone,
    unlink_the_log,
    replace,
    move_the_folder,
    remove_the_folder,
]


@pytest.mark.parametrize("lose", LOSSES)
async def test_nothing_is_acknowledged_that_nobody_will_find(
    path: Path, backend: SQLiteBackend, lose: Callable[[Path], None]
) -> None:
    await backend.enqueue([new_task("before")])
    task = await reserve_one(backend)
    await asyncio.to_thread(lose, path)

    for call in (
        backend.enqueue([new_task("after")]),
        backend.enqueue([new_task("carefully", queue="q")], max_pending={"q": 1}),
        backend.complete([Succeeded(task.held, b"")]),
        backend.reserve("w1", None, 1, LEASE),
        backend.heartbeat("w1", [task.held], LEASE),
        backend.cancel(["before"]),
        backend.save({"a": b"b"}),
        backend.stats(),
        backend.get_result("before"),
    ):
        with pytest.raises(BackendConnectionError, match=r"was removed or replaced.*open it again"):
            await call


async def test_all_of_a_group_are_told(path: Path, backend: SQLiteBackend) -> None:
    path.unlink()

    calls = (backend.enqueue([new_task(f"{number}")]) for number in range(10))
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(answer) for answer in answers] == [BackendConnectionError] * 10
    assert len({id(answer) for answer in answers}) == 10


async def test_a_file_that_is_put_back_is_gone_on_with(path: Path, backend: SQLiteBackend) -> None:
    await backend.enqueue([new_task("before")])
    away = path.with_name("away.db")
    path.rename(away)
    with pytest.raises(BackendConnectionError):
        await backend.enqueue([new_task("meanwhile")])
    away.rename(path)

    await backend.enqueue([new_task("after")])

    assert {"before", "after"} <= {task.id for task in await everything(backend)}


async def test_a_worker_says_so_and_goes_on_when_the_file_is_back(path: Path) -> None:
    async with TaskQueue(path) as queue:
        first = await queue.enqueue(str, 1)
        worker = Worker(queue, poll_interval=0.05)
        heard = recorded(worker)
        away = path.with_name("away.db")
        async with worker:
            assert await first.result() == "1"
            path.rename(away)
            failed = await heard.wait_for(StorageFailed)
            away.rename(path)
            second = await queue.enqueue(str, 2)
            assert await second.result(timeout=30) == "2"
    assert "was removed or replaced" in failed.error


# -- The file that is there now --------------------------------------------------------------------

ACKNOWLEDGE_AND_DIE = """
import asyncio, os, sys
from sitq.backends.sqlite import SQLiteBackend
from tests.support import new_task

async def main():
    backend = SQLiteBackend(sys.argv[1])
    await backend.open()
    await backend.enqueue([new_task("of the new file")])
    os._exit(0)

asyncio.run(main())
"""


async def test_who_had_the_old_file_leaves_the_log_of_the_new_one_alone(path: Path) -> None:
    """SQLite deletes the log by its name when the last connection to a file is closed. It looks first whose that is."""
    old = SQLiteBackend(path)
    await old.open()
    await old.enqueue([new_task("of the old file")])
    unlink(path)
    assert run_python(ACKNOWLEDGE_AND_DIE, path).returncode == 0

    await old.close()

    assert await ids_in(path) == {"of the new file"}


async def test_nor_does_it_when_it_connects_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = SQLiteBackend(path)
    await old.open()
    unlink(path)
    assert run_python(ACKNOWLEDGE_AND_DIE, path).returncode == 0
    monkeypatch.setattr(lane, "commit", failing_commit)

    with pytest.raises(BackendConnectionError, match="was removed or replaced"):
        await old.enqueue([new_task("into the old one")])
    monkeypatch.undo()
    await old.close()

    assert await ids_in(path) == {"of the new file"}


async def test_a_lost_file_does_not_come_back_empty(
    path: Path, backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.unlink()
    monkeypatch.setattr(lane, "commit", failing_commit)

    with pytest.raises(BackendConnectionError, match="was removed or replaced"):
        await backend.enqueue([new_task()])

    assert not path.exists()


async def test_after_opening_again_the_file_that_is_there_counts(path: Path, backend: SQLiteBackend) -> None:
    unlink(path)
    await _make(path)
    with pytest.raises(BackendConnectionError):
        await backend.enqueue([new_task("refused")])

    await backend.close()
    await backend.open()
    await backend.enqueue([new_task("accepted")])

    assert [task.id for task in await everything(backend)] == ["accepted"]


def failing_commit(db: sqlite3.Connection) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    raise error


async def ids_in(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {name for (name,) in db.execute("SELECT id FROM sitq_tasks")}
