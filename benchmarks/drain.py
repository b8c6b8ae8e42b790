"""Taking tasks out: a worker with nothing to do but reserve, run, and store results."""

from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks import limits
from benchmarks.measure import DURABILITIES, Durability, Figure, Scale, Target, compare, stopwatch
from benchmarks.process import child
from benchmarks.tasks import noop, noop_sync
from sitq import TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend
from sitq.serialization import encode_call
from sitq.task import Call

FAST_ENOUGH = Target("ratio", ">=", 0.6)


async def drain(scale: Scale) -> AsyncIterator[Figure]:
    """Drain coroutine functions at concurrency 1, 10 and 100, plain functions at 100, and with two processes."""
    for concurrency in (1, 10, 100):
        for durability in DURABILITIES:
            yield await _one_process(scale, durability, concurrency, plain=False)
    for durability in DURABILITIES:
        yield await _one_process(scale, durability, 100, plain=True)
    for durability in DURABILITIES:
        yield await _two_processes(scale, durability)


async def _one_process(scale: Scale, durability: Durability, concurrency: int, *, plain: bool) -> Figure:
    func = noop_sync if plain else noop

    async def ours(count: int) -> float:
        with scale.file() as path:
            fill_for_sitq(path, func, count)
            return count / await drain_once(path, durability, concurrency)

    async def limit(count: int) -> float:
        with scale.file() as path:
            limits.fill(path, func, count)
            async with limits.aconnect(path, durability) as db:
                with stopwatch() as taken:
                    done = await (limits.drain_in_threads if plain else limits.drain)(db, concurrency)
                assert done == count
                return count / taken()

    kind = "plain functions" if plain else "coroutine functions"
    return await compare(
        f"drain, concurrency {concurrency}, {kind}, {durability}",
        ours,
        limit,
        scale,
        step=max(concurrency, 10),
        target=FAST_ENOUGH if concurrency == 100 and not plain else None,
        note=f"limit: {concurrency} completed and {concurrency} reserved a transaction"
        + (", run on a thread pool" if plain else ""),
    )


async def _two_processes(scale: Scale, durability: Durability) -> Figure:
    async with child("benchmarks.children.drainer") as one, child("benchmarks.children.drainer") as two:

        async def run(who: str, path: Path, count: int) -> float:
            for each in (one, two):
                each.tell("open", who, path, durability, 100)
            for each in (one, two):
                await each.answer()
            for each in (one, two):
                each.tell("go")
            times = [await one.answer(), await two.answer()]
            return count / (max(time["end"] for time in times) - min(time["start"] for time in times)) * 1e9

        async def ours(count: int) -> float:
            with scale.file() as path:
                fill_for_sitq(path, noop, count)
                return await run("sitq", path, count)

        async def limit(count: int) -> float:
            with scale.file() as path:
                limits.fill(path, noop, count)
                return await run("limit", path, count)

        return await compare(
            f"drain, two processes of concurrency 100, {durability}",
            ours,
            limit,
            scale,
            step=200,
            note="limit: two such loops, which take turns by a lock on a side file",
        )


def fill_for_sitq(path: Path, func: object, count: int) -> None:
    """Make a file with `count` due tasks as sitq writes them."""
    limits.fill(
        path,
        func,  # type: ignore[arg-type]
        count,
        lambda number: encode_call(Call(func, (number,), {}), None, max_payload=1024),  # type: ignore[arg-type]
    )


async def drain_once(path: Path, durability: Durability, concurrency: int) -> float:
    """Drain a file with a worker. Returns the seconds, its start and shutdown included."""
    async with TaskQueue(SQLiteBackend(path, durability=durability)) as queue:
        worker = Worker(queue, concurrency=concurrency)
        with stopwatch() as taken:
            await worker.run(until_idle=True)
        return taken()
