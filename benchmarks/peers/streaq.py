"""streaq."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer(
    "streaq", ("streaq", "coredis"), "Redis", (Setting("", EACH_SECOND, results=True),), runs="coroutines"
)


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


def _open(place: Place, concurrency: int = 16) -> tuple[Any, dict[str, Any]]:
    from streaq import Worker

    worker = Worker(redis_url=place.url, concurrency=concurrency)
    return worker, {name: worker.task(name=name)(func) for name, func in COROUTINES.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`enqueue` and `enqueue_many`."""
    worker, tasks = _open(place)

    async def enqueue(task: str, number: int) -> None:
        await tasks[task].enqueue(number)

    async def enqueue_many(task: str, numbers: range) -> None:
        await worker.enqueue_many([tasks[task].enqueue(number) for number in numbers])

    async with worker:
        yield Client(enqueue, enqueue_many)


def work(place: Place, concurrency: int) -> None:
    """Its worker, with the event loop that it chooses."""
    worker, _ = _open(place, concurrency)
    worker.run_sync()
