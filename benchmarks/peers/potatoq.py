"""potatoq on SQLite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import NOT_SYNCED, SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

PEER = Peer(
    "potatoq",
    ("potatoq",),
    "SQLite",
    (Setting("durable", SYNCED, results=True), Setting("", NOT_SYNCED, results=True)),
    runs="threads",
)


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    from potatoq import Potatoq

    app = Potatoq("bench", broker=f"sqlite:///{place.folder / 'tasks.db'}")
    app.conf.update(broker_transport_options={"durable": place.setting == "durable"})
    return app, {name: app.task(name=name)(func) for name, func in PLAIN.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`delay`."""
    app, tasks = _open(place)
    yield Client(lambda task, number: tasks[task].delay(number))
    app.close()


def work(place: Place, concurrency: int) -> None:
    """Its worker with one child process of so many threads."""
    app, _ = _open(place)
    app.worker_main(["worker", "-c", "1", "-t", str(concurrency), "-l", "ERROR"])
