"""tinyjobs on SQLite, results kept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import NOT_SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import COROUTINES

PEER = Peer("tinyjobs", ("tinyjobs",), "SQLite", (Setting("", NOT_SYNCED, results=True),), runs="coroutines")


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    from tinyjobs import TinyJobs

    app = TinyJobs(f"sqlite:///{place.folder / 'tasks.db'}")
    return app, {name: app.task(func, name=name, store_result=True) for name, func in COROUTINES.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`aenqueue`."""
    app, tasks = _open(place)

    async def enqueue(task: str, number: int) -> None:
        await tasks[task].aenqueue(number)

    yield Client(enqueue)
    await app.aclose()


def work(place: Place, concurrency: int) -> None:
    """Its worker."""
    from tinyjobs.worker import Worker

    app, _ = _open(place)
    Worker(app, concurrency=concurrency, async_concurrency=concurrency).run()
