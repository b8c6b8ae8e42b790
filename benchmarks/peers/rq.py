"""RQ, with a process for each job as it comes, and without."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

_FAILS = "fails, unless it has retries left"
PEER = Peer(
    "rq",
    ("rq", "redis"),
    "Redis",
    (
        Setting("", EACH_SECOND, results=True, crash=_FAILS),
        Setting("SimpleWorker", EACH_SECOND, results=True, crash=_FAILS),
    ),
    runs="one at a time",
    most=1,
    note="Worker forks for each job, SimpleWorker does not",
)


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


def _open(place: Place) -> Any:
    from redis import Redis
    from rq import Queue

    return Queue("default", connection=Redis.from_url(place.url))


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`enqueue` and `enqueue_many`."""
    queue = _open(place)

    def enqueue_many(task: str, numbers: range) -> None:
        queue.enqueue_many([queue.prepare_data(PLAIN[task], (number,)) for number in numbers])

    yield Client(lambda task, number: queue.enqueue(PLAIN[task], number), enqueue_many)
    queue.connection.close()


def work(place: Place, concurrency: int) -> None:
    """Its worker."""
    from rq import SimpleWorker, Worker

    queue = _open(place)
    kind = SimpleWorker if place.setting else Worker
    kind([queue], connection=queue.connection).work(logging_level="ERROR")
