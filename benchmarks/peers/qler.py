"""qler on SQLite."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import NOT_SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer("qler", ("qler",), "SQLite", (Setting("", NOT_SYNCED, results=True),), runs="coroutines")


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    from qler import Queue, task

    queue = Queue(str(place.folder / "tasks.db"))
    return queue, {name: task(queue)(func) for name, func in COROUTINES.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`enqueue` and `enqueue_many`."""
    queue, tasks = _open(place)
    await queue.init_db()

    async def enqueue(task: str, number: int) -> None:
        await tasks[task].enqueue(number)

    async def enqueue_many(task: str, numbers: range) -> None:
        path = tasks[task].task_path
        await queue.enqueue_many([{"task_path": path, "args": (number,)} for number in numbers])

    yield Client(enqueue, enqueue_many)
    await queue.close()


def work(place: Place, concurrency: int) -> None:
    """Its worker."""
    from qler import Worker

    queue, _ = _open(place)
    asyncio.run(Worker(queue, concurrency=concurrency).run())
