"""pgqueuer, in batches of 10 as it comes, and of 100."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import burn, noop

PEER = Peer(
    "pgqueuer",
    ("pgqueuer", "asyncpg"),
    "PostgreSQL",
    (Setting("", SYNCED, results=False), Setting("batch 100", SYNCED, results=False)),
    runs="coroutines",
    note="a pool of connections enqueues, one connection works, as in its documentation",
)


def prepare(place: Place) -> None:
    """Its tables."""
    import asyncpg
    from pgqueuer.adapters.persistence.queries import Queries
    from pgqueuer.db import AsyncpgDriver

    async def main() -> None:
        connection = await asyncpg.connect(place.url)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    asyncio.run(main())


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`Queries.enqueue` of one and of many."""
    import asyncpg
    from pgqueuer.adapters.persistence.queries import Queries
    from pgqueuer.db import AsyncpgPoolDriver

    async with asyncpg.create_pool(place.url) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))

        async def enqueue(task: str, number: int) -> None:
            await queries.enqueue(task, str(number).encode())

        async def enqueue_many(task: str, numbers: range) -> None:
            payloads: list[bytes | None] = [str(number).encode() for number in numbers]
            await queries.enqueue([task] * len(payloads), payloads, [0] * len(payloads))

        yield Client(enqueue, enqueue_many)


def work(place: Place, concurrency: int) -> None:
    """Its worker."""
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver

    batch = min(100 if place.setting else 10, concurrency)

    async def main() -> None:
        worker = PgQueuer(AsyncpgDriver(await asyncpg.connect(place.url)))

        @worker.entrypoint("noop")
        async def _noop(job: Any) -> None:
            noop(int(job.payload))

        @worker.entrypoint("burn")
        async def _burn(job: Any) -> None:
            burn(int(job.payload))

        await worker.run(batch_size=batch, max_concurrent_tasks=max(concurrency, 2 * batch))

    asyncio.run(main())
