"""The interpreter ends, whoever forgot to close: a thread of ours must not keep it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit import processes

TASK_QUEUE = """
import asyncio, sys
from sitq import TaskQueue

async def main():
    queue = TaskQueue(sys.argv[1])
    await queue.enqueue(print, "hello")
    return queue
"""

BACKEND = """
import asyncio, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import NewTask, QueueTopic

def task(name):
    return NewTask(id=name, name="work", payload=b"payload")

backend = SQLiteBackend(sys.argv[1])
"""

# What is forgotten, the exit code, and how many tasks are stored then.
FORGOTTEN = {
    "the loop ended": (TASK_QUEUE + "asyncio.run(main())", 0, 1),
    "the queue is still referred to": (TASK_QUEUE + "kept = asyncio.run(main())", 0, 1),
    "an exception in main": (
        TASK_QUEUE
        + """
async def fails():
    queue = await main()
    raise ValueError("of the application")

asyncio.run(fails())
""",
        1,
        1,
    ),
    "sys.exit in main": (
        TASK_QUEUE
        + """
async def leaves():
    queue = await main()
    sys.exit(7)

asyncio.run(leaves())
""",
        7,
        1,
    ),
    "a loop that was never closed": (
        TASK_QUEUE + "loop = asyncio.new_event_loop(); queue = loop.run_until_complete(main())",
        0,
        1,
    ),
    "a loop in another thread": (
        TASK_QUEUE
        + """
import threading
kept = []
thread = threading.Thread(target=lambda: kept.append(asyncio.run(main())))
thread.start()
thread.join()
""",
        0,
        1,
    ),
    "sync": (
        """
import sys
from sitq import SyncTaskQueue
queue = SyncTaskQueue(sys.argv[1])
queue.open()
queue.enqueue(print, "hello")
""",
        0,
        1,
    ),
    "sync, with an exception": (
        """
import sys
from sitq import SyncTaskQueue
queue = SyncTaskQueue(sys.argv[1])
queue.open()
queue.enqueue(print, "hello")
raise ValueError("of the application")
""",
        1,
        1,
    ),
    "a backend that was opened twice": (
        BACKEND
        + """
async def main():
    await backend.open()
    await backend.open()
    await backend.enqueue([task("a")])
    async with backend.listen([QueueTopic()]):
        await backend.enqueue([task("b")])

asyncio.run(main())
""",
        0,
        2,
    ),
    "two backends on one file": (
        BACKEND
        + """
other = SQLiteBackend(sys.argv[1])

async def main():
    await backend.open()
    await other.open()
    await backend.enqueue([task("a")])
    await other.enqueue([task("b")])

asyncio.run(main())
""",
        0,
        2,
    ),
    "one that was closed, opened again and forgotten": (
        BACKEND
        + """
async def main():
    await backend.open()
    await backend.enqueue([task("a")])
    await backend.close()
    await backend.open()
    await backend.enqueue([task("b")])

asyncio.run(main())
""",
        0,
        2,
    ),
    "a handle that was opened anew after a failed commit": (
        BACKEND
        + """
import sqlite3
from sitq.backends.sqlite import lane

async def main():
    await backend.open()
    real = lane.commit
    def fail_once(db):
        lane.commit = real
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error
    lane.commit = fail_once
    await backend.enqueue([task("a")])

asyncio.run(main())
""",
        0,
        1,
    ),
    "a call that is still on its way": (
        BACKEND
        + """
async def main():
    await backend.open()
    await backend.enqueue([task("a")])
    calls = [asyncio.ensure_future(backend.stats()) for _ in range(3)]
    await asyncio.sleep(0)

asyncio.run(main())
""",
        0,
        1,
    ),
    "nothing but the open": (BACKEND + "asyncio.run(backend.open())", 0, 0),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_forgotten_close_does_not_keep_the_interpreter(tmp_path: Path, what: str) -> None:
    script, code, stored = FORGOTTEN[what]
    path = tmp_path / "tasks.db"

    processes.run(script, path, expected=code)

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM sitq_tasks").fetchone() == (stored,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


FORK = (
    BACKEND
    + """
import os

def forget(target, name):
    async def main():
        await target.open()
        await target.enqueue([task(name)])
    asyncio.run(main())

forget(backend, "parent")
child = os.fork()
if child == 0:
    forget(SQLiteBackend(sys.argv[1]), "child")
    sys.exit(5)  # the whole way out of the interpreter, with both forgotten
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) + 1)
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_forgets_ends_as_well(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"

    processes.run(FORK, path, expected=6)

    with closing(sqlite3.connect(path)) as db:
        assert sorted(db.execute("SELECT id FROM sitq_tasks")) == [("child",), ("parent",)]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
