"""The storages that integration tests run on, and a queue on each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sitq import TaskQueue
from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "memory":
        return MemoryBackend()
    return SQLiteBackend(tmp_path / "tasks.db", durability="fast")


@pytest.fixture
async def queue(backend: Backend) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(backend) as queue:
        yield queue
