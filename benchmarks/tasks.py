"""Tasks that do little. In a module of their own, so that they travel by reference and a worker loads nothing else."""

import asyncio
import time

from sitq import current_task


async def noop(number: int) -> int:
    return number


def noop_sync(number: int) -> int:
    return number


def burn(number: float) -> float:
    """Compute for some milliseconds."""
    total = number
    for step in range(100_000):
        total += step & 7
    return total


def sleep_sync(span: float) -> None:
    time.sleep(span)


async def stamp(number: int) -> int:
    """Return the instant of its first line; comparable between the processes of one machine."""
    return time.monotonic_ns()


async def storm(rate: int) -> None:
    """Say how far it has come, so many times a second, until it is cancelled."""
    current = current_task()
    start, said = time.monotonic(), 0
    while True:
        await asyncio.sleep(0.005)
        due = int((time.monotonic() - start) * rate)
        for number in range(said, due):
            current.progress(number % 100)
        said = due
