"""taskito: a scheduler in Rust on SQLite, as it comes and with faster polling in larger batches."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import NOT_SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

PEER = Peer(
    "taskito",
    ("taskito",),
    "SQLite",
    (
        Setting("", NOT_SYNCED, results=True),
        Setting("tuned", NOT_SYNCED, results=True),
    ),
    runs="threads",
    note="tuned: a batch of 100, and a push when a task is enqueued",
)


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _open(place: Place, concurrency: int = 1) -> tuple[Any, dict[str, Any]]:
    from taskito import Queue

    tuned = {"scheduler_batch_size": 100, "scheduler_poll_interval_ms": 5, "push_dispatch": True}
    more: dict[str, Any] = tuned if place.setting == "tuned" else {}
    queue = Queue(db_path=str(place.folder / "tasks.db"), workers=concurrency, **more)
    return queue, {name: queue.task(name=name)(func) for name, func in PLAIN.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`delay` and `enqueue_many`."""
    queue, tasks = _open(place)

    def enqueue_many(task: str, numbers: range) -> None:
        queue.enqueue_many(task, [(number,) for number in numbers])

    yield Client(lambda task, number: tasks[task].delay(number), enqueue_many)
    queue.close()


def work(place: Place, concurrency: int) -> None:
    """Its worker with threads."""
    queue, _ = _open(place, concurrency)
    queue.run_worker()
