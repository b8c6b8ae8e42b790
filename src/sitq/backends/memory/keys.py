"""Which task holds which unique key."""

from datetime import datetime, timedelta

from sitq.model import Status, TaskId, TaskRecord, Until

type _End = Until | datetime | timedelta


class Keys:
    """At most one holder a key. For the holder of the backend's lock."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[TaskId, _End]] = {}

    def holder(self, key: str, now: datetime) -> TaskId | None:
        """The task that holds the key now."""
        task_id, until = self._holders.get(key, (None, Until.END))
        return None if _is_over(until, now) else task_id

    def holds(self, task: TaskRecord, now: datetime) -> bool:
        """Whether this task holds a key now."""
        return task.unique is not None and self.holder(task.unique.key, now) == task.id

    def take(self, task: TaskRecord, now: datetime) -> bool:
        """Take the key of the task, if it has one. False if another task holds it."""
        if task.unique is None:
            return True
        if self.holder(task.unique.key, now) not in (None, task.id):
            return False
        if not _is_over(task.unique.until, now):
            self._holders[task.unique.key] = (task.id, task.unique.until)
        return True

    def settle(self, task: TaskRecord) -> None:
        """Let go of the key if the task has come to where its hold ends. An instant comes by itself."""
        if task.unique is None or isinstance(task.unique.until, datetime):
            return
        if task.status.finished or (task.status is Status.RUNNING and task.unique.until is Until.START):
            self.forget(task)

    def forget(self, task: TaskRecord) -> None:
        """The task lets go, or is gone. One that lost its key to another takes nothing from it."""
        if task.unique is not None and self._holders.get(task.unique.key, ("",))[0] == task.id:
            del self._holders[task.unique.key]


def _is_over(until: _End, now: datetime) -> bool:
    return isinstance(until, datetime) and until <= now
