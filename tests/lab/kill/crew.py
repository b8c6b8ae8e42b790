"""The processes of a run of the kill harness: workers, producers, a steward, and those who finish the work."""

import asyncio
import random
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sitq import SitqError, Status, TaskQueue, Worker, call
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import ScheduleNotFoundError
from sitq.model import TaskQuery, TaskRecord
from tests.lab.history.collect import TABLES
from tests.lab.history.entries import Acknowledged, Looked, Seen
from tests.lab.history.journal import Journal, Journalled
from tests.lab.kill import tasks

LEASE = 0.3
BACKLOG = 40  # small: what lost its lease is to be taken over before its first worker wakes up
QUEUES = ["default", tasks.SMALL]
SCHEDULE = "tick"


def journalled(folder: Path, *, synced: bool = False) -> tuple[Any, Journal]:
    journal = Journal(str(folder / "journal"), synced=synced)
    return Journalled(SQLiteBackend(folder / "tasks.db", busy_timeout=30), journal), journal


async def work(folder: Path, queues: list[str], *, leave_after: float | None = None) -> None:
    """Work for ever, or stop in order after so many seconds."""
    backend, _ = journalled(folder)
    async with TaskQueue(backend) as queue:
        await _worker(queue, queues, patience=0.05).run(leave_after)


async def work_off(folder: Path) -> None:
    """Do all that is left."""
    backend, _ = journalled(folder)
    async with TaskQueue(backend) as queue:
        with suppress(ScheduleNotFoundError):
            await queue.remove_schedule(SCHEDULE)
        async with _worker(queue, None):
            while await _backlog(queue, waiting=False):
                await asyncio.sleep(0.05)


def _worker(queue: TaskQueue, queues: list[str] | None, *, patience: float = 30) -> Worker:
    return Worker(
        queue,
        queues=queues,
        concurrency=8,
        lease=LEASE,
        poll_interval=0.2,
        shutdown_timeout=patience,
        processes=1,
    )


async def produce(folder: Path, seed: int) -> None:
    """Keep a backlog. What is acknowledged is written down and synced before anything else happens."""
    rng = random.Random(seed)
    backend, journal = journalled(folder, synced=True)
    async with TaskQueue(backend, max_pending={tasks.SMALL: tasks.ROOM}) as queue:
        with closing(tasks.connected(folder)) as db:
            db.executescript(TABLES)
        while True:
            try:
                for calls, options in tasks.batches(rng, str(folder)):
                    handles: list[Any] = await queue.options(**options).enqueue_many(calls)
                    await _acknowledged(backend, journal, handles)
                    if rng.random() < 0.3:
                        await _acknowledged(
                            backend, journal, await _followers(rng, str(folder), queue, handles)
                        )
                await _order(queue, folder, journal)
                await _look(queue, journal)
            except SitqError:
                pass  # refused, or not acknowledged: then it may be there or not
            while await _backlog(queue) > BACKLOG:
                await asyncio.sleep(0.02)


async def _acknowledged(backend: Journalled, journal: Journal, ids: Collection[str]) -> None:
    journal.write(*map(Acknowledged, ids))
    found = {task.id for task in await backend.find(TaskQuery(ids=ids))}
    journal.write(*(Looked(one, one in found) for one in ids))


async def _followers(rng: random.Random, folder: str, queue: TaskQueue, handles: list[Any]) -> list[Any]:
    """Tasks that depend on some of these, and on each other."""
    strict = rng.random() < 0.7
    view = queue.options(
        on_parent_failure=None if strict else "run",
        max_crashes=rng.choice([1, 3, tasks.NEVER_GIVEN_UP]),
        metadata={"strict": strict},
    )
    parents = list(dict.fromkeys(handles[:3]))
    first = await view.enqueue(tasks.after, folder, [str(one) for one in parents], parents)
    second = await view.enqueue(tasks.after, folder, [str(first)], [first])
    return [first, second]


async def _order(queue: TaskQueue, folder: Path, journal: Journal) -> None:
    """Store a task in a transaction of the application, together with a row of its own."""
    with closing(tasks.connected(folder)) as db:
        db.execute("BEGIN IMMEDIATE")
        view = queue.within(db).options(metadata={"order": True}, max_crashes=tasks.NEVER_GIVEN_UP)
        handle = await view.enqueue(tasks.quick, str(folder))
        db.execute("INSERT INTO orders VALUES (?)", (str(handle),))
        tasks.commit_order(db)
    journal.write(Acknowledged(str(handle)))


async def _look(queue: TaskQueue, journal: Journal) -> None:
    found = await queue.find(status=[Status.SUCCESS, Status.FAILED, Status.RUNNING], limit=20)
    journal.write(*(Seen(one.id, one.status, one.fence, one.due_at is not None) for one in found))


async def govern(folder: Path, seed: int) -> None:
    """Set up the schedule. Give some of what failed one more run, cancel some of what has not ended, remove some of
    what has."""
    rng = random.Random(seed)
    backend, _ = journalled(folder)
    requeued: set[str] = set()

    def chosen(found: list[TaskRecord], fits: Callable[[TaskRecord], object]) -> list[TaskRecord]:
        return [task for task in found if fits(task) and rng.random() < 0.3]

    async with TaskQueue(backend) as queue:
        tick = call(tasks.quick, str(folder))
        await queue.schedule(SCHEDULE, tick, every=1, misfire="all", overlap="allow")
        while True:
            await asyncio.sleep(0.05)
            with suppress(SitqError):
                failed = await queue.find(status=Status.FAILED, limit=20)
                again = chosen(failed, lambda task: task.id not in requeued)
                requeued.update(task.id for task in again)
                await backend.requeue(again)
                live = await queue.find(status=[Status.PENDING, Status.RUNNING], limit=60)
                await backend.cancel([task.id for task in chosen(live, _says("cancellable"))])
                done = await queue.find(status=Status.SUCCESS, limit=60)
                await backend.prune(20, ids=[task.id for task in chosen(done, _says("forgettable"))])


def _says(name: str) -> Callable[[TaskRecord], object]:
    return lambda task: (task.metadata or {}).get(name)


async def _backlog(queue: TaskQueue, *, waiting: bool = True) -> int:
    """How much is not done. What only waits is released by what is done, or would wait for ever."""
    counts = (await queue.stats()).counts
    return counts[Status.PENDING] + counts[Status.RUNNING] + (counts[Status.WAITING] if waiting else 0)
