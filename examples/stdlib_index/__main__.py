"""Index the Python standard library with a queue and a worker, and kill the worker half-way.

    python -m examples.stdlib_index [--db FILE] [--concurrency N] [--limit N]

Stores one task for each source file of the standard library, starts a worker in a process of its own, kills that with
SIGKILL when half of the files are done, and starts another one. Then it prints what the tasks found, and proves from
the database that no file was lost and none was counted twice. Ends with 1 if the proof fails.

The database stays behind. By default it is `stdlib_index.db` in the current folder, and the next run replaces it.
"""

import argparse
import asyncio
import platform
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from examples.stdlib_index.analyse import SMALL, analyse_large_file, analyse_small_file
from examples.stdlib_index.progress import Progress
from examples.stdlib_index.proof import prove
from examples.stdlib_index.report import print_proof, print_report
from examples.stdlib_index.sources import STDLIB, source_files
from examples.stdlib_index.workers import worker_process
from sitq import Status, TaskQueue, call

DEFAULT_DB = Path("stdlib_index.db")
LOOK_EVERY = 0.1
"""Seconds between two looks at how far the work is."""


async def main(db: Path, concurrency: int, limit: int | None) -> int:
    """Do everything and return the exit code."""
    began = time.perf_counter()
    files = source_files(limit)
    print(f"{len(files):,} source files of Python {platform.python_version()} in {STDLIB}")

    async with TaskQueue(db) as queue:
        tasks = await enqueue(queue, files)
        print(f"{len(tasks):,} tasks stored in {db}")
        await have_them_done(queue, db, len(tasks), concurrency)

    # Opened anew, so that what follows comes from the file.
    async with TaskQueue(db) as queue:
        proof = await prove(queue, tasks)

    print_report(proof.outcomes)
    print_proof(proof)
    print_how_to_look(db)
    print(f"\n{time.perf_counter() - began:.1f} s in all")
    return 0 if proof.holds else 1


async def enqueue(queue: TaskQueue, files: list[Path]) -> dict[str, str]:
    """Store a task for each file, all in one transaction. Return the path that belongs to each task id."""
    handles = await queue.enqueue_many(
        call(analyse_small_file if file.stat().st_size < SMALL else analyse_large_file, str(file))
        for file in files
    )
    return {handle: str(file) for handle, file in zip(handles, files, strict=True)}


async def have_them_done(queue: TaskQueue, db: Path, total: int, concurrency: int) -> None:
    """Have one half of the tasks done by a worker that gets killed, and the other half by its successor."""
    with Progress(total) as progress:
        async with worker_process(db, concurrency=concurrency) as worker:
            progress.say(f"a worker starts in process {worker.pid}")
            await watch(queue, worker, progress, lambda now: half_way(now, total))
            worker.kill()
        left = await count(queue)
        progress.say(f"the worker was killed after {left.done:,} tasks, while it ran {left.running}")
        async with worker_process(db, concurrency=concurrency) as worker:
            progress.say(f"another worker starts in process {worker.pid}")
            await watch(queue, worker, progress, lambda now: now.done == total)


class Counts(NamedTuple):
    """How many tasks have an end, and how many are in the hands of a worker."""

    done: int
    running: int


def half_way(now: Counts, total: int) -> bool:
    """Return whether it is time for the kill."""
    # A worker that died with no task in its hands would leave nothing to take over.
    return now.done == total or (now.done >= total // 2 and now.running > 0)


async def count(queue: TaskQueue) -> Counts:
    """Count the tasks of all queues."""
    numbers: Counter[Status] = Counter()
    for each in (await queue.stats()).queues:
        numbers.update(each.counts)
    done = sum(number for status, number in numbers.items() if status.finished)
    return Counts(done, numbers[Status.RUNNING])


async def watch(
    queue: TaskQueue, worker: Process, progress: Progress, enough: Callable[[Counts], bool]
) -> None:
    """Show the progress until it is enough. Gives up if the worker ends by itself."""
    while True:
        now = await count(queue)
        progress.show(now.done)
        if enough(now):
            return
        if worker.returncode is not None:
            sys.exit(f"the worker ended by itself, with exit code {worker.returncode}")
        await asyncio.sleep(LOOK_EVERY)


def print_how_to_look(db: Path) -> None:
    """Print commands that look into the database."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    query = "SELECT name, status, count(*) FROM sitq_tasks GROUP BY name, status"
    print("\nTo look into the database")
    print(f"  {python} -m sitq tasks list --db {db}")
    print(f'  {python} -m sqlite3 {db} "{query}"')


def new_database(path: Path | None) -> Path:
    """Return where the database shall be. What is there goes, but only if it is the default file."""
    if path is None:
        # With it go the files that SQLite and sitq keep beside it.
        for old in [DEFAULT_DB, *DEFAULT_DB.parent.glob(f"{DEFAULT_DB}-*")]:
            old.unlink(missing_ok=True)
        return DEFAULT_DB
    if path.exists():
        sys.exit(f"{path} exists: remove it, or name a new file")
    return path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.stdlib_index",
        description="Index the standard library; kill a worker half-way.",
    )
    parser.add_argument("--db", type=Path, help="a new file (default: stdlib_index.db, which is replaced)")
    parser.add_argument("--concurrency", type=int, default=8, help="how many files at a time (default: 8)")
    parser.add_argument("--limit", type=int, help="take only so many files, from all over the library")
    given = parser.parse_args()
    if given.limit is not None and given.limit < 1:
        parser.error("--limit must be 1 or more")
    return given


if __name__ == "__main__":
    given = arguments()
    try:
        code = asyncio.run(main(new_database(given.db), given.concurrency, given.limit))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
