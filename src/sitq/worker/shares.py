"""From which queues a worker takes first: from all alike, by weight, or strictly one after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from sitq.config import WorkerConfig
from sitq.model import Reserved

type Reserve = Callable[[Sequence[str] | None, int], Awaitable[Reserved]]
"""Reserves up to so many tasks of these queues."""


async def take(config: WorkerConfig, shares: "Shares | None", limit: int, reserve: Reserve) -> Reserved:
    """Reserve up to `limit` tasks. Raises what `reserve` raises, unless another call of it has found something."""
    queues = config.queues
    if queues is not None and config.strict:
        return await _in_order(queues, limit, reserve)
    if queues is not None and shares is not None:
        return await _by_share(queues, shares.split(limit), reserve)
    return await reserve(queues, limit)


async def _in_order(queues: Sequence[str], limit: int, reserve: Reserve) -> Reserved:
    answers: list[Reserved | BaseException] = []
    left = limit
    for queue in queues:
        answers += await asyncio.gather(reserve([queue], left), return_exceptions=True)
        left = limit - sum(len(answer.tasks) for answer in answers if isinstance(answer, Reserved))
        if left == 0 or isinstance(answers[-1], BaseException):
            break
    return combine(answers)


async def _by_share(queues: Sequence[str], shares: Sequence[int], reserve: Reserve) -> Reserved:
    # At once: a storage that groups what comes together makes one transaction of it.
    calls = [reserve([queue], share) for queue, share in zip(queues, shares, strict=True) if share]
    found = combine(await asyncio.gather(*calls, return_exceptions=True))
    left = sum(shares) - len(found.tasks)
    if not left:
        return found
    # What one queue leaves is for the others.
    answers = await asyncio.gather(reserve(queues, left), return_exceptions=True)
    return combine([found._replace(next_due_at=None), *answers])


def combine(answers: Iterable[Reserved | BaseException]) -> Reserved:
    """Put answers together. What was reserved must be run, so an error counts only if there is nothing beside it."""
    found = Reserved([])
    errors: list[BaseException] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            errors.append(answer)
            continue
        due = [at for at in (found.next_due_at, answer.next_due_at) if at is not None]
        found = Reserved(found.tasks + answer.tasks, min(due, default=None))
    if errors and not found.tasks:
        raise errors[0]
    return found


class Shares:
    """Smooth weighted round robin: whatever the number of slots at a time, over time each queue gets its share.

    Known from nginx: each turn every queue earns its weight, and the one with most credit gets the slot and pays for it
    with the sum of all weights. So a weight of 3 beside 1 gives a a b a, and not a a a b.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._weights = weights
        self._credits = [0] * len(weights)
        self._total = sum(weights)

    def split(self, slots: int) -> list[int]:
        """Return how many of these slots each queue gets."""
        whole, rest = divmod(slots, self._total)
        shares = [whole * weight for weight in self._weights]
        for _ in range(rest):
            self._credits = [
                credit + weight for credit, weight in zip(self._credits, self._weights, strict=True)
            ]
            best = self._credits.index(max(self._credits))
            self._credits[best] -= self._total
            shares[best] += 1
        return shares
