"""SAQ on Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, Client, Peer, Place, Setting
from benchmarks.peers.work import burn, noop

PEER = Peer("saq", ("saq", "redis"), "Redis", (Setting("", EACH_SECOND, results=True),), runs="coroutines")


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


async def _noop(ctx: Any, *, number: int) -> int:
    return noop(number)


async def _burn(ctx: Any, *, number: int) -> int:
    return burn(number)


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`enqueue`."""
    from saq import Queue

    queue = Queue.from_url(place.url)
    await queue.connect()

    async def enqueue(task: str, number: int) -> None:
        await queue.enqueue(task, number=number)

    yield Client(enqueue)
    await queue.disconnect()


def work(place: Place, concurrency: int) -> None:
    """Its worker."""
    from saq import Queue, Worker

    async def main() -> None:
        queue = Queue.from_url(place.url)
        await queue.connect()
        functions = [("noop", _noop), ("burn", _burn)]
        await Worker(queue, functions, concurrency=concurrency).start()

    asyncio.run(main())
