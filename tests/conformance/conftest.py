"""The conformance suite: what every backend must do, one file a verb. A new backend is one line in `BACKENDS`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.clock import Clock
from tests.support import PATIENCE, FakeClock


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

CLIENTS = 4


def only(**wanted: bool) -> pytest.MarkDecorator:
    """Run a test with those backends alone that are of this kind."""
    stores = [
        store for store in BACKENDS if all(getattr(store, name) is value for name, value in wanted.items())
    ]
    return pytest.mark.parametrize("store", stores, indirect=True, ids=lambda store: store.name)


@pytest.fixture(params=BACKENDS, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Store:
    kind: Store = request.param
    return kind


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def backend(store: Store, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Backend]:
    backend = store.make(tmp_path, clock)
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
async def clients(
    store: Store, backend: Backend, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[list[Backend]]:
    """Several users of one store: backend objects of their own where the store can be shared."""
    if not store.shared:
        yield [backend] * CLIENTS
        return
    async with AsyncExitStack() as stack:
        clients = [backend]
        for _ in range(CLIENTS - 1):
            client = store.make(tmp_path, clock)
            await client.open()
            stack.push_async_callback(client.close)
            clients.append(client)
        yield clients
