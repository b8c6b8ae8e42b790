"""The work that every peer does: tasks that mark their first line, so that the same thing is counted for all.

A mark is an instant of the monotonic clock, which the processes of a machine share, in a file that they all map. It
costs less than a microsecond, and tells of each task whether it ran, and when.
"""

import mmap
import os
import struct
import time
from functools import cache
from pathlib import Path
from typing import Final

MOST: Final = 200_000
"""How many tasks a file of marks has room for."""

VARIABLE: Final = "SITQ_BENCH_MARKS"
"""The environment variable by which a worker's process finds the file."""

_MARK: Final = struct.Struct("=Q")


def make(path: Path) -> None:
    """Make an empty file of marks."""
    with path.open("wb") as file:
        file.truncate(MOST * _MARK.size)


def opened(path: Path) -> mmap.mmap:
    """The file of marks, mapped."""
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), MOST * _MARK.size)


def mark_of(marks: mmap.mmap, number: int) -> int:
    """The instant at which a task ran in nanoseconds; 0 if it has not."""
    instant: int = _MARK.unpack_from(marks, number * _MARK.size)[0]
    return instant


@cache
def _mine() -> mmap.mmap:
    return opened(Path(os.environ[VARIABLE]))


def noop(number: int) -> int:
    """Do nothing."""
    _MARK.pack_into(_mine(), number * _MARK.size, time.monotonic_ns())
    return number


def burn(number: int) -> int:
    """Compute for about two milliseconds."""
    _MARK.pack_into(_mine(), number * _MARK.size, time.monotonic_ns())
    total = number
    for step in range(40_000):
        total += step & 7
    return total


async def noop_async(number: int) -> int:
    """Do nothing, as a coroutine function."""
    return noop(number)


async def burn_async(number: int) -> int:
    """Compute for about two milliseconds, as a coroutine function: on the loop, where most of such tasks end up."""
    return burn(number)


PLAIN: Final = {"noop": noop, "burn": burn}
COROUTINES: Final = {"noop": noop_async, "burn": burn_async}
