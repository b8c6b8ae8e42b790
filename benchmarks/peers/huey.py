"""huey on SQLite. A task is taken out of the file before it runs."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import LOST, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

PEER = Peer(
    "huey",
    ("huey",),
    "SQLite",
    (
        Setting("fsync", "each commit synced", results=True, crash=LOST),
        Setting("", "no syncs at all (its default)", results=True, crash=LOST),
    ),
    runs="threads",
    note="`noop` returns a number, which is stored until it is read",
)


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    from huey import SqliteHuey

    queue = SqliteHuey("bench", filename=str(place.folder / "tasks.db"), fsync=place.setting == "fsync")
    return queue, {name: queue.task(name=name)(func) for name, func in PLAIN.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """Calling the task."""
    _, tasks = _open(place)
    yield Client(lambda task, number: tasks[task](number))


def work(place: Place, concurrency: int) -> None:
    """Its consumer with threads, as `huey_consumer -w N` starts it."""
    queue, _ = _open(place)
    consumer = queue.create_consumer(workers=concurrency, worker_type="thread", periodic=False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    consumer.run()
