"""From the call of `enqueue` to the first line of the task, in a worker that has nothing else to do."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from benchmarks import limits
from benchmarks.measure import DURABILITIES, Figure, Scale, Target, percentile
from benchmarks.process import child
from benchmarks.tasks import stamp
from sitq import TaskHandle, TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend

TARGETS = {50: Target("value", "<=", 2.0), 99: Target("value", "<=", 10.0)}
_SETTLE = 0.3

type Ring = Callable[[], Awaitable[int]]
"""Enqueues one task and returns the instant before it did."""


async def wakeup(scale: Scale) -> AsyncIterator[Figure]:
    """Wake-up latency p50 and p99 of an idle worker, in this process and in another one."""
    for durability in DURABILITIES:
        with scale.file() as path, scale.file() as other:
            limits.connect(other, durability).close()
            async with (
                TaskQueue(SQLiteBackend(path, durability=durability)) as queue,
                Worker(queue),
                limits.aconnect(other, durability) as db,
            ):
                bell = asyncio.Event()
                loop = asyncio.create_task(limits.serve_here(db, bell))
                handles: list[TaskHandle[int]] = []
                starts = await _samples(scale, _ours(queue, handles), _limit_here(db, bell))
                loop.cancel()
                for figure in await _figures(f"here, {durability}", starts, handles, other, targets=False):
                    yield figure
    for durability in DURABILITIES:
        with scale.file() as path, scale.file() as other:
            limits.connect(other, durability).close()
            async with (
                TaskQueue(SQLiteBackend(path, durability=durability)) as queue,
                limits.aconnect(other, durability) as db,
                child("benchmarks.children.worker", path, durability) as worker,
                child("benchmarks.children.listener", other, durability) as listener,
            ):
                await worker.answer()
                port = (await listener.answer())["port"]
                handles = []
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.connect(("127.0.0.1", port))
                    starts = await _samples(scale, _ours(queue, handles), _limit_there(db, sock))
                for figure in await _figures(
                    f"other process, {durability}", starts, handles, other, targets=True
                ):
                    yield figure


def _ours(queue: TaskQueue, handles: list[TaskHandle[int]]) -> Ring:
    async def ring() -> int:
        start = time.monotonic_ns()
        handles.append(await queue.enqueue(stamp, 0))
        return start

    return ring


def _limit_here(db: limits.Database, bell: asyncio.Event) -> Ring:
    async def ring() -> int:
        start = time.monotonic_ns()
        await limits.enqueue_by_transaction(db, stamp, [(0,)])
        bell.set()
        return start

    return ring


def _limit_there(db: limits.Database, sock: socket.socket) -> Ring:
    async def ring() -> int:
        start = time.monotonic_ns()
        await limits.enqueue_and_ring(db, stamp, (0,), sock)
        return start

    return ring


async def _samples(scale: Scale, ours: Ring, limit: Ring) -> tuple[list[int], list[int]]:
    """Ring both by turns with a random pause of 5 to 20 ms before each."""
    chance = random.Random(1)
    await asyncio.sleep(_SETTLE)
    starts: tuple[list[int], list[int]] = ([], [])
    for _ in range(scale.count(300, 30)):
        for ring, found in zip((ours, limit), starts, strict=True):
            await asyncio.sleep(chance.uniform(0.005, 0.02))
            found.append(await ring())
    await asyncio.sleep(_SETTLE)
    return starts


async def _figures(
    where: str,
    starts: tuple[list[int], list[int]],
    handles: list[TaskHandle[int]],
    other: Path,
    *,
    targets: bool,
) -> list[Figure]:
    ours = [
        ((await handle.result(timeout=10)) - start) / 1e6
        for start, handle in zip(starts[0], handles, strict=True)
    ]
    limit = [(stamped - start) / 1e6 for start, stamped in zip(starts[1], limits.results(other), strict=True)]
    return [
        Figure(
            f"wake-up p{share}, {where}",
            "ms",
            value := percentile(ours, share / 100),
            bound := percentile(limit, share / 100),
            value / bound,
            TARGETS[share] if targets else None,
            len(ours),
            "limit: one hop to insert, "
            + ("a datagram" if targets else "an asyncio.Event")
            + ", one hop to reserve",
        )
        for share in TARGETS
    ]
