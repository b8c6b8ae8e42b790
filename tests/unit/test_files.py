"""The database as a file: who may read it, where it may lie, and what opening must not break."""

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sitq import BackendConnectionError, TaskQueue
from sitq.backends.sqlite import SQLiteBackend, files
from tests.integration.support import run_python, start_python
from tests.support import everything, new_task

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


async def test_the_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        async with TaskQueue(tmp_path / "tasks.db") as queue:
            await queue.enqueue(print)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(former)
    assert modes.keys() == {"tasks.db", "tasks.db-wal", "tasks.db-shm", "tasks.db-lock"}
    assert set(modes.values()) == {0o600}


async def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch(0o640)
    path.chmod(0o640)
    async with TaskQueue(path) as queue:
        await queue.enqueue(print)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_a_missing_folder_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(BackendConnectionError, match="nowhere does not exist"):
        await TaskQueue(tmp_path / "nowhere" / "tasks.db").open()
    assert not (tmp_path / "nowhere").exists()


async def test_a_folder_is_not_a_database(tmp_path: Path) -> None:
    with pytest.raises(BackendConnectionError, match="it is a folder"):
        await TaskQueue(tmp_path).open()


# Root may write everywhere, so this is somebody else.
AS_NOBODY = """
import asyncio, os, sys
import sitq.backends.sqlite
from sitq import BackendConnectionError, TaskQueue
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)

async def main():
    try:
        async with TaskQueue(sys.argv[1]) as queue:
            await queue.enqueue(print)
    except BackendConnectionError as error:
        print(error)
    else:
        print("opened")

asyncio.run(main())
"""


def open_as_nobody(path: Path) -> str:
    ended = run_python(AS_NOBODY, path)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """Reachable for every user. pytest's folders are not, and each pytest that starts on the machine closes them."""
    with TemporaryDirectory(prefix="sitq-") as made:
        yield Path(made)


def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    folder.chmod(0o555)
    said = open_as_nobody(folder / "tasks.db")
    folder.chmod(0o755)
    assert f"cannot write in {folder} as uid" in said
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(folder: Path) -> None:
    folder.chmod(0o777)
    path = folder / "tasks.db"
    path.touch()
    path.chmod(0o444)
    said = open_as_nobody(path)
    assert f"cannot open {path} for writing as uid" in said
    assert path.read_bytes() == b""


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 22 0:32 / /srv rw shared:2 - nfs4 server:/export rw
37 22 0:33 / /srv/local rw - ext4 /dev/sdb1 rw
38 22 0:34 / /mnt/with\\040space rw - cifs //server/share rw
39 22 0:35 / /mnt/sshfs rw - fuse.sshfs user@host: rw
"""


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path, **_: Any) -> str:
        assert path == Path("/proc/self/mountinfo")
        return MOUNTS

    monkeypatch.setattr(files.Path, "read_text", read_text)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/deep/down", "nfs4"),
        ("/srv/local/x", "ext4"),
        ("/srvx", "ext4"),
        ("/mnt/with space", "cifs"),
        ("/mnt/sshfs/x", "fuse.sshfs"),
    ],
)
@pytest.mark.usefixtures("mounts")
def test_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    assert files.file_system(Path(folder)) == kind


def test_without_mountinfo_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path, **_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(files.Path, "read_text", read_text)
    assert files.file_system(Path("/")) is None


async def test_a_network_file_system_is_refused_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "file_system", lambda folder: "nfs4")
    path = tmp_path / "tasks.db"
    with pytest.raises(BackendConnectionError, match=r"network file system \(nfs4\)"):
        await TaskQueue(path).open()
    assert list(tmp_path.iterdir()) == []
    async with TaskQueue(SQLiteBackend(path, allow_network_fs=True)) as queue:
        await queue.enqueue(print)


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(files.sqlite3, "sqlite_version", "3.36.0")
    with pytest.raises(BackendConnectionError, match=r"SQLite 3\.36\.0; sitq needs 3\.37\.0"):
        await TaskQueue(tmp_path / "tasks.db").open()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look" * 100, b"SQLite format 3\0" + b"\xff" * 4080]
)
async def test_something_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tasks.db"
    path.write_bytes(content)
    with pytest.raises(BackendConnectionError, match="not a SQLite database"):
        await TaskQueue(path).open()
    assert path.read_bytes() == content


# -- Locks that a second look at the file must not drop --------------------------------------------

OPEN_AND_CLOSE = """
import asyncio, sys
from sitq import TaskQueue

async def main():
    async with TaskQueue(sys.argv[1]) as queue:
        print((await queue.stats()).queues)

asyncio.run(main())
"""


async def test_opening_a_file_twice_in_one_process_does_not_drop_its_locks(tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when it closes any descriptor of it. Then another process takes
    itself for the last user, deletes the log, and what is committed later is lost (sqlite.org/howtocorrupt.html, 2.2).
    """
    path = tmp_path / "tasks.db"
    first = SQLiteBackend(path)
    await first.open()
    await first.enqueue([new_task("before")])
    second = SQLiteBackend(path)
    await second.open()
    await second.close()
    assert run_python(OPEN_AND_CLOSE, path).returncode == 0
    assert path.with_name("tasks.db-wal").exists(), "the log was deleted under an open connection"
    await first.enqueue([new_task("after")])
    third = SQLiteBackend(path)
    await third.open()
    assert {task.id for task in await everything(third)} == {"before", "after"}
    await third.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM sitq_tasks").fetchone() == (2,)
    await first.close()


def test_the_log_is_gone_after_a_clean_close(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with start_python(OPEN_AND_CLOSE, path) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tasks.db", "tasks.db-lock"]


async def test_a_file_gives_its_space_back(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    backend = SQLiteBackend(path, durability="fast")
    await backend.open()
    for _ in range(20):
        await backend.enqueue([new_task(payload=os.urandom(20_000)) for _ in range(100)])
    tasks = await everything(backend)
    await backend.cancel([task.id for task in tasks])
    full = pages(path)
    while await backend.prune(100, ids=[task.id for task in tasks]):
        pass
    for _ in range(10):  # a part at a time
        await backend.prune(1)
    await backend.close()
    assert pages(path) < full / 5
    assert path.stat().st_size < full * 4096 / 5


def pages(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA page_count").fetchone()[0])
