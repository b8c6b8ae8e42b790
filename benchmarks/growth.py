"""What each step in the life of a task costs while the file grows to ten million tasks."""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from benchmarks.drain import fill_for_sitq
from benchmarks.measure import Figure, Scale, Target
from benchmarks.stored import BATCH, FAR_FUTURE, FINISHED, LEASE, WORKER, add, opened
from benchmarks.tasks import noop
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import NewTask, ReservedTask, Succeeded
from sitq.serialization import encode_call, encode_value
from sitq.task import Call

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_FLAT = Target("ratio", "<=", 1.5)
_AT_ONCE = 1_000_000
_numbers = itertools.count(1)


class Steps:
    """Takes tasks through their life, step by step, on one file."""

    def __init__(self, backend: SQLiteBackend) -> None:
        self._backend = backend
        self._payload = encode_call(Call(noop, (1,), {}), None, max_payload=1024)
        self._held: list[ReservedTask] = []

    async def enqueue(self) -> None:
        """Store a batch."""
        name = "benchmarks.tasks.noop"
        ids = [f"growth{next(_numbers):030d}" for _ in range(BATCH)]
        await self._backend.enqueue([NewTask(each, name, self._payload) for each in ids])

    async def reserve(self) -> None:
        """Take a batch."""
        self._held, _ = await self._backend.reserve(WORKER, None, BATCH, LEASE)
        assert len(self._held) == BATCH

    async def complete(self) -> None:
        """End that batch."""
        result = encode_value(1, max_payload=100)
        await self._backend.complete([Succeeded(task.held, result) for task in self._held])


async def growth(scale: Scale) -> AsyncIterator[Figure]:
    """Enqueue, reserve and complete 10 with 1 k to 10 M tasks stored, beside 1 k stored. Only when it is named."""
    sizes = SIZES[:3] if scale.quick else SIZES
    with scale.file() as path, scale.file() as other:
        for file in (path, other):
            fill_for_sitq(file, noop, BATCH)
            _grow(file, SIZES[0])
        stored = SIZES[0]
        for size in sizes:
            _grow(path, size - stored)
            stored = size
            async for figure in _beside(scale, path, other, size):
                yield figure


async def _beside(scale: Scale, path: Path, other: Path, size: int) -> AsyncIterator[Figure]:
    rounds = scale.count(400, 60)
    async with AsyncExitStack() as stack:
        both = [Steps(await stack.enter_async_context(opened(file))) for file in (path, other)]
        names = ("enqueue", "reserve", "complete")
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
        for number in range(rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for name, which in itertools.product(names, order):
                step: Callable[[], Awaitable[None]] = getattr(both[which], name)
                start = time.perf_counter()
                await step()
                times[name][which].append(time.perf_counter() - start)
    for name, (ours, few) in times.items():
        yield Figure(
            f"{name} {BATCH}, {size:,} stored",
            "ms",
            median(ours) * 1e3,
            median(few) * 1e3,
            median(a / b for a, b in zip(ours, few, strict=True)),
            _FLAT if size > SIZES[0] else None,
            rounds,
            f"limit: the same with {SIZES[0]:,} stored; half finished, half of the far future; fast",
        )


def _grow(path: Path, rows: int) -> None:
    """Add so many tasks by plain SQL: one half finished, one half due in a year."""
    while rows > 0:
        part = min(rows, _AT_ONCE)
        add(path, FINISHED, part // 2)
        add(path, FAR_FUTURE, part - part // 2)
        rows -= part
