"""Tasks that do nothing. In a module of their own, so that they travel by reference and a worker loads nothing else."""

import time


async def noop(number: int) -> int:
    return number


def noop_sync(number: int) -> int:
    return number


async def stamp(number: int) -> int:
    """Return the instant of its first line; comparable between the processes of one machine."""
    return time.monotonic_ns()
