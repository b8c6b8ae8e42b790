"""litequeue: a table of messages with `pop` and `done`. It has no worker: the loop is ours."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.peers.interface import NOT_SYNCED, Client, Peer, Place, Setting
from benchmarks.peers.work import PLAIN

PEER = Peer(
    "litequeue",
    ("litequeue",),
    "SQLite",
    (Setting("", NOT_SYNCED, results=False, crash="waits until you call retry_expired"),),
    runs="one at a time",
    most=1,
    note="no worker of its own: a loop of ours pops, runs and marks as done, and looks again after 10 ms",
)
_PAUSE = 0.01


def prepare(place: Place) -> None:
    """Nothing: the file is made when it is opened."""


def _open(place: Place) -> Any:
    from litequeue import LiteQueue

    return LiteQueue(place.folder / "tasks.db", timeout=30)


@asynccontextmanager
async def client(place: Place) -> AsyncIterator[Client]:
    """`put` of a JSON text."""
    queue = _open(place)
    yield Client(lambda task, number: queue.put(json.dumps([task, number])))
    queue.close()


def work(place: Place, concurrency: int) -> None:
    """The loop that its documentation shows."""
    queue = _open(place)
    while True:
        message = queue.pop()
        if message is None:
            time.sleep(_PAUSE)
            continue
        task, number = json.loads(message.data)
        PLAIN[task](number)
        queue.done(message.message_id, claim_id=message.claim_id)
