"""What the processes of a run are given to do: tasks that leave a mark, and calls of them in many varieties."""

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from sitq import RetryPolicy, Snooze, call, current_task
from sitq.rates import RateLimit
from tests.lab.history.entries import Ran
from tests.lab.history.journal import Journal

NEVER_GIVEN_UP = 1000
RATE = RateLimit(15, timedelta(seconds=0.5))
WINDOW = 0.3
PROCESSES = "processes"
"""The queue of tasks in child processes. Those who take from it are let live until they have one."""

SMALL, ROOM = "small", 4
"""A queue in which so many tasks may be pending."""


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
    here = Path(folder, "processes", str(os.getpid()))
    here.touch()  # whoever wants to kill a child that runs a task looks for this
    time.sleep(span)
    here.unlink(missing_ok=True)
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


def committing(folder: str, span: float) -> str:
    """Leave a row in a table of the application, and commit it together with the success."""
    mark = leave_mark(folder)
    time.sleep(span)  # a worker that is paused here comes back when the task is another's
    with closing(connected(Path(folder))) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO effects VALUES (?, ?)", (current_task().id, mark))
        current_task().complete_in(db, mark)
        commit_effect(db)
    return mark


# -- The application's own part of the file --------------------------------------------------------


def connected(folder: Path) -> sqlite3.Connection:
    """A connection of the application to the file of the queue."""
    return sqlite3.connect(folder / "tasks.db", timeout=30, isolation_level=None)


def commit_effect(db: sqlite3.Connection) -> None:
    db.execute("COMMIT")


def commit_order(db: sqlite3.Connection) -> None:
    db.execute("COMMIT")


# -- Calls -----------------------------------------------------------------------------------------


def batches(rng: random.Random, folder: str) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    for _ in range(rng.randint(1, 3)):
        calls, options, metadata = _some(rng, folder)
        # Half of them survive any number of crashes, some are given up after three, some after one.
        crashes = rng.choice([1, 3, NEVER_GIVEN_UP, NEVER_GIVEN_UP])
        yield calls, {"max_crashes": crashes, "metadata": metadata, **options}


def _some(rng: random.Random, folder: str) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Calls, with options that bound them, and what the judge has to know of both."""
    calls = [_a_call(rng, folder) for _ in range(rng.randint(1, 12))]
    match rng.randrange(13):
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
            return [call(talking, folder, rng.random()) for _ in range(3)], {}, {"says": True}
        case 6:
            calls = [call(in_a_process, folder, rng.random() * 0.4) for _ in range(2)]
            return calls, {"executor": "process", "queue": PROCESSES}, {}
        case 7:
            calls = [call(committing, folder, rng.random() * 0.3) for _ in range(3)]
            return calls, {"max_crashes": NEVER_GIVEN_UP}, {"effect": True}
        case 8:
            return calls[:4], {}, {"forgettable": True, "cancellable": True}
        case 9:
            calls = [call(waiting, folder, rng.random() * 0.3) for _ in range(3)]
            return calls, {"delay": 0.5 * rng.random()}, {"cancellable": True}
        case 10:
            return [call(quick, folder) for _ in range(rng.randint(1, 2 * ROOM))], {"queue": SMALL}, {}
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
