"""Putting tasks in: one after another, from a hundred callers at once, and in batches."""

import asyncio
import itertools
from collections.abc import AsyncIterator

from benchmarks import limits
from benchmarks.measure import DURABILITIES, Durability, Figure, Scale, Target, compare, stopwatch
from benchmarks.tasks import noop
from sitq import TaskQueue, call
from sitq.backends.sqlite import SQLiteBackend

CALLERS = 100
BATCH = 1000
_LIMITS = {
    False: (limits.store_batch, "", "by executemany"),
    True: (limits.store_by_hundreds, ", by hundreds", "by statements of a hundred rows"),
}
"""How a limit inserts a batch, by whether it does so by hundreds; the mark of the figure, and its note."""


async def enqueue(scale: Scale) -> AsyncIterator[Figure]:
    """Enqueue sequentially, from 100 concurrent callers, and with enqueue_many in batches of 1000."""
    for durability in DURABILITIES:
        yield await _sequential(scale, durability)
    for durability in DURABILITIES:
        for by_hundreds in (False, True):
            yield await _concurrent(scale, durability, by_hundreds=by_hundreds)
    for durability in DURABILITIES:
        for by_hundreds in (False, True):
            yield await _many(scale, durability, by_hundreds=by_hundreds)


async def _sequential(scale: Scale, durability: Durability) -> Figure:
    with scale.file() as path, scale.file() as other:
        async with (
            TaskQueue(SQLiteBackend(path, durability=durability)) as queue,
            limits.aconnect(other, durability) as db,
        ):

            async def ours(count: int) -> float:
                with stopwatch() as taken:
                    for number in range(count):
                        await queue.enqueue(noop, number)
                return count / taken()

            async def limit(count: int) -> float:
                calls = [(number,) for number in range(count)]
                with stopwatch() as whole:
                    await limits.enqueue_by_transaction(db, noop, calls)
                with stopwatch() as parts:
                    await limits.enqueue_by_statement(db, noop, calls[: count // 4])
                return max(count / whole(), count // 4 / parts())

            return await compare(
                f"enqueue, one after another, {durability}",
                ours,
                limit,
                scale,
                step=20,
                target=Target("ratio", ">=", 0.5),
                note="limit: the better of one hop a transaction and one hop a statement",
            )


async def _concurrent(scale: Scale, durability: Durability, *, by_hundreds: bool) -> Figure:
    store, beside, how = _LIMITS[by_hundreds]
    with scale.file() as path, scale.file() as other:
        async with (
            TaskQueue(SQLiteBackend(path, durability=durability)) as queue,
            limits.aconnect(other, durability) as db,
        ):

            async def caller(numbers: range) -> None:
                for number in numbers:
                    await queue.enqueue(noop, number)

            async def ours(count: int) -> float:
                with stopwatch() as taken:
                    async with asyncio.TaskGroup() as group:
                        for first in range(CALLERS):
                            group.create_task(caller(range(first, count, CALLERS)))
                return count / taken()

            async def limit(count: int) -> float:
                with stopwatch() as taken:
                    calls = ((number,) for number in range(count))
                    await limits.enqueue_in_batches(db, noop, calls, CALLERS, store)
                return count / taken()

            return await compare(
                f"enqueue, {CALLERS} callers, {durability}{beside}",
                ours,
                limit,
                scale,
                step=CALLERS,
                target=None if by_hundreds else Target("ratio", ">=", 0.6),
                note=f"limit: {CALLERS} rows a transaction, one hop each, {how}",
            )


async def _many(scale: Scale, durability: Durability, *, by_hundreds: bool) -> Figure:
    store, beside, how = _LIMITS[by_hundreds]
    with scale.file() as path, scale.file() as other:
        db = limits.connect(other, durability)
        async with TaskQueue(SQLiteBackend(path, durability=durability)) as queue:

            async def ours(count: int) -> float:
                with stopwatch() as taken:
                    for numbers in itertools.batched(range(count), BATCH, strict=False):
                        await queue.enqueue_many([call(noop, number) for number in numbers])
                return count / taken()

            async def limit(count: int) -> float:
                with stopwatch() as taken:
                    calls = ((number,) for number in range(count))
                    limits.enqueue_in_this_thread(db, noop, calls, BATCH, store)
                return count / taken()

            try:
                return await compare(
                    f"enqueue_many, batches of {BATCH}, {durability}{beside}",
                    ours,
                    limit,
                    scale,
                    step=BATCH,
                    note=f"limit: plain sqlite3, no hop, {how}",
                )
            finally:
                db.close()
