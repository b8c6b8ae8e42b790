"""Housekeeping: small services of one shape, each a `run_once` that a loop repeats."""

import asyncio
import random
from typing import Final

from sitq.backends.base import Backend
from sitq.errors import BackendError
from sitq.events import Emit, StorageFailed

PRUNE_INTERVAL: Final = 60.0
_PRUNE_BATCH: Final = 1_000


class Pruner:
    """Deletes finished tasks whose `result_ttl` has passed. Any number of workers may do it at once."""

    def __init__(
        self, worker: str, backend: Backend, emit: Emit, *, interval: float = PRUNE_INTERVAL
    ) -> None:
        self._worker = worker
        self._backend = backend
        self._emit = emit
        self._interval = interval

    async def run(self) -> None:
        """Prune until cancelled, at jittered intervals, so that workers started together do not stay together."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                await self.run_once()
            except BackendError as error:
                self._emit(StorageFailed(self._worker, "prune", str(error), self._interval))

    async def run_once(self) -> int:
        """Prune everything that is due now, in batches that keep the write lock free in between. Returns how many."""
        total = 0
        while True:
            pruned = await self._backend.prune(_PRUNE_BATCH)
            total += pruned
            if pruned < _PRUNE_BATCH:
                return total
