"""Who waits for whom."""

from collections.abc import Iterable, Sequence

from sitq.model import Edge, Status, TaskId, TaskRecord


class Edges:
    """The edges of the tasks, and how their parents stand. For the holder of the backend's lock."""

    def __init__(self) -> None:
        self._accepts: dict[TaskId, dict[TaskId, frozenset[Status]]] = {}  # of each child, by parent
        self._children: dict[TaskId, dict[TaskId, None]] = {}  # of each parent, in the order of enqueueing
        # Those parents of a child that have not finished, and those that ended as it does not accept: so that the end
        # of one parent does not have to look at all the others.
        self._unfinished: dict[TaskId, set[TaskId]] = {}
        self._refused: dict[TaskId, set[TaskId]] = {}

    def add(self, child: TaskId, edges: Sequence[Edge], parents: Iterable[TaskRecord]) -> None:
        """A task was stored whose parents stand like this."""
        accepts = self._accepts[child] = {}
        for parent, accepted in edges:
            accepts[parent] = accepts.get(parent, accepted) & accepted
            self._children.setdefault(parent, {})[child] = None
        self._unfinished[child], self._refused[child] = set(), set()
        for record in parents:
            self._judge(record, child)

    def settle(self, parent: TaskRecord) -> None:
        """A task came to another state."""
        for child in self._children.get(parent.id, ()):
            self._judge(parent, child)

    def _judge(self, parent: TaskRecord, child: TaskId) -> None:
        self._unfinished[child].discard(parent.id)
        self._refused[child].discard(parent.id)
        if not parent.status.finished:
            self._unfinished[child].add(parent.id)
        elif parent.status not in self._accepts[child][parent.id]:
            self._refused[child].add(parent.id)

    def children(self, parents: Iterable[TaskRecord]) -> list[TaskId]:
        """Those who depend on one of these."""
        return list(dict.fromkeys(child for parent in parents for child in self._children.get(parent.id, ())))

    def waits(self, child: TaskId) -> bool:
        """Whether a parent has not finished."""
        return bool(self._unfinished.get(child))

    def refused(self, child: TaskId) -> TaskId | None:
        """The first parent that ended as the child does not accept."""
        refused = self._refused.get(child)
        return (
            next((parent for parent in self._accepts[child] if parent in refused), None) if refused else None
        )

    def forget(self, task: TaskRecord) -> None:
        """The task is gone."""
        for parent in self._accepts.pop(task.id, ()):
            self._children.get(parent, {}).pop(task.id, None)
        # Those who succeeded are left: they wait for nobody any more, and their id may be used again.
        for child in self._children.pop(task.id, ()):
            self._unfinished[child].discard(task.id)
            self._refused[child].discard(task.id)
        self._unfinished.pop(task.id, None)
        self._refused.pop(task.id, None)
