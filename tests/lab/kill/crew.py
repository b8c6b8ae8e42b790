"""The processes of a run of the kill harness: workers, producers, a steward, and those who finish the work."""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sitq import RetryPolicy, SitqError, Snooze, Status, TaskQueue, Worker, call, current_task
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import ScheduleNotFoundError
from sitq.rates import RateLimit
from tests.lab.history.entries import Ran, Seen
from tests.lab.history.journal import Journal, Journalled

LEASE = 0.3
BACKLOG = 40  # small: what lost its lease is to be taken over before its first worker wakes up
NEVER_GIVEN_UP = 1000
RATE = RateLimit(15, timedelta(seconds=0.5))
WINDOW = 0.3
SCHEDULE = "tick"
PROCESSES = "processes"
"""The queue of tasks in child processes. Those who take from it are let live until they have one."""


class Acknowledged(NamedTuple):
    id: str


class Planned(Exception):
    """What tasks fail with on purpose."""


# -- The tasks: each run leaves a mark and returns it ----------------------------------------------


def leave_mark(folder: str, worker: int | None = None) -> str:
    """Write down that this runs, by a worker that is this process if nothing else is said."""
    worker = worker or os.getpid()
    task = current_task()
    now = time.monotonic()
    mark = f"{task.id} {task.attempt} {os.getpid()} {time.monotonic_ns()}"
    journal = Journal(f"{folder}/journal")
    journal.write(Ran(task.id, task.attempt, mark, worker, now))
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


def in_a_process(folder: str, span: float) -> str:
    mark = leave_mark(folder, os.getppid())
    Path(folder, "processes", str(os.getpid())).touch()
    time.sleep(span)
    return mark


async def failing(folder: str, fails: int) -> str:
    mark = leave_mark(folder)
    if current_task().attempt <= fails:
        raise Planned(mark)
    return mark


async def snoozing(folder: str) -> str:
    mark = leave_mark(folder)
    if random.random() < 0.5:
        raise Snooze(0.02)
    return mark


async def talking(folder: str, span: float) -> str:
    mark = leave_mark(folder)
    for percent in (0, 50, 100):
        current_task().progress(percent, mark)
        current_task().log(mark)
        await asyncio.sleep(span / 3)
    return mark


async def after(folder: str, parents: list[str], values: list[Any]) -> str:
    """What depends on others: checks that it got what they returned."""
    for parent, value in zip(parents, values, strict=True):
        right = value.startswith(f"{parent} ") if isinstance(value, str) else parent in str(value)
        assert right, f"{value!r} instead of what {parent} returned"
    return leave_mark(folder)


# -- The processes ---------------------------------------------------------------------------------


def journalled(folder: Path, *, synced: bool = False) -> tuple[Any, Journal]:
    journal = Journal(str(folder / "journal"), synced=synced)
    return Journalled(SQLiteBackend(folder / "tasks.db", busy_timeout=30), journal), journal


async def work(folder: Path, *, queues: list[str] | None = None, until_done: bool = False) -> None:
    backend, _ = journalled(folder)
    async with TaskQueue(backend) as queue:
        worker = Worker(queue, queues=queues, concurrency=8, lease=LEASE, poll_interval=0.05, processes=2)
        if not until_done:
            await worker.run()
        with suppress(ScheduleNotFoundError):
            await queue.remove_schedule(SCHEDULE)
        async with worker:
            while await _backlog(queue, waiting=False):
                await asyncio.sleep(0.05)


async def produce(folder: Path, seed: int) -> None:
    """Keep a backlog. What is acknowledged is written down and synced before anything else happens."""
    rng = random.Random(seed)
    backend, journal = journalled(folder, synced=True)
    async with TaskQueue(backend) as queue:
        while True:
            try:
                for calls, options in _batches(rng, str(folder)):
                    handles: list[Any] = await queue.options(**options).enqueue_many(calls)
                    journal.write(*map(Acknowledged, handles))
                    if rng.random() < 0.3:
                        journal.write(*map(Acknowledged, await _followers(rng, str(folder), queue, handles)))
                await _look(queue, journal)
            except SitqError:
                continue  # not acknowledged: it may be there or not

            while await _backlog(queue) > BACKLOG:
                await asyncio.sleep(0.02)


async def _followers(rng: random.Random, folder: str, queue: TaskQueue, handles: list[Any]) -> list[Any]:
    """Tasks that depend on some of these, and on each other."""
    strict = rng.random() < 0.7
    view = queue.options(
        on_parent_failure=None if strict else "run",
        max_crashes=rng.choice([1, 3, NEVER_GIVEN_UP]),
        metadata={"strict": strict},
    )
    parents = list(dict.fromkeys(handles[:3]))
    first = await view.enqueue(after, folder, [str(one) for one in parents], parents)
    second = await view.enqueue(after, folder, [str(first)], [first])
    return [first, second]


def _batches(rng: random.Random, folder: str) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    for _ in range(rng.randint(1, 3)):
        calls, options, metadata = _some(rng, folder)
        # Half of them survive any number of crashes, some are given up after three, some after one.
        crashes = rng.choice([1, 3, NEVER_GIVEN_UP, NEVER_GIVEN_UP])
        yield calls, {"max_crashes": crashes, "metadata": metadata, **options}


def _some(rng: random.Random, folder: str) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Calls, with options that bound them, and what the judge has to know of both."""
    calls = [_a_call(rng, folder) for _ in range(rng.randint(1, 12))]
    match rng.randrange(9):
        case 0:
            fails, most = rng.randint(1, 3), rng.randint(2, 3)
            policy = RetryPolicy(max_attempts=most, backoff="constant", base=0.03, jitter="none")
            calls = [call(failing, folder, fails) for _ in range(3)]
            return calls, {"retry": policy}, {"fails": fails, "max_attempts": most}
        case 1:
            limit = rng.randint(1, 2)
            key = f"at most {limit}"
            return (
                calls[:4],
                {"concurrency_key": key, "concurrency_limit": limit},
                {"concurrency": [key, limit]},
            )
        case 2:
            meta = {"rate": ["paced", RATE.count, RATE.period.total_seconds()]}
            return calls, {"rate_key": "paced", "rate_limit": RATE}, meta
        case 3:
            key, until = "one", rng.choice(["start", "end", "end"])
            calls = [call(waiting, folder, rng.random() * 0.5) for _ in range(3)]  # the next ones meet it
            return calls, {"unique_key": f"{key} {until}", "unique_until": until}, {
                "unique": f"{key} {until}", "until": until,
            }  # fmt: skip
        case 4:
            key = f"throttled {rng.randint(1, 2)}"
            return calls[:3], {"unique_key": key, "throttle": WINDOW}, {"throttle": [key, WINDOW]}
        case 5:
            return [call(talking, folder, rng.random() * 0.4) for _ in range(3)], {}, {"says": True}
        case 6:
            calls = [call(in_a_process, folder, rng.random() * 0.4) for _ in range(3)]
            return calls, {"executor": "process", "queue": PROCESSES}, {}
        case _:
            return calls, {}, {}


def _a_call(rng: random.Random, folder: str) -> Any:
    match rng.randrange(5):
        case 0:
            return call(waiting, folder, rng.random() * 0.1)
        case 1:
            return call(in_a_thread, folder, rng.random() * 0.05)
        case 2:
            return call(snoozing, folder)
        case _:
            return call(quick, folder)


async def govern(folder: Path, seed: int) -> None:
    """Set up the schedule, and give some of what failed one more run."""
    rng = random.Random(seed)
    backend, _ = journalled(folder)
    requeued: set[str] = set()
    async with TaskQueue(backend) as queue:
        await queue.schedule(SCHEDULE, call(quick, str(folder)), every=1, misfire="all", overlap="allow")
        while True:
            await asyncio.sleep(0.05)
            with suppress(SitqError):
                failed = await queue.find(status=Status.FAILED, limit=20)
                chosen = [task for task in failed if task.id not in requeued and rng.random() < 0.2]
                requeued.update(task.id for task in chosen)
                await backend.requeue(chosen)


async def _look(queue: TaskQueue, journal: Journal) -> None:
    finished = await queue.find(status=[Status.SUCCESS, Status.FAILED], limit=20)
    journal.write(*(Seen(record.id, record.status, record.fence) for record in finished))


async def _backlog(queue: TaskQueue, *, waiting: bool = True) -> int:
    """How much is not done. What only waits is released by what is done, or would wait for ever."""
    counts = (await queue.stats()).counts
    return counts[Status.PENDING] + counts[Status.RUNNING] + (counts[Status.WAITING] if waiting else 0)
