"""Putting tasks in under unique keys, every second of which is held."""

import asyncio
from collections.abc import AsyncIterator

from benchmarks import limits
from benchmarks.measure import DURABILITIES, Durability, Figure, Scale, compare, stopwatch
from benchmarks.tasks import noop
from sitq import TaskQueue
from sitq.backends.sqlite import SQLiteBackend

CALLERS = 100


async def unique(scale: Scale) -> AsyncIterator[Figure]:
    """Enqueue from 100 concurrent callers with a unique key for every two calls."""
    for durability in DURABILITIES:
        yield await _concurrent(scale, durability)


async def _concurrent(scale: Scale, durability: Durability) -> Figure:
    with scale.file() as path, scale.file() as other:
        async with (
            TaskQueue(SQLiteBackend(path, durability=durability)) as queue,
            limits.aconnect(other, durability) as db,
        ):
            # What was enqueued before is not enqueued again: nobody takes anything out of these files.
            next_key = {"ours": 0, "limit": 0}

            def keys(whose: str, count: int) -> list[str]:
                first = next_key[whose]
                next_key[whose] += count
                return [f"order-{first + number // 2}" for number in range(count)]

            async def caller(given: list[tuple[int, str]]) -> None:
                for number, key in given:
                    await queue.options(unique_key=key).enqueue(noop, number)

            async def ours(count: int) -> float:
                given = list(enumerate(keys("ours", count)))
                with stopwatch() as taken:
                    async with asyncio.TaskGroup() as group:
                        for first in range(CALLERS):
                            group.create_task(caller(given[first::CALLERS]))
                return count / taken()

            async def limit(count: int) -> float:
                given = [(key, (number,)) for number, key in enumerate(keys("limit", count))]
                with stopwatch() as taken:
                    await limits.enqueue_unique(db, noop, given, CALLERS)
                return count / taken()

            return await compare(
                f"enqueue with unique keys, {CALLERS} callers, {durability}",
                ours,
                limit,
                scale,
                step=CALLERS,
                note=f"half are duplicates; limit: {CALLERS} a transaction, one hop, insert or look up the holder",
            )
