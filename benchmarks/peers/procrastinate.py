"""procrastinate."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer(
    "procrastinate",
    ("procrastinate", "psycopg"),
    "PostgreSQL",
    (Setting("", SYNCED, results=False, crash="waits until a task of yours looks for it"),),
    runs="coroutines",
)


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=place.url))
    return app, {name: app.task(func, name=name) for name, func in COROUTINES.items()}


def prepare(place: Place) -> None:
    """Its tables."""

    async def main() -> None:
        app, _ = _open(place)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    asyncio.run(main())


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`defer_async` and `batch_defer_async`."""
    app, tasks = _open(place)

    async def enqueue(task: str, number: int) -> None:
        await tasks[task].defer_async(number=number)

    async def enqueue_many(task: str, numbers: range) -> None:
        await tasks[task].batch_defer_async(*({"number": number} for number in numbers))

    async with app.open_async():
        yield Client(enqueue, enqueue_many)


def work(place: Place, concurrency: int) -> None:
    """Its worker."""

    async def main() -> None:
        app, _ = _open(place)
        async with app.open_async():
            await app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)

    asyncio.run(main())
