"""dramatiq on Redis, without results as it comes, and with them."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

PEER = Peer(
    "dramatiq",
    ("dramatiq", "redis"),
    "Redis",
    (Setting("results", EACH_SECOND, results=True), Setting("", EACH_SECOND, results=False)),
    runs="threads",
)


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker = RedisBroker(url=place.url)
    more: dict[str, Any] = {}
    if place.setting == "results":
        broker.add_middleware(Results(backend=RedisBackend(url=place.url)))
        more = {"store_results": True}
    tasks = {
        name: dramatiq.actor(func, actor_name=name, broker=broker, **more) for name, func in PLAIN.items()
    }
    return broker, tasks


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`send`."""
    broker, tasks = _open(place)
    yield Client(lambda task, number: tasks[task].send(number))
    broker.close()


def work(place: Place, concurrency: int) -> None:
    """Its worker in this process, which its command line starts one of for each process."""
    import dramatiq

    broker, _ = _open(place)
    dramatiq.Worker(broker, worker_threads=concurrency).start()
    signal.pause()
