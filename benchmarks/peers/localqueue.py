"""localqueue: a queue in Rust on SQLite with leases, and a worker that runs one job at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import NOT_SYNCED, SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

PEER = Peer(
    "localqueue",
    ("localqueue",),
    "SQLite",
    (Setting("durable", SYNCED, results=False), Setting("", NOT_SYNCED, results=False)),
    runs="one at a time",
    most=1,
)


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _open(place: Place) -> Any:
    from localqueue import DurabilityMode, SimpleQueue

    mode = DurabilityMode.DURABLE if place.setting == "durable" else DurabilityMode.RELAXED
    return SimpleQueue(str(place.folder), durability=mode)


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`put` and `put_many`."""
    with _open(place) as queue:
        yield Client(
            lambda task, number: queue.put([task, number]),
            lambda task, numbers: queue.put_many([[task, number] for number in numbers]),
        )


def work(place: Place, concurrency: int) -> None:
    """Its worker."""
    from localqueue import Worker

    Worker(_open(place), lambda job: PLAIN[job.data[0]](job.data[1])).run()
