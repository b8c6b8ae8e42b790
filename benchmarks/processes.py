"""What a task in a child process costs beside the work itself."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import Figure, Scale, compare
from benchmarks.tasks import burn, sleep_sync
from sitq import ProcessOptions, TaskQueue, Worker, call
from sitq.backends.sqlite import SQLiteBackend

CHILDREN = (1, 2)
_PATIENCE = 120.0
_WARM_UP = 0.2
"""How long each process is held up, so that the next task starts another one."""


async def processes(scale: Scale) -> AsyncIterator[Figure]:
    """CPU-bound tasks in 1 and 2 child processes, beside a pool of as many in plain Python."""
    for children in CHILDREN:
        with (
            scale.file() as path,
            ProcessPoolExecutor(children, multiprocessing.get_context("spawn")) as pool,
        ):
            backend = SQLiteBackend(path, durability="fast")
            options = ProcessOptions(children=children)
            # Some more are reserved than can run, so that a child never waits for the storage.
            async with (
                TaskQueue(backend) as queue,
                Worker(queue, concurrency=4 * children, processes=options),
            ):
                await _ours(queue, sleep_sync, children)
                await _limit(pool, sleep_sync, children)
                yield await compare(
                    f"CPU-bound, {children} child process{'es' if children > 1 else ''}",
                    lambda count, queue=queue: _ours(queue, burn, count),  # type: ignore[misc]
                    lambda count, pool=pool: _limit(pool, burn, count),  # type: ignore[misc]
                    scale,
                    step=4 * children,
                    note="about 5 ms each; limit: ProcessPoolExecutor; enqueued, run and stored; fast",
                )


async def _ours(queue: TaskQueue, func: Callable[[float], object], count: int) -> float:
    start = time.perf_counter()
    calls = [call(func, _WARM_UP if func is sleep_sync else number) for number in range(count)]
    handles = await queue.options(executor="process").enqueue_many(calls)
    for handle in handles:
        await queue.get_result(handle, timeout=_PATIENCE)
    return count / (time.perf_counter() - start)


async def _limit(pool: ProcessPoolExecutor, func: Callable[[float], object], count: int) -> float:
    start = time.perf_counter()
    loop = asyncio.get_running_loop()
    arguments = [_WARM_UP if func is sleep_sync else number for number in range(count)]
    await asyncio.gather(*(loop.run_in_executor(pool, func, each) for each in arguments))
    return count / (time.perf_counter() - start)
