"""A view of a queue that enqueues in an open transaction of the application."""

from typing import Unpack

from sitq.enqueuer import Enqueue, Enqueuer
from sitq.options import GivenOptions, TaskOptions


class TransactionEnqueuer(Enqueuer):
    """A view of a queue that enqueues in an open transaction of the application. Made by `TaskQueue.within`."""

    def __init__(self, enqueue: Enqueue) -> None:
        super().__init__(enqueue, TaskOptions())

    def options(self, **given: Unpack[GivenOptions]) -> Enqueuer:
        """As `TaskQueue.options`, in the transaction."""
        return Enqueuer(self._enqueue, TaskOptions(**given))
