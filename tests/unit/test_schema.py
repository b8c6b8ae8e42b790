"""How a file comes to have the tables: at once for twenty processes, in one piece, and beside the application's own."""

import asyncio
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sitq import BackendConnectionError, BackendError, ValidationError
from sitq.backends.sqlite import SQLiteBackend, files, schema
from sitq.errors import BackendSchemaError
from tests.support import everything, new_task
from tests.unit import processes

PROCESSES = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


async def opened(path: Path) -> SQLiteBackend:
    backend = SQLiteBackend(path)
    await backend.open()
    return backend


async def enqueue_one(path: Path, name: str = "a") -> None:
    backend = await opened(path)
    await backend.enqueue([new_task(name)])
    await backend.close()


# -- Many at once ----------------------------------------------------------------------------------

OPEN_AND_ENQUEUE = """
import asyncio, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import NewTask

async def main():
    backend = SQLiteBackend(sys.argv[1], busy_timeout=60)
    print("ready", flush=True)
    sys.stdin.readline()
    await backend.open()
    await backend.enqueue([NewTask(id=sys.argv[2], name="work", payload=b"payload")])
    await backend.close()

asyncio.run(main())
"""


def test_twenty_processes_open_one_fresh_file_at_once(path: Path) -> None:
    names = [f"task-{number:02}" for number in range(PROCESSES)]
    started = [processes.start(OPEN_AND_ENQUEUE, path, name) for name in names]
    for process in started:
        processes.says(process, "ready")
    for process in started:  # the barrier
        processes.tell(process, "")
    for process in started:
        processes.finish(process)

    assert rows(path, "SELECT id FROM sitq_tasks ORDER BY id") == [(name,) for name in names]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


async def test_many_objects_of_one_process_open_one_fresh_file_at_once(path: Path) -> None:
    backends = [SQLiteBackend(path) for _ in range(PROCESSES)]
    await asyncio.gather(*(backend.open() for backend in backends))
    await asyncio.gather(
        *(backend.enqueue([new_task(f"{number:02}")]) for number, backend in enumerate(backends))
    )
    found = await everything(backends[0])
    for backend in backends:
        await backend.close()

    assert sorted(task.id for task in found) == [f"{number:02}" for number in range(PROCESSES)]


# -- In one piece ----------------------------------------------------------------------------------

DIES_IN_THE_MIGRATION = """
import asyncio, os, sys
from sitq.backends.sqlite import SQLiteBackend, schema

class Steps(str):
    def split(self, separator):
        for number, statement in enumerate(super().split(separator)):
            if number == int(sys.argv[2]):
                os._exit(9)
            yield statement

schema.MIGRATIONS[1] = Steps(schema.MIGRATIONS[1])
asyncio.run(SQLiteBackend(sys.argv[1]).open())
"""


@pytest.mark.parametrize("after", range(1, 10))
async def test_a_process_that_dies_in_the_middle_of_it_leaves_a_file_that_opens(
    path: Path, after: int
) -> None:
    assert after < schema.MIGRATIONS[1].count(";") + 1
    processes.run(DIES_IN_THE_MIGRATION, path, after, expected=9)
    assert rows(path, "SELECT name FROM sqlite_master") == []

    await enqueue_one(path)

    assert rows(path, "SELECT id FROM sitq_tasks") == [("a",)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_migration_that_fails_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(schema.MIGRATIONS, 1, schema.MIGRATIONS[1] + "; CREATE TABLE wrong")
    with pytest.raises(BackendError):
        await opened(path)
    monkeypatch.undo()
    assert rows(path, "SELECT name FROM sqlite_master") == []

    await enqueue_one(path)

    assert rows(path, "SELECT id FROM sitq_tasks") == [("a",)]


async def test_opening_what_is_up_to_date_writes_nothing(path: Path) -> None:
    await enqueue_one(path)
    before = rows(path, "SELECT sql FROM sqlite_master"), path.read_bytes()

    backend = await opened(path)
    await backend.close()

    assert (rows(path, "SELECT sql FROM sqlite_master"), path.read_bytes()) == before


# -- Versions --------------------------------------------------------------------------------------


async def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path) -> None:
    await enqueue_one(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE sitq_meta SET value = ? WHERE key = 'schema_version'", (schema.VERSION + 1,))
        db.execute("ALTER TABLE sitq_tasks ADD COLUMN of_the_future TEXT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()

    with pytest.raises(BackendSchemaError, match=r"written by a newer sitq.*Upgrade sitq"):
        await opened(path)

    assert path.read_bytes() == before
    assert isinstance(BackendSchemaError(), BackendConnectionError)


async def test_the_version_is_kept_in_a_table_and_the_pragma_is_the_applications(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 4711")
        db.execute("PRAGMA application_id = 815")

    await enqueue_one(path)

    assert rows(path, "PRAGMA user_version") == [(4711,)]
    assert rows(path, "PRAGMA application_id") == [(815,)]
    assert rows(path, "SELECT value FROM sitq_meta WHERE key = 'schema_version'") == [(schema.VERSION,)]


async def test_the_tables_of_the_application_are_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, title TEXT)")
        db.execute("CREATE INDEX titles ON tasks (title)")
        db.execute("CREATE TABLE meta (key TEXT)")
        db.execute("INSERT INTO tasks VALUES (1, 'milk'), (2, 'bread')")

    await enqueue_one(path)

    assert rows(path, "SELECT * FROM tasks") == [(1, "milk"), (2, "bread")]
    names = {name for (name,) in rows(path, "SELECT name FROM sqlite_master")}
    assert {"tasks", "titles", "meta"} <= names
    ours = names - {"tasks", "titles", "meta", "sqlite_sequence"}
    assert all(name.startswith(("sitq_", "sqlite_autoindex_sitq_")) for name in ours)


# -- What is not a database ------------------------------------------------------------------------


def truncated(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE things (text TEXT)")
        db.executemany("INSERT INTO things VALUES (?)", [("x" * 500,)] * 100)
        db.commit()
    content = path.read_bytes()[: 4096 * 3 + 100]
    path.unlink()
    return content


@pytest.mark.parametrize("kind", ["garbage", "picture", "text", "header alone", "truncated"])
async def test_something_else_is_refused_and_left_as_it_is(path: Path, kind: str) -> None:
    contents = {
        "garbage": os.urandom(10_000),
        "picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(5000),
        "text": b"dear diary\n" * 500,
        "header alone": b"SQLite format 3\0" + b"\xff" * 4080,
        "truncated": truncated(path),
    }
    path.write_bytes(contents[kind])

    with pytest.raises(BackendConnectionError, match=r"damaged or is not a SQLite database.*sitq doctor"):
        await opened(path)

    assert path.read_bytes() == contents[kind]


async def test_a_truncated_file_of_ours_is_refused_and_left_as_it_is(path: Path) -> None:
    backend = await opened(path)
    await backend.enqueue([new_task(payload=b"x" * 100_000)])
    await backend.close()
    content = path.read_bytes()[:20_000]
    path.write_bytes(content)

    with pytest.raises(BackendConnectionError, match="damaged"):
        await opened(path)

    assert path.read_bytes() == content


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()

    await enqueue_one(path)

    assert rows(path, "SELECT id FROM sitq_tasks") == [("a",)]


# -- Where it lies ---------------------------------------------------------------------------------


async def test_a_relative_path_keeps_its_meaning_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    backend = SQLiteBackend("tasks.db")
    monkeypatch.chdir(tmp_path / "second")

    await backend.open()
    await backend.enqueue([new_task("a")])
    await backend.close()

    assert list((tmp_path / "second").iterdir()) == []
    assert rows(tmp_path / "first" / "tasks.db", "SELECT id FROM sitq_tasks") == [("a",)]


async def test_two_names_of_one_file_share_its_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "real" / "tasks.db")  # leads nowhere yet

    await enqueue_one(link)

    assert [each.name for each in tmp_path.iterdir() if each != tmp_path / "real"] == ["link.db"]
    assert rows(tmp_path / "real" / "tasks.db", "SELECT id FROM sitq_tasks") == [("a",)]
    assert (tmp_path / "real" / "tasks.db-lock").exists()


async def test_the_file_system_is_that_of_the_file_and_not_of_a_link_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "remote").mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "remote" / "tasks.db")
    monkeypatch.setattr(
        files, "file_system", lambda folder: "nfs4" if folder == tmp_path / "remote" else "ext4"
    )

    with pytest.raises(BackendConnectionError, match=r"network file system \(nfs4\)"):
        await opened(link)


def test_a_path_that_no_system_takes_is_refused_at_once() -> None:
    with pytest.raises(ValidationError, match="path is"):
        SQLiteBackend("a\0b")


@pytest.mark.parametrize(
    ("point", "written"),
    [
        ("/mnt/a b", r"/mnt/a\040b"),
        ("/mnt/a\tb", r"/mnt/a\011b"),
        ("/mnt/a\nb", r"/mnt/a\012b"),
        ("/mnt/a\\b", r"/mnt/a\134b"),
        ("/mnt/a\u2028b\x85c", "/mnt/a\u2028b\x85c"),
    ],
    ids=["space", "tab", "newline", "backslash", "lines of unicode"],
)
def test_mount_points_are_read_as_they_are_written(tmp_path: Path, point: str, written: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"34 22 0:34 / {written} rw,relatime shared:2 master:1 - cifs //server/share rw\n",
        encoding="utf-8",
        newline="",
    )

    assert files.file_system(Path(point) / "deep", mounts) == "cifs"
    assert files.file_system(Path("/mnt/a"), mounts) == "ext4"


def test_the_last_mount_over_a_folder_counts(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 a rw\n2 1 0:1 / /srv rw - nfs a rw\n3 1 0:2 / /srv rw - tmpfs a rw\n"
    )

    assert files.file_system(Path("/srv"), mounts) == "tmpfs"
    assert files.file_system(Path("/srv"), tmp_path / "missing") is None


# -- An old SQLite ---------------------------------------------------------------------------------


def test_the_wal_reset_bug_is_warned_of_once_in_a_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.51.2")
    files.warn_of_old_sqlite.cache_clear()
    with caplog.at_level(logging.WARNING, "sitq.sqlite"):
        files.warn_of_old_sqlite()
        files.warn_of_old_sqlite()

    [message] = caplog.messages
    assert "3.51.2" in message
    assert "WAL-reset bug" in message


def test_a_fixed_sqlite_is_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    files.warn_of_old_sqlite.cache_clear()
    with caplog.at_level(logging.WARNING, "sitq.sqlite"):
        files.warn_of_old_sqlite()
    files.warn_of_old_sqlite.cache_clear()

    assert caplog.messages == []
