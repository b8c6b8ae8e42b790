"""How a worker divides its free slots among its queues: by weight."""

from collections.abc import Sequence


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
