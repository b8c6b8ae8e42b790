"""Tasks for `test_child.py`, in a module of their own, which imports little."""

import asyncio
import os
import resource
import signal
from typing import Any

from sitq import current_task


def add(one: int, other: int) -> int:
    return one + other


async def slow_add(one: int, other: int) -> int:
    await asyncio.sleep(0)
    return one + other


def coroutine_of(one: int, other: int) -> Any:
    """No coroutine function, and yet what it returns has to be awaited."""
    return slow_add(one, other)


def fail() -> None:
    raise ValueError("on purpose")


def talk() -> str:
    task = current_task()
    task.log("a line")
    task.progress(50)
    return task.id


async def wait_to_be_stopped() -> None:
    current_task().log("it runs")
    await asyncio.Event().wait()


def hear_signals() -> str:
    """Signals that end a process that does nothing about them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    return "still here"


def data_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def take(size: int) -> int:
    return len(bytearray(size))
