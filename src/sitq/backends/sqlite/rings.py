"""Whom a transaction will have to wake."""

from dataclasses import dataclass, field

from sitq.model import TaskId


@dataclass(slots=True)
class Rings:
    """Filled by the operations of a transaction, read after its commit."""

    queues: set[str] = field(default_factory=set[str])
    tasks: list[TaskId] = field(default_factory=list[TaskId])
    cancels: bool = False

    def __bool__(self) -> bool:
        return bool(self.queues or self.tasks or self.cancels)
