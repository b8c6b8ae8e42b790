"""sitq: the settings that it has by itself, and without syncs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.peers.interface import Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES
from sitq import TaskQueue, Worker, call
from sitq.backends.sqlite import SQLiteBackend

PEER = Peer(
    "sitq",
    ("sitq", "aiosqlite"),
    "SQLite",
    (
        Setting("full", "each commit synced", results=True),
        Setting("fast", "the operating system syncs later", results=True),
    ),
    runs="coroutines",
)


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _queue(place: Place) -> TaskQueue:
    durability = "fast" if place.setting == "fast" else "full"
    return TaskQueue(SQLiteBackend(place.folder / "tasks.db", durability=durability))


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`TaskQueue.enqueue` and `enqueue_many`."""
    async with _queue(place) as queue:

        async def enqueue(task: str, number: int) -> None:
            await queue.enqueue(COROUTINES[task], number)

        async def enqueue_many(task: str, numbers: range) -> None:
            await queue.enqueue_many([call(COROUTINES[task], number) for number in numbers])

        yield Client(enqueue, enqueue_many)


def work(place: Place, concurrency: int) -> None:
    """A `Worker`."""

    async def main() -> None:
        async with _queue(place) as queue:
            await Worker(queue, concurrency=concurrency).run()

    asyncio.run(main())
