"""What bounds the start of tasks: how many of a key run, and when those of a rate started."""

from collections import Counter, deque
from collections.abc import Collection
from datetime import datetime, timedelta

from sitq.model import Rate, Status, TaskRecord


class Limits:
    """Counts who runs and remembers who started. For the holder of the backend's lock."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._starts: dict[str, _Starts] = {}

    def expect(self, task: TaskRecord) -> None:
        """A task was stored or requeued: starts are remembered for as long as its rate looks back, from now on."""
        if task.rate is not None:
            self._of(task.rate).widen(task.rate.period)

    def opens_at(self, task: TaskRecord) -> datetime | None:
        """The earliest instant at which the task may be reserved; None if that hangs on the end of another one."""
        assert task.due_at is not None
        if task.status is Status.RUNNING:  # it has started: what it waits for is the end of its lease
            return task.due_at
        bound = task.concurrency
        if bound is not None and self._running[bound.key] >= bound.limit:
            return None
        allowed_at = None if task.rate is None else self._of(task.rate).opens_at(task.rate)
        return task.due_at if allowed_at is None else max(task.due_at, allowed_at)

    def start(self, task: TaskRecord, now: datetime) -> None:
        """The task is chosen to run. One that runs already is not a start."""
        if task.status is Status.RUNNING:
            return
        if task.concurrency is not None:
            self._running[task.concurrency.key] += 1
        if task.rate is not None:
            self._of(task.rate).add(now)

    def leave(self, task: TaskRecord) -> None:
        """The run of the task is over."""
        if task.concurrency is not None:
            self._running[task.concurrency.key] -= 1
            if not self._running[task.concurrency.key]:
                del self._running[task.concurrency.key]

    def forget(self, keys_in_use: Collection[str], now: datetime) -> None:
        """Drop the rates that no unfinished task has and whose starts bound nobody any more."""
        for key in [key for key in self._starts if key not in keys_in_use]:
            if self._starts[key].are_over(now):
                del self._starts[key]

    def _of(self, rate: Rate) -> "_Starts":
        return self._starts.setdefault(rate.key, _Starts())


class _Starts:
    """When tasks of one key started, as far back as the widest rate that was stored for it looks."""

    def __init__(self) -> None:
        self._times: deque[datetime] = deque()
        self._period = timedelta(0)

    def widen(self, period: timedelta) -> None:
        self._period = max(self._period, period)

    def opens_at(self, rate: Rate) -> datetime | None:
        return self._times[-rate.limit] + rate.period if len(self._times) >= rate.limit else None

    def add(self, now: datetime) -> None:
        while self._times and self._times[0] + self._period <= now:
            self._times.popleft()
        self._times.append(now)

    def are_over(self, now: datetime) -> bool:
        return not self._times or self._times[-1] + self._period <= now
