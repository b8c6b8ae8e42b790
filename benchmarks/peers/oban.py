"""Oban for Python, the free edition."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer(
    "oban",
    ("oban", "psycopg"),
    "PostgreSQL",
    (Setting("", SYNCED, results=False),),
    runs="coroutines",
)


@asynccontextmanager
async def _pool(place: Place) -> AsyncIterator[Any]:
    from oban import Oban

    pool = await Oban.create_pool(dsn=place.url)
    yield pool
    await pool.close()


def _tasks() -> dict[str, Any]:
    from oban import job

    return {name: job(queue="default")(func) for name, func in COROUTINES.items()}


def prepare(place: Place) -> None:
    """Its tables."""
    from oban.schema import install

    async def main() -> None:
        async with _pool(place) as pool:
            await install(pool)

    asyncio.run(main())


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`enqueue` and `enqueue_many`."""
    from oban import Oban

    tasks = _tasks()
    async with _pool(place) as pool, Oban(pool=pool) as oban:

        async def enqueue(task: str, number: int) -> None:
            await oban.enqueue(tasks[task].new(number))

        async def enqueue_many(task: str, numbers: range) -> None:
            await oban.enqueue_many(*(tasks[task].new(number) for number in numbers))

        yield Client(enqueue, enqueue_many)


def work(place: Place, concurrency: int) -> None:
    """A server of one queue."""
    from oban import Oban

    _tasks()

    async def main() -> None:
        async with _pool(place) as pool, Oban(pool=pool, queues={"default": concurrency}):
            await asyncio.Event().wait()

    asyncio.run(main())
