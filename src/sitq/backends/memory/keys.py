"""Which task holds which unique key."""

from datetime import datetime

from sitq.model import Status, TaskId, TaskRecord, Until


class Keys:
    """At most one holder a key. For the holder of the backend's lock."""

    def __init__(self) -> None:
        self._holders: dict[str, TaskRecord] = {}  # as they were when they took the key

    def holder(self, key: str, now: datetime) -> TaskId | None:
        """The task that holds the key now."""
        task = self._holders.get(key)
        return task.id if task is not None and _holds_until(task, now) else None

    def take(self, task: TaskRecord, now: datetime) -> bool:
        """Take the key of the task, if it has one. False if another task holds it."""
        if task.unique is None:
            return True
        if self.holder(task.unique.key, now) not in (None, task.id):
            return False
        if _holds_until(task, now):
            self._holders[task.unique.key] = task
        return True

    def holds(self, task: TaskRecord, now: datetime) -> bool:
        return task.unique is not None and self.holder(task.unique.key, now) == task.id

    def settle(self, task: TaskRecord) -> None:
        """Let go of the key if the task has come to where its hold ends. An instant comes by itself."""
        if task.unique is None or isinstance(task.unique.until, datetime):
            return
        if task.status.finished or (task.status is Status.RUNNING and task.unique.until is Until.START):
            self.forget(task)

    def forget(self, task: TaskRecord) -> None:
        """The task is gone, or has let go."""
        if (
            task.unique is not None
            and (holder := self._holders.get(task.unique.key))
            and holder.id == task.id
        ):
            del self._holders[task.unique.key]


def _holds_until(task: TaskRecord, now: datetime) -> bool:
    assert task.unique is not None
    return not isinstance(task.unique.until, datetime) or now < task.unique.until
