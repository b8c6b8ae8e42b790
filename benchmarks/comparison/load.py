"""Puts tasks in: one after another, from a hundred callers at once, and in batches."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.peers import work
from benchmarks.peers.interface import Client

CALLERS: Final = 100
BATCH: Final = 1000
ENOUGH: Final = 1_000
"""As many tasks there should be for a drain, even if it takes longer to put them in."""

_PATIENCE: Final = 8

_MOST: Final = 60_000
_ROOM: Final = work.MOST - 10_000


@dataclass
class Fill:
    """Puts tasks in and knows how many there are: their numbers are those below `next`."""

    client: Client
    next: int = 0

    def numbers(self, count: int) -> range:
        """So many numbers that no task has. Raises `RuntimeError` when there is no room for their marks."""
        if self.next + count > _ROOM:
            raise RuntimeError("no room for the marks of so many tasks")
        self.next += count
        return range(self.next - count, self.next)

    async def one_by_one(self, task: str, seconds: float, most: int = _MOST) -> float:
        """Enqueue one after another. Returns tasks a second."""
        start, first = time.perf_counter(), self.next
        is_async = inspect.iscoroutinefunction(self.client.enqueue)
        enqueue: Any = self.client.enqueue
        while (taken := time.perf_counter() - start) < seconds and self.next - first < most:
            for number in self.numbers(1):
                if is_async:
                    await enqueue(task, number)
                else:
                    enqueue(task, number)
        return (self.next - first) / taken

    async def at_once(self, task: str, seconds: float, most: int = _MOST) -> float:
        """Enqueue from a hundred callers: coroutines, or threads where the interface is synchronous."""
        start, first = time.perf_counter(), self.next
        lock = threading.Lock()

        def more() -> int | None:
            with lock:
                if time.perf_counter() - start >= seconds or self.next - first >= most:
                    return None
                return self.numbers(1)[0]

        if inspect.iscoroutinefunction(self.client.enqueue):
            await asyncio.gather(*(_caller(self.client.enqueue, task, more) for _ in range(CALLERS)))
        else:
            await asyncio.to_thread(_in_threads, self.client.enqueue, task, more)
        return (self.next - first) / (time.perf_counter() - start)

    async def in_batches(self, task: str, seconds: float, most: int = _MOST) -> float | None:
        """Enqueue a thousand with a call, or as many as are wanted. None where there is no such call."""
        if (many := self.client.enqueue_many) is None:
            return None
        start, first = time.perf_counter(), self.next
        while (taken := time.perf_counter() - start) < seconds and self.next - first < most:
            answer = many(task, self.numbers(min(BATCH, most)))
            if inspect.isawaitable(answer):
                await answer
        return (self.next - first) / taken

    async def quickly(self, task: str, seconds: float, most: int = _MOST, enough: int = ENOUGH) -> None:
        """Enqueue in whatever way is the fastest, until there is enough."""
        first, end = self.next, time.perf_counter() + _PATIENCE * seconds
        while (wanted := most - (self.next - first)) > 0 and time.perf_counter() < end:
            if await self.in_batches(task, seconds, wanted) is None:
                await self.at_once(task, seconds, wanted)
            if self.next - first >= min(enough, most):
                break


async def _caller(enqueue: Callable[[str, int], Any], task: str, more: Callable[[], int | None]) -> None:
    while (number := more()) is not None:
        await enqueue(task, number)


def _in_threads(enqueue: Callable[[str, int], Any], task: str, more: Callable[[], int | None]) -> None:
    problems: list[Exception] = []

    def run() -> None:
        try:
            while (number := more()) is not None:
                enqueue(task, number)
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(f"{len(problems)} of {CALLERS} threads failed, the first with {problems[0]!r}")
