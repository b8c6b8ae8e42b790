"""Tasks for child processes: in a module of their own, which imports little."""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sitq import Cancel, Retry, Snooze, current_task, resource

kept: list[Any] = []


class Odd(Exception):
    """Known by its class alone."""


def pid() -> int:
    return os.getpid()


async def loop_and_pid(value: int) -> tuple[int, int, bool]:
    await asyncio.sleep(0)
    return value, os.getpid(), current_task().cancelled


def echo(value: Any) -> Any:
    return value


REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="none")


@dataclass
class Shop:
    pid: int
    loop: asyncio.AbstractEventLoop


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    yield Shop(os.getpid(), asyncio.get_running_loop())
    Path(os.environ["SHOP_CLOSED"]).write_text(str(os.getpid()))


@asynccontextmanager
async def shop_of(worker: int) -> AsyncIterator[Shop]:
    if os.getpid() != worker:
        raise ConnectionError("only for the worker itself")
    yield Shop(worker, asyncio.get_running_loop())


async def leave_one_behind() -> tuple[str, int, bool]:
    shop = resource(Shop)
    asyncio.create_task(asyncio.Event().wait(), name="left behind")  # noqa: RUF006
    return REQUEST_ID.get(), shop.pid, shop.loop is asyncio.get_running_loop()


async def count_left() -> int:
    return sum(task.get_name() == "left behind" for task in asyncio.all_tasks())


def request_and_shop() -> tuple[str, int]:
    return REQUEST_ID.get(), resource(Shop).pid


def names_of(values: list[Any]) -> list[str]:
    return [type(value).__name__ for value in values]


def about() -> tuple[Any, ...]:
    task = current_task()
    return task.name, task.queue, task.attempt, task.crashes, dict(task.metadata), dict(task.context)


def talk() -> None:
    task = current_task()
    for percent in range(100):
        task.progress(percent)
    task.progress(100, "done")
    task.log("a line")
    task.publish({"half": 0.5})
    print("out of the child", flush=False)
    print("err of the child", file=sys.stderr)


def fail_oddly() -> None:
    raise Odd("on purpose")


def say_verb(kind: str) -> str:
    if current_task().attempt > 1 or Path(kind).exists():
        return "again"
    if kind == "retry":
        raise Retry(0)
    if kind == "cancel":
        raise Cancel("no need")
    Path(kind).touch()
    raise Snooze(0)


def unpicklable() -> Any:
    return threading.Lock()


def hold(marker: str) -> None:
    """Never give the interpreter lock back, and hear no signal that can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(marker).write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)


def hold_once(marker: str) -> str:
    if current_task().attempt == 1:
        hold(marker)
    return "in time"


def with_a_child_of_its_own(marker: str) -> None:
    own = os.fork()
    if own:
        Path(f"{marker}.new").write_text(str(own))
        Path(f"{marker}.new").rename(marker)
    while True:
        time.sleep(600)


def die(how: str, attempts: int = 1000) -> str:
    if current_task().attempt > attempts:
        return "alive"
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)
    return "dead"


def wait_for(marker: str, until: str) -> str:
    Path(marker).write_text(str(os.getpid()))
    while not Path(until).exists():
        time.sleep(0.005)
    return "waited"


def see_the_wish(marker: str) -> str:
    Path(marker).touch()
    while not current_task().cancelled:
        time.sleep(0.001)
    Path(f"{marker}.seen").touch()
    return "half of it"


async def be_cancelled(marker: str) -> None:
    Path(marker).touch()
    try:
        await asyncio.sleep(600)
    finally:
        Path(f"{marker}.seen").touch()


def use(size: int) -> int:
    return len(bytearray(size))


def keep(size: int) -> int:
    kept.append(b"x" * size)
    return os.getpid()
