"""taskiq on a stream of Redis, with results in Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer(
    "taskiq",
    ("taskiq", "taskiq-redis", "redis"),
    "Redis",
    (Setting("", EACH_SECOND, results=True),),
    runs="coroutines",
    note="RedisStreamBroker, which acknowledges; its receiver in this process, not its process manager",
)


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

    results: Any = RedisAsyncResultBackend(place.url, result_ex_time=3600)
    broker = RedisStreamBroker(place.url).with_result_backend(results)
    return broker, {name: broker.register_task(func, name) for name, func in COROUTINES.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`kiq`."""
    broker, tasks = _open(place)
    await broker.startup()

    async def enqueue(task: str, number: int) -> None:
        await tasks[task].kiq(number)

    yield Client(enqueue)
    await broker.shutdown()


def work(place: Place, concurrency: int) -> None:
    """Its receiver."""
    from taskiq.api import run_receiver_task

    broker, _ = _open(place)
    broker.is_worker_process = True
    asyncio.run(run_receiver_task(broker, max_async_tasks=concurrency, run_startup=True))
