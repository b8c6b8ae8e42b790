"""What each job can be told from the command line: submit, watch, cancel, retry. Thin over `TaskQueue`.

A job is a queue of its name. `sitq worker jobs.db -q NAME` runs what was submitted, and the other `sitq` commands work
on the same file.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sitq import SitqError, Status, TaskQueue
from sitq.events import (
    TaskCancelled,
    TaskFailed,
    TaskLogged,
    TaskProgressed,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
)

MAX_PAYLOAD = 16 * 1024 * 1024
"""Bytes that a call may have. A message with its attachments has more than the usual 1 MiB."""

END_TIMEOUT = 60
"""Seconds that running tasks may take to end when they are cancelled."""


class Job(NamedTuple):
    """What the command line has to know about a job.

    Attributes:
        name: Of the job and of its queue.
        arguments: Adds what `submit` takes.
        submit: Stores the tasks, and returns the ids of those that somebody may want to watch.
        demo: Does all of it in one process, with files in a folder that is thrown away.
    """

    name: str
    about: str
    arguments: Callable[[argparse.ArgumentParser], None]
    submit: Callable[[TaskQueue, argparse.Namespace], Awaitable[Sequence[str]]]
    demo: Callable[[Path], Awaitable[None]]


def open_queue(db: Path) -> TaskQueue:
    return TaskQueue(db, max_payload=MAX_PAYLOAD)


# -- Verbs -----------------------------------------------------------------------------------------


async def submit(queue: TaskQueue, job: Job, given: argparse.Namespace) -> int:
    for task_id in await job.submit(queue, given):
        print(task_id)
    return 0


async def watch(queue: TaskQueue, job: Job, given: argparse.Namespace) -> int:
    """Tell what happens until all have ended. 1 if one of them has no result."""
    ids = given.ids or [task.id for task in await queue.find(queue=job.name, limit=10_000)]
    ends = await asyncio.gather(*(follow(queue, task_id) for task_id in ids))
    return 0 if all(status is Status.SUCCESS for status in ends) else 1


async def follow(queue: TaskQueue, task_id: str) -> Status:
    """Print what happens to a task, a line each, and return how it ended."""
    async for entry in queue.events(task_id):
        match entry.event:
            case TaskStarted(attempt=attempt):
                line = "started" if attempt == 1 else f"started, attempt {attempt}"
            case TaskProgressed(percent=percent, note=note):
                line = f"{percent:.0f} % {note}"
            case TaskLogged(text=text):
                line = text
            case TaskRetried(error_type=kind, error=error):
                line = f"will be tried again: {kind}: {error}"
            case TaskSucceeded():
                line = f"success: {(await queue.get_result(task_id)).value}"
            case TaskFailed(error_type=kind, error=error):
                line = f"failed: {kind}: {error}"
            case TaskCancelled():
                line = "cancelled"
            case _:
                continue
        print(task_id, line, flush=True)
    return await queue.get_status(task_id)


async def cancel(queue: TaskQueue, job: Job, given: argparse.Namespace) -> int:
    """Cancel, and wait until what ran has ended. What depends on a cancelled task does what it was told to do then."""
    begun = await queue.find(queue=job.name, status=[Status.PENDING, Status.RUNNING], limit=10_000)
    ids = given.ids or [task.id for task in begun]
    ends = await asyncio.gather(*(queue.cancel(task_id, timeout=END_TIMEOUT) for task_id in ids))
    for task_id, status in zip(ids, ends, strict=True):
        print(task_id, status)
    return 0


async def retry(queue: TaskQueue, job: Job, given: argparse.Namespace) -> int:
    """Give failed and cancelled tasks a new run."""
    if given.ids:
        done = await queue.requeue(given.ids)
    else:
        done = await queue.requeue(queue=job.name, status=[Status.FAILED, Status.CANCELLED])
    for task_id in done:
        print(task_id)
    return 0


# -- The command line ------------------------------------------------------------------------------


def main(jobs: Sequence[Job], argv: Sequence[str] | None = None) -> int:
    """Do what was typed, and return the exit code."""
    given = parser(jobs).parse_args(argv)
    try:
        code: int = asyncio.run(given.run(given))
    except SitqError as error:
        print(f"jobs: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    return code


def parser(jobs: Sequence[Job]) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m examples.jobs", description="Three jobs on real input.")
    names = top.add_subparsers(metavar="JOB", required=True)
    for job in jobs:
        verbs = names.add_parser(job.name, help=job.about).add_subparsers(metavar="VERB", required=True)
        job.arguments(add_verb(verbs, job, submit, "store the tasks; prints ids"))
        for verb, about in (
            (watch, "tell what happens until all have ended"),
            (cancel, "stop what runs, and never start the rest"),
            (retry, "give failed and cancelled tasks a new run"),
        ):
            one = add_verb(verbs, job, verb, about)
            one.add_argument(
                "ids", nargs="*", metavar="ID", help=f"all of the queue {job.name!r} if not given"
            )
        verbs.add_parser("demo", help="all of it in one process").set_defaults(run=run_demo, job=job)
    return top


type Verb = Callable[[TaskQueue, Job, argparse.Namespace], Awaitable[int]]


def add_verb(verbs: Any, job: Job, verb: Verb, about: str) -> argparse.ArgumentParser:
    one: argparse.ArgumentParser = verbs.add_parser(verb.__name__, help=about)
    one.add_argument(
        "--db", type=Path, default=Path("jobs.db"), metavar="FILE", help="the database (jobs.db)"
    )
    one.set_defaults(run=run_verb, verb=verb, job=job)
    return one


async def run_verb(given: argparse.Namespace) -> int:
    async with open_queue(given.db) as queue:
        code: int = await given.verb(queue, given.job, given)
        return code


async def run_demo(given: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        await given.job.demo(Path(folder))
    return 0
