"""The bound on concurrency: a slot is taken before a task is reserved and given back when its run has ended."""

from collections.abc import Callable


class Slots:
    """Counts. Used on the worker's loop only.

    Attributes:
        on_free: Called when slots are given back and somebody waits for one, or when all are free.
        awaited: Somebody waits for a slot.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self.on_free: Callable[[], None] = _nothing
        self.awaited = False

    @property
    def free(self) -> int:
        return self._size - self._taken

    @property
    def unused(self) -> bool:
        """True when nothing is running or about to."""
        return self._taken == 0

    def take(self, count: int = 1) -> None:
        """Take slots; the caller has looked at `free` in the same turn of the loop."""
        assert count <= self.free, "more slots taken than there are"
        self._taken += count

    def put_back(self, count: int) -> None:
        """Free slots that nothing was found for. Nobody is told: whoever took them knows."""
        self._taken -= count

    def give_back(self, count: int = 1) -> None:
        """Free slots and say so, if that changes something for somebody."""
        if count:
            self._taken -= count
            if self.awaited or not self._taken:
                self.on_free()


def _nothing() -> None:
    pass
