"""repid on streams of Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer(
    "repid", ("repid", "redis"), "Redis", (Setting("", EACH_SECOND, results=False),), runs="coroutines"
)


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


def _open(place: Place) -> Any:
    from repid import Repid
    from repid.connections.redis import RedisServer

    app = Repid(title="bench", version="1")
    app.servers.register_server("default", RedisServer(place.url), is_default=True)
    return app


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`send_message_json`."""
    app = _open(place)

    async def enqueue(task: str, number: int) -> None:
        await app.send_message_json(channel="default", payload={"number": number}, headers={"topic": task})

    async with app.servers.default.connection():
        yield Client(enqueue)


def work(place: Place, concurrency: int) -> None:
    """Its worker."""
    from repid import Router

    app, router = _open(place), Router()
    for name, func in COROUTINES.items():
        router.actor(func, name=name)
    app.include_router(router)

    async def main() -> None:
        async with app.servers.default.connection():
            await app.run_worker(tasks_limit=concurrency)

    asyncio.run(main())
