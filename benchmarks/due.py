"""Many delayed tasks whose time comes at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from statistics import median

from benchmarks import limits
from benchmarks.drain import fill_for_sitq
from benchmarks.measure import Figure, Scale
from benchmarks.tasks import stamp
from sitq import TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend
from sitq.serialization import decode_value

COUNT = 100_000
CONCURRENCY = 100
_PATIENCE = 120.0
_LEAD = 1.0
"""How long before its time everything stands still."""


async def due(scale: Scale) -> AsyncIterator[Figure]:
    """Drain 100,000 tasks that come due at once: the first start, and the last end, beside tasks that are due."""
    count = scale.count(COUNT)
    rounds = min(3, scale.rounds)
    delayed: list[tuple[float, float]] = []
    at_once: list[float] = []
    starts: list[float] = []
    for number in range(rounds):
        for kind in ("delayed", "at once")[:: 1 if number % 2 == 0 else -1]:
            if kind == "delayed":
                delayed.append(await _delayed(scale, count))
            else:
                at_once.append(await _at_once(scale, count))
        starts.append(await _limit(scale))
    first, ends = [pair[0] for pair in delayed], [pair[1] for pair in delayed]
    yield Figure(
        f"{count:,} tasks due at once, first start",
        "ms",
        median(first) * 1e3,
        median(starts) * 1e3,
        median(value / bound for value, bound in zip(first, starts, strict=True)),
        samples=rounds,
        note="after the instant; limit: sleep until then, one hop to reserve; fast",
    )
    yield Figure(
        f"{count:,} tasks due at once, all drained",
        "s",
        median(ends),
        median(at_once),
        median(value / bound for value, bound in zip(ends, at_once, strict=True)),
        samples=rounds,
        note=f"after the instant; limit: as many that are due when the worker starts; concurrency {CONCURRENCY}, fast",
    )


async def _delayed(scale: Scale, count: int) -> tuple[float, float]:
    """Seconds from the instant to the first start, and to the last result."""
    with scale.file() as path:
        fill_for_sitq(path, stamp, count)
        last = limits.last_id(path)
        lead = _LEAD + count / 100_000  # putting them off takes time, too
        due_at, monotonic = time.time() + lead, time.monotonic() + lead
        limits.put_off(path, due_at)
        async with (
            TaskQueue(SQLiteBackend(path, durability="fast")) as queue,
            Worker(queue, concurrency=CONCURRENCY),
        ):
            await queue.get_result(last, timeout=_PATIENCE)
            end = time.monotonic()
        first = min(map(decode_value, limits.stored_results(path))) / 1e9
        return first - monotonic, end - monotonic


async def _at_once(scale: Scale, count: int) -> float:
    """Seconds from the start of the worker to the last result."""
    with scale.file() as path:
        fill_for_sitq(path, stamp, count)
        last = limits.last_id(path)
        async with TaskQueue(SQLiteBackend(path, durability="fast")) as queue:
            start = time.monotonic()
            async with Worker(queue, concurrency=CONCURRENCY):
                await queue.get_result(last, timeout=_PATIENCE)
                return time.monotonic() - start


async def _limit(scale: Scale) -> float:
    """Seconds from the instant to the first start in a loop that slept until then."""
    with scale.file() as path:
        limits.fill(path, stamp, CONCURRENCY)
        async with limits.aconnect(path, "fast") as db:
            due_at, monotonic = time.time() + _LEAD / 4, time.monotonic() + _LEAD / 4
            limits.put_off(path, due_at)
            await asyncio.sleep(max(0.0, due_at - time.time()) + 0.0001)  # a timer may ring a little early
            await limits.drain(db, CONCURRENCY)
        return float(min(limits.results(path)) / 1e9 - monotonic)
