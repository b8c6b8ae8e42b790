"""Tasks for `test_child.py`, in a module of their own, which imports little."""

import asyncio
import os
import resource as limits
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sitq import current_task, resource


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
    return limits.getrlimit(limits.RLIMIT_DATA)[0]


def take(size: int) -> int:
    return len(bytearray(size))


@dataclass
class Shop:
    """A resource on the loop of its process, which goes on after each task."""

    loop: asyncio.AbstractEventLoop
    left: list[asyncio.Task[Any]] = field(default_factory=list)


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    shop = Shop(asyncio.get_running_loop())
    yield shop
    assert shop.loop is asyncio.get_running_loop()


async def leave_something_behind() -> bool:
    shop = resource(Shop)
    shop.left.append(asyncio.create_task(asyncio.Event().wait()))
    await asyncio.sleep(0)
    return shop.loop is asyncio.get_running_loop()


async def what_became_of_it() -> list[bool]:
    return [task.cancelled() for task in resource(Shop).left]
