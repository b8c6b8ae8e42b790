"""What tests share: a clock that they move, and short ways to make and read tasks."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sitq.backends.base import Backend
from sitq.model import (
    Cancelled,
    Concurrency,
    Failed,
    Held,
    NewTask,
    Outcome,
    Rate,
    ReservedTask,
    Succeeded,
    TaskId,
    TaskQuery,
    TaskRecord,
)

LEASE = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
PATIENCE = 60.0
"""Seconds until a ring that does not come fails the test. Never waited for otherwise."""

ENDS: tuple[Callable[[Held], Outcome], ...] = (
    lambda held: Succeeded(held, b"result"),
    lambda held: Failed(held, b"error"),
    lambda held: Cancelled(held, b"reason"),
)
"""Every outcome that a task ends with, whatever was asked before."""

_ids = count(1)


class FakeClock:
    """Stands still until it is told to move. Starts at an instant that only exact microseconds can keep."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC)
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, span: float | timedelta) -> None:
        span = span if isinstance(span, timedelta) else timedelta(seconds=span)
        self._now += span
        self._monotonic += span.total_seconds()


def new_task(task_id: TaskId | None = None, **fields: Any) -> NewTask:
    """A task with an id of its own and a payload that tells whose it is."""
    task_id = task_id or f"task-{next(_ids)}"
    return NewTask(**{"id": task_id, "name": "work", "payload": b"payload of " + task_id.encode(), **fields})


def new_tasks(number: int, **fields: Any) -> list[NewTask]:
    return [new_task(**fields) for _ in range(number)]


def bounded(task_id: TaskId | None = None, limit: int = 1, key: str = "key", **fields: Any) -> NewTask:
    """A task of which at most `limit` with this key run at once."""
    return new_task(task_id, concurrency=Concurrency(key, limit), **fields)


def paced(
    task_id: TaskId | None = None,
    count: int = 1,
    period: timedelta = MINUTE,
    key: str = "key",
    **fields: Any,
) -> NewTask:
    """A task of which at most `count` with this key start within any `period`."""
    return new_task(task_id, rate=Rate(key, count, period), **fields)


async def reserve_one(backend: Backend, worker: str = "w1", lease: timedelta = LEASE) -> ReservedTask:
    """Reserve the one task that is due."""
    [task] = (await backend.reserve(worker, None, 10, lease)).tasks
    return task


async def running(backend: Backend, task: NewTask | None = None) -> Held:
    """Enqueue a task and reserve it."""
    task = task or new_task()
    await backend.enqueue([task])
    [reserved] = (await backend.reserve("w1", None, 1, LEASE, ids=[task.id])).tasks
    return reserved.held


async def record(backend: Backend, task_id: TaskId) -> TaskRecord:
    found = await backend.get_result(task_id)
    assert found is not None
    return found


async def everything(backend: Backend) -> list[TaskRecord]:
    return await backend.find(TaskQuery(limit=1_000_000, with_bytes=True))


async def found_ids(backend: Backend, **query: Any) -> list[TaskId]:
    return [task.id for task in await backend.find(TaskQuery(**query))]


async def reserved_ids(backend: Backend, **arguments: Any) -> list[TaskId]:
    """The ids that one `reserve` hands out, by default from every queue and without a limit that matters."""
    defaults: dict[str, Any] = {"worker": "w1", "queues": None, "limit": 100, "lease": LEASE}
    return [task.id for task in (await backend.reserve(**{**defaults, **arguments})).tasks]


async def next_due_at(backend: Backend, queues: Sequence[str] | None = None) -> datetime | None:
    """When to look again, asked when nothing can be had."""
    found = await backend.reserve("w1", queues, 100, LEASE)
    assert found.tasks == []
    return found.next_due_at


async def finish(backend: Backend, *ids: TaskId) -> None:
    """End the current runs of these tasks with a success."""
    found = [await record(backend, task_id) for task_id in ids]
    done = await backend.complete([Succeeded(Held(task.id, task.fence), b"") for task in found])
    assert done.accepted == len(ids)
