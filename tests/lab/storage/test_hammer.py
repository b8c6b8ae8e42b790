"""Sixteen processes on one file, which open and close it as well: nobody hears of a lock, and nothing is done twice."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sitq.backends.sqlite import SQLiteBackend
from sitq.model import Succeeded
from tests.support import LEASE, everything
from tests.unit import processes

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="there, processes do not take turns by a lock"
)

PROCESSES = 16
ROUNDS = 12

HAMMER = """
import asyncio, json, random, sys
from datetime import timedelta
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import Failed, NewTask, Retried, Succeeded, TaskQuery
from tests.support import FakeClock, LEASE

path, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(name)
acked, accepted, pruned = [], [], 0

async def strike(backend, number):
    tasks = [NewTask(f"{name}-{number}-{one}", "work", b"payload" * 20) for one in range(rng.randint(1, 5))]
    acked.extend(one.id for one in await backend.enqueue(tasks))
    held = [task.held for task in (await backend.reserve(name, None, 4, 100 * LEASE)).tasks]
    await backend.heartbeat(name, held, 100 * LEASE)
    outcomes = [Succeeded(one, f"{name} {one.fence}".encode()) for one in held]
    done = await backend.complete(outcomes)
    assert done.accepted == len(held), done
    accepted.extend([one.id, f"{name} {one.fence}"] for one in held)
    await asyncio.gather(backend.stats(), backend.find(TaskQuery(limit=20)), backend.prune(5))

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    number = 0
    while number < rounds:
        # A minute is not to be waited for: it is more than anybody needs, and less than the test has.
        backend = SQLiteBackend(path, busy_timeout=60, clock=FakeClock())
        await backend.open()
        for _ in range(rng.randint(1, 4)):
            await strike(backend, number)
            number += 1
        await backend.close()
    print(json.dumps([acked, accepted]))

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_sixteen_processes_hammer_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LIMIT", 240.0)
    path = tmp_path / "tasks.db"
    started = [processes.start(HAMMER, path, f"p{number}", ROUNDS) for number in range(PROCESSES)]
    for process in started:
        processes.says(process, "ready")
    for process in started:
        processes.tell(process, "")
    said = [json.loads(processes.finish(process)) for process in started]
    acked = [one for ids, _ in said for one in ids]
    results = [(one, result) for _, accepted in said for one, result in accepted]
    assert len(acked) >= PROCESSES * ROUNDS

    backend = SQLiteBackend(path)
    await backend.open()
    while tasks := (await backend.reserve("last", None, 500, LEASE)).tasks:
        await backend.complete([Succeeded(task.held, f"last {task.fence}".encode()) for task in tasks])
        results += [(task.id, f"last {task.fence}") for task in tasks]
    found = {
        task.id: (task.status, (task.result or b"").decode(), task.crashes)
        for task in await everything(backend)
    }
    await backend.close()

    assert len(results) == len(dict(results)), "a task had two accepted results"
    assert found == {one: ("success", dict(results).get(one), 0) for one in acked}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
