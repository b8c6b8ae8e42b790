"""arq. It needs an older client for Redis than the other peers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, Client, Peer, Place, Setting
from benchmarks.peers.work import burn, noop

PEER = Peer("arq", ("arq", "redis"), "Redis", (Setting("", EACH_SECOND, results=True),), runs="coroutines")


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


async def _noop(ctx: dict[str, Any], number: int) -> int:
    return noop(number)


async def _burn(ctx: dict[str, Any], number: int) -> int:
    return burn(number)


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`enqueue_job`."""
    from arq import create_pool
    from arq.connections import RedisSettings

    pool = await create_pool(RedisSettings.from_dsn(place.url))

    async def enqueue(task: str, number: int) -> None:
        await pool.enqueue_job(task, number)

    yield Client(enqueue)
    await pool.aclose()


def work(place: Place, concurrency: int) -> None:
    """Its worker, which looks every half a second."""
    from arq import Worker, func
    from arq.connections import RedisSettings

    functions = [func(_noop, name="noop"), func(_burn, name="burn")]
    settings = RedisSettings.from_dsn(place.url)

    async def main() -> None:
        worker = Worker(functions, redis_settings=settings, max_jobs=concurrency, handle_signals=False)
        await worker.async_run()

    asyncio.run(main())
