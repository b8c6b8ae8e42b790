"""The lock on a side file: processes take turns, and nobody waits for ever for one that is stopped."""

import os
import signal
import sys
from pathlib import Path

import pytest

from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.sqlite.files import WriteLock
from tests.support import everything, new_task
from tests.unit import processes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs flock")

HOLDER = """
import sys
from pathlib import Path
from sitq.backends.sqlite.files import WriteLock

lock = WriteLock(Path(sys.argv[1]), timeout=60)
with lock.held():
    print("held" if lock._taken else "not held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db-lock"


def is_free(path: Path) -> bool:
    lock = WriteLock(path)
    with lock.held():
        free = lock._taken
    lock.close()
    return free


def test_two_processes_take_turns(path: Path) -> None:
    first = processes.start(HOLDER, path)
    processes.says(first, "held")
    second = processes.start(HOLDER, path)  # waits for the first
    assert not is_free(path)

    processes.tell(first, "")
    processes.says(first, "released")
    processes.says(second, "held")
    assert not is_free(path)

    processes.tell(second, "")
    processes.says(second, "released")
    assert is_free(path)
    for process in (first, second):
        processes.tell(process, "")
        processes.finish(process)


def test_a_process_that_dies_gives_it_back(path: Path) -> None:
    holder = processes.start(HOLDER, path)
    processes.says(holder, "held")

    holder.kill()
    processes.finish(holder, -signal.SIGKILL)

    assert is_free(path)


FORKING_HOLDER = """
import os, sys
from pathlib import Path
from sitq.backends.sqlite.files import WriteLock

lock = WriteLock(Path(sys.argv[1]))
with lock.held():
    if os.fork() == 0:
        print("child", os.getpid(), flush=True)
        sys.stdin.readline()
        os._exit(0)
    os.kill(os.getpid(), 9)
"""


def test_a_forked_child_does_not_keep_the_lock_of_a_parent_that_died(path: Path) -> None:
    holder = processes.start(FORKING_HOLDER, path)
    assert holder.stdout is not None
    assert holder.stdout.readline().startswith("child")
    assert holder.wait(processes.LIMIT) == -signal.SIGKILL

    free = is_free(path)

    holder.communicate("\n", timeout=processes.LIMIT)  # ends the child
    assert free


async def test_a_holder_that_is_stopped_does_not_stop_the_others(tmp_path: Path, path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db", busy_timeout=0.05)
    await backend.open()
    holder = processes.start(HOLDER, path)
    processes.says(holder, "held")
    os.kill(holder.pid, signal.SIGSTOP)

    await backend.enqueue([new_task("a")])

    assert not is_free(path)
    assert [task.id for task in await everything(backend)] == ["a"]
    os.kill(holder.pid, signal.SIGCONT)
    processes.tell(holder, "\n")
    processes.finish(holder)
    await backend.close()


def test_within_itself_it_stays_held(path: Path) -> None:
    lock = WriteLock(path)
    with lock.held():
        with lock.held():
            assert not is_free(path)
        assert not is_free(path)
    assert is_free(path)
    lock.close()


def test_it_is_given_back_after_an_exception(path: Path) -> None:
    lock = WriteLock(path)
    with pytest.raises(ValueError, match="inside"), lock.held():
        raise ValueError("inside")

    assert is_free(path)
    lock.close()
    lock.close()


async def test_where_the_side_file_cannot_be_had_sqlite_decides(tmp_path: Path, path: Path) -> None:
    path.mkdir()  # cannot be opened as a file, whoever asks
    backend = SQLiteBackend(tmp_path / "tasks.db")
    await backend.open()

    await backend.enqueue([new_task("a")])

    assert [task.id for task in await everything(backend)] == ["a"]
    await backend.close()
