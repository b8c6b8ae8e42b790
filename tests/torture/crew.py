"""The processes of a torture run: workers, a producer, and those who finish the work at the end."""

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

from sitq import SitqError, Status, TaskQueue, Worker, call, current_task
from sitq.backends.sqlite import SQLiteBackend
from tests.torture.checker import Ran, Seen
from tests.torture.history import Journal, Journalled

LEASE = 0.3
BACKLOG = 40  # small: what lost its lease is to be taken over before its first worker wakes up
NEVER_GIVEN_UP = 1000


class Acknowledged(NamedTuple):
    id: str


# -- The tasks: each run leaves a mark and returns it ----------------------------------------------


def leave_mark(folder: str) -> str:
    task = current_task()
    mark = f"{task.id} {task.attempt} {os.getpid()} {time.monotonic_ns()}"
    journal = Journal(f"{folder}/journal")
    journal.write(Ran(task.id, task.attempt, mark))
    os.close(journal._fd)
    return mark


async def quick(folder: str) -> str:
    return leave_mark(folder)


async def waiting(folder: str, span: float) -> str:
    mark = leave_mark(folder)
    await asyncio.sleep(span)
    return mark


def in_a_thread(folder: str, span: float) -> str:
    mark = leave_mark(folder)
    time.sleep(span)
    return mark


# -- The processes ---------------------------------------------------------------------------------


async def work(folder: Path, *, until_done: bool = False) -> None:
    journal = Journal(str(folder / "journal"))
    backend: Any = Journalled(SQLiteBackend(folder / "tasks.db"), journal)
    async with TaskQueue(backend) as queue:
        worker = Worker(queue, concurrency=8, lease=LEASE, poll_interval=0.05)
        if not until_done:
            await worker.run()
        async with worker:
            while any(not status.finished for one in (await queue.stats()).queues for status in one.counts):
                await asyncio.sleep(0.05)


async def produce(folder: Path, seed: int) -> None:
    """Keep a backlog. What is acknowledged is written down and synced before anything else happens."""
    rng = random.Random(seed)
    journal = Journal(str(folder / "journal"), synced=True)
    async with TaskQueue(folder / "tasks.db") as queue:
        while True:
            # Half of them survive any number of crashes, some are given up after three, some after one.
            options = {"max_crashes": rng.choice([1, 3, NEVER_GIVEN_UP, NEVER_GIVEN_UP])}
            try:
                handles = await queue.options(**options).enqueue_many(
                    [_a_call(rng, str(folder)) for _ in range(rng.randint(1, 30))]
                )
                journal.write(*map(Acknowledged, handles))
                await _look(queue, journal)
            except SitqError:
                continue  # not acknowledged: it may be there or not

            while await _backlog(queue) > BACKLOG:
                await asyncio.sleep(0.02)


def _a_call(rng: random.Random, folder: str) -> Any:
    match rng.randrange(4):
        case 0:
            return call(waiting, folder, rng.random() * 0.1)
        case 1:
            return call(in_a_thread, folder, rng.random() * 0.05)
        case _:
            return call(quick, folder)


async def _look(queue: TaskQueue, journal: Journal) -> None:
    finished = await queue.find(status=[Status.SUCCESS, Status.FAILED], limit=20)
    journal.write(*(Seen(record.id, record.status, record.fence) for record in finished))


async def _backlog(queue: TaskQueue) -> int:
    stats = await queue.stats()
    return sum(count for one in stats.queues for status, count in one.counts.items() if not status.finished)
