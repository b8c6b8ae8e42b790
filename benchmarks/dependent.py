"""What it costs that tasks wait for others: a wide fan-in and a long chain, beside as many tasks that do not."""

import itertools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from statistics import median

from benchmarks.measure import Figure, Scale, stopwatch
from benchmarks.stored import opened
from benchmarks.tasks import noop
from sitq.backends.sqlite import SQLiteBackend
from sitq.ids import new_id
from sitq.model import Edge, NewTask, Succeeded
from sitq.serialization import encode_call
from sitq.task import Call

WIDE = 10_000
DEEP = 1_000
BATCH = 100
_DAY = timedelta(days=1)


async def dependent(scale: Scale) -> AsyncIterator[Figure]:
    """Store, reserve and complete 10,000 tasks and one that waits for them; and a chain of 1,000, one after another."""
    yield await _beside(scale, "a fan-in of {:,}", _fan_in, scale.count(WIDE), BATCH)
    yield await _beside(scale, "a chain of {:,}", _chain, scale.count(DEEP), 1)


type Shape = Callable[[int], list[NewTask]]


async def _beside(scale: Scale, name: str, shape: Shape, count: int, at_once: int) -> Figure:
    values: list[float] = []
    bounds: list[float] = []
    with scale.file() as path, scale.file() as other:
        async with opened(path) as ours, opened(other) as free:
            for number in range(scale.rounds):
                turns: list[tuple[SQLiteBackend, Shape, list[float]]] = [
                    (ours, shape, values),
                    (free, _independent, bounds),
                ]
                for backend, make, found in turns[:: 1 if number % 2 == 0 else -1]:
                    found.append(len(tasks := make(count)) / await _through(backend, tasks, at_once))
    return Figure(
        name.format(count),
        "tasks/s",
        median(values),
        median(bounds),
        median(value / bound for value, bound in zip(values, bounds, strict=True)),
        samples=scale.rounds,
        note=f"stored in one batch, reserved and completed {at_once} at once; limit: as many without edges; fast",
    )


async def _through(backend: SQLiteBackend, tasks: list[NewTask], at_once: int) -> float:
    """Seconds from storing tasks to the end of the last one."""
    with stopwatch() as taken:
        await backend.enqueue(tasks)
        left = len(tasks)
        while left:
            reserved, _ = await backend.reserve("bench", None, at_once, _DAY)
            assert reserved
            await backend.complete([Succeeded(task.held, b"") for task in reserved])
            left -= len(reserved)
    return taken()


def _task(*parents: str) -> NewTask:
    payload = encode_call(Call(noop, (1,), {}), None, max_payload=1024)
    return NewTask(new_id(), "benchmarks.tasks.noop", payload, edges=tuple(map(Edge, parents)))


def _independent(count: int) -> list[NewTask]:
    return [_task() for _ in range(count)]


def _fan_in(count: int) -> list[NewTask]:
    tasks = _independent(count)
    return [*tasks, _task(*(task.id for task in tasks))]


def _chain(count: int) -> list[NewTask]:
    first = _task()
    return list(itertools.accumulate(range(count - 1), lambda before, _: _task(before.id), initial=first))
