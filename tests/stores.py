"""The storages that tests run on. A new one is one line in `BACKENDS`: conformance and laboratory take it from here."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.clock import Clock
from tests.support import PATIENCE


class Store(NamedTuple):
    """A kind of backend.

    Attributes:
        make: A backend object on the store that lives in this folder.
        shared: Several objects work on one store, and it outlives all of them.
        survives_close: The tasks are still there when the same object is opened again.
    """

    name: str
    make: Callable[[Path, Clock], Backend]
    shared: bool = True
    survives_close: bool = True


BACKENDS = [
    Store("memory", lambda folder, clock: MemoryBackend(clock=clock), shared=False),
    Store(
        "sqlite", lambda folder, clock: SQLiteBackend(folder / "tasks.db", clock=clock, busy_timeout=PATIENCE)
    ),
    Store(
        "sqlite-in-memory",
        lambda folder, clock: SQLiteBackend(":memory:", clock=clock),
        shared=False,
        survives_close=False,
    ),
]
