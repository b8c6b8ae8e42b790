"""Celery on Redis, with results in Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import EACH_SECOND, LOST, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

PEER = Peer(
    "celery",
    ("celery", "kombu", "redis"),
    "Redis",
    (Setting("", EACH_SECOND, results=True, crash=LOST),),
    runs="threads",
    note="acknowledges before it runs, as it does by default",
)


def prepare(place: Place) -> None:
    """Nothing: keys need no table."""


def _open(place: Place) -> tuple[Any, dict[str, Any]]:
    from celery import Celery

    app = Celery("bench", broker=place.url, backend=place.url)
    return app, {name: app.task(func, name=name) for name, func in PLAIN.items()}


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`delay`."""
    app, tasks = _open(place)
    yield Client(lambda task, number: tasks[task].delay(number))
    app.close()


def work(place: Place, concurrency: int) -> None:
    """Its worker with threads."""
    app, _ = _open(place)
    app.worker_main(["worker", "-P", "threads", "-c", str(concurrency), "-l", "ERROR"])
