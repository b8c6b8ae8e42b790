"""What it costs that a task says a lot while it runs."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import timedelta

from benchmarks import limits
from benchmarks.drain import fill_for_sitq
from benchmarks.measure import Figure, Scale, compare
from benchmarks.tasks import noop, storm
from sitq import TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend
from sitq.events import TaskProgressed
from sitq.model import Heartbeat, Held, NewNote, WorkerInfo

RATE = 10_000
CONCURRENCY = 100
_PATIENCE = 120.0


class _Counting(SQLiteBackend):
    """Counts the writes that carry notes; with nothing else to write, each is a commit."""

    commits = 0

    async def heartbeat(
        self,
        worker: str,
        held: Sequence[Held],
        lease: timedelta,
        *,
        notes: Sequence[NewNote] = (),
        info: WorkerInfo | None = None,
    ) -> Heartbeat:
        self.commits += bool(notes)
        return await super().heartbeat(worker, held, lease, notes=notes, info=info)


async def progress(scale: Scale) -> AsyncIterator[Figure]:
    """A task that calls progress 10,000 times a second: its commits, and a drain beside it."""
    yield await _commits(scale)
    yield await _beside(scale)


async def _commits(scale: Scale) -> Figure:
    wanted = scale.count(50, 10)
    with scale.file() as path:
        backend = _Counting(path)
        async with TaskQueue(backend) as queue, Worker(queue):
            handle = await queue.enqueue(storm, RATE)
            before: tuple[int, float] | None = None
            async with aclosing(handle.events()) as entries:
                async for entry in entries:
                    if before is None and isinstance(entry.event, TaskProgressed):
                        before = backend.commits, time.perf_counter()
                    if before is not None and backend.commits >= before[0] + wanted:
                        break
            assert before is not None
            commits, seconds = backend.commits - before[0], time.perf_counter() - before[1]
            await handle.cancel(timeout=_PATIENCE)
    return Figure(
        f"progress, {RATE:,} calls a second, stored",
        "commits",
        commits / seconds,
        samples=commits,
        note="a second; what is stored is the last one, for whoever follows the task",
    )


async def _beside(scale: Scale) -> Figure:
    async def drained(count: int, *, stormy: bool) -> float:
        with scale.file() as path:
            fill_for_sitq(path, noop, count)
            last = limits.last_id(path)
            async with TaskQueue(SQLiteBackend(path, durability="fast")) as queue:
                # First, and in a slot of its own.
                handles = [await queue.options(priority=-9).enqueue(storm, RATE)] if stormy else []
                start = time.perf_counter()
                async with Worker(queue, concurrency=CONCURRENCY + stormy):
                    await queue.get_result(last, timeout=_PATIENCE)
                    end = time.perf_counter()
                    for handle in handles:
                        await handle.cancel(timeout=_PATIENCE)
                return count / (end - start)

    return await compare(
        f"drain, concurrency {CONCURRENCY}, beside {RATE:,} progress calls a second",
        lambda count: drained(count, stormy=True),
        lambda count: drained(count, stormy=False),
        scale,
        step=CONCURRENCY,
        note="limit: the same drain alone; fast",
    )
