"""A disk that is full, and a file that may not grow: typed errors, nothing acknowledged is lost, and it goes on."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitq import StorageFullError, TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendConnectionError
from sitq.model import Succeeded
from tests.integration.support import run_python
from tests.support import everything, new_task, reserve_one

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tmpfs and RLIMIT_FSIZE")

SIZE = 3 * 1024 * 1024
PAYLOAD = 20_000


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    said = mount("-t", "tmpfs", "-o", f"size={SIZE}", "sitq-test", folder)
    if said is not None:
        pytest.skip(f"{said}: run this as root; the same is proved by RLIMIT_FSIZE below")
    yield folder
    assert subprocess.run(["umount", "-l", folder], capture_output=True).returncode == 0


def mount(*arguments: object) -> str | None:
    """Mount; what the system says against it."""
    try:
        said = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    except FileNotFoundError:
        return "there is no mount command"
    return None if said.returncode == 0 else said.stderr.strip() or "mounting is not permitted"


async def test_a_full_disk(mounted: Path) -> None:
    ballast = mounted / "ballast"
    ballast.write_bytes(bytes(SIZE // 3))
    backend = SQLiteBackend(mounted / "tasks.db")
    await backend.open()
    await backend.enqueue([new_task("first")])
    held = (await reserve_one(backend)).held
    acknowledged, refused = await fill(backend)
    assert len(acknowledged) > 10

    # Whatever needs a page more is refused, and says that nothing was written.
    with pytest.raises(StorageFullError, match=r"nothing was written.*Free some space"):
        await backend.complete([Succeeded(held, b"x" * PAYLOAD)])
    found = await everything(backend)  # reading needs no space
    assert {"first", *acknowledged} == {task.id for task in found}
    assert refused not in {task.id for task in found}

    ballast.unlink()
    assert (await backend.complete([Succeeded(held, b"x" * PAYLOAD)])).accepted == 1
    await backend.enqueue([new_task(refused, payload=b"x" * PAYLOAD)])
    await backend.close()

    await backend.open()
    found = await everything(backend)
    assert {"first", refused, *acknowledged} == {task.id for task in found}
    assert all(len(task.payload or b"") == PAYLOAD for task in found if task.id != "first")
    await backend.close()


async def fill(backend: SQLiteBackend) -> tuple[list[str], str]:
    """Enqueue until the disk is full. The ids that were acknowledged, and the one that was not."""
    acknowledged: list[str] = []
    for number in range(SIZE // PAYLOAD):
        name = f"task-{number}"
        try:
            await backend.enqueue([new_task(name, payload=b"x" * PAYLOAD)])
        except StorageFullError:
            return acknowledged, name
        acknowledged.append(name)
    raise AssertionError("the disk was never full")


async def test_a_worker_waits_until_there_is_space_again(mounted: Path) -> None:
    ballast = mounted / "ballast"
    async with TaskQueue(SQLiteBackend(mounted / "tasks.db")) as queue:
        handles = [await queue.enqueue(bytes, 1_000) for _ in range(20)]
        with ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4_096)) == 4_096 and shutil.disk_usage(mounted).free:
                pass
        async with Worker(queue, poll_interval=0.05):
            with pytest.raises(StorageFullError):
                await queue.enqueue(bytes, b"y" * 20 * PAYLOAD)
            ballast.unlink()
            async with asyncio.timeout(90):
                assert [await handle.result() for handle in handles] == [bytes(1_000)] * 20


MAY_NOT_GROW = """
import asyncio, json, resource, signal, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendError
from sitq.model import Succeeded
from tests.support import everything, new_task, reserve_one

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    backend = SQLiteBackend(sys.argv[1])
    await backend.open()
    await backend.enqueue([new_task("first")])
    held = (await reserve_one(backend)).held
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    acked, refused, kinds = ["first"], [], set()
    for number in range(100):
        try:
            await backend.enqueue([new_task(f"task-{number}", payload=b"x" * 20_000)])
            acked.append(f"task-{number}")
        except BackendError as error:
            refused.append(f"task-{number}")
            kinds.add(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for name in refused:
        await backend.enqueue([new_task(name, payload=b"x" * 20_000)])
    assert (await backend.complete([Succeeded(held, b"done")])).accepted == 1
    found = [task.id for task in await everything(backend)]
    await backend.close()
    print(json.dumps([len(acked), len(refused), sorted(kinds), sorted(found) == sorted(acked + refused)]))

asyncio.run(main())
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """Here SQLite tells of an I/O error and not of a full disk, so that the outcome is unknown: the same id again."""
    ended = run_python(MAY_NOT_GROW, tmp_path / "tasks.db", timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    acked, refused, kinds, whole = json.loads(ended.stdout)
    assert acked > 10
    assert refused > 10
    assert kinds == ["BackendError"]
    assert whole


# -- A disk that is only read ----------------------------------------------------------------------


async def test_a_disk_that_becomes_read_only(mounted: Path) -> None:
    """It says so, with the way out, and goes on when it can be written again."""
    path = mounted / "tasks.db"
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.enqueue([new_task("before")])
    await backend.close()
    assert mount("-o", "remount,ro", mounted) is None
    before = path.read_bytes()

    with pytest.raises(BackendConnectionError, match="cannot write in") as caught:
        await backend.open()
    assert str(mounted) in str(caught.value)
    assert path.read_bytes() == before

    assert mount("-o", "remount,rw", mounted) is None
    await backend.open()
    await backend.enqueue([new_task("after")])
    assert {task.id for task in await everything(backend)} == {"before", "after"}
    await backend.close()
