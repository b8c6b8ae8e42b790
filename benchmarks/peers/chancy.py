"""Chancy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer(
    "chancy",
    ("chancy", "psycopg"),
    "PostgreSQL",
    (Setting("", SYNCED, results=False),),
    runs="coroutines",
    note="AsyncExecutor with eager_polling; by default it looks every five seconds and runs processes",
)


def prepare(place: Place) -> None:
    """Its tables."""
    from chancy import Chancy

    async def main() -> None:
        async with Chancy(place.url) as chancy:
            await chancy.migrate()

    asyncio.run(main())


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`push` and `push_many`."""
    from chancy import Chancy, Job

    def job(task: str, number: int) -> Any:
        return Job.from_func(COROUTINES[task], kwargs={"number": number})

    async with Chancy(place.url) as chancy:

        async def enqueue(task: str, number: int) -> None:
            await chancy.push(job(task, number))

        async def enqueue_many(task: str, numbers: range) -> None:
            async for _ in chancy.push_many(
                [job(task, number) for number in numbers], batch_size=len(numbers)
            ):
                pass

        yield Client(enqueue, enqueue_many)


def work(place: Place, concurrency: int) -> None:
    """Its worker, for a queue with so many at a time."""
    from chancy import Chancy, Queue, Worker

    executor = "chancy.executors.asyncex.AsyncExecutor"

    async def main() -> None:
        async with Chancy(place.url) as chancy:
            queue = Queue("default", concurrency=concurrency, executor=executor, eager_polling=True)
            await chancy.declare(queue, upsert=True)
            async with Worker(chancy) as worker:
                await worker.wait_for_shutdown()

    asyncio.run(main())
