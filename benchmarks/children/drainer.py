"""Drains files when told to, with sitq or with the limit's loop, again and again.

Reads `open WHO PATH DURABILITY CONCURRENCY`, answers, reads `go`, drains, answers with the instants.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks import limits
from benchmarks.children import say
from benchmarks.footprint import resident
from sitq import TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend


async def main() -> None:
    """Serve until standard input ends."""
    while words := await _hear():
        _, who, path, durability, concurrency = words
        await (_sitq if who == "sitq" else _limit)(Path(path), durability, int(concurrency))


async def _hear() -> list[str]:
    return (await asyncio.to_thread(sys.stdin.readline)).split()


async def _sitq(path: Path, durability: Any, concurrency: int) -> None:
    async with TaskQueue(SQLiteBackend(path, durability=durability)) as queue:
        worker = Worker(queue, concurrency=concurrency, id=f"bench-{os.getpid()}")
        await _timed(lambda: worker.run(until_idle=True))


async def _limit(path: Path, durability: Any, concurrency: int) -> None:
    async with limits.aconnect(path, durability) as db:
        lock = os.open(path.with_name("turns"), os.O_RDWR | os.O_CREAT)
        try:
            await _timed(lambda: limits.drain(db, concurrency, f"bench-{os.getpid()}", lock))
        finally:
            os.close(lock)


async def _timed(run: Callable[[], Awaitable[object]]) -> None:
    say(before=resident()[0])
    await _hear()
    start = time.monotonic_ns()
    await run()
    say(start=start, end=time.monotonic_ns(), peak=resident()[1])


if __name__ == "__main__":
    asyncio.run(main())
