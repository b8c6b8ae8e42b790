"""The conformance suite: what every backend must do, one file a verb. The backends are those of `tests.stores`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sitq.backends.base import Backend
from tests.stores import BACKENDS, Store
from tests.support import FakeClock

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
