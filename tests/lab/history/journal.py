"""Writing down a run: lines in files that are only appended to.

A process that is killed inside a write may leave a torn line (seen on a busy machine: one that crosses a page is cut
there). So each write begins on a line of its own, and what a torn line would have said counts as not having been said.
"""

import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sitq.backends.base import Backend, Within
from sitq.errors import BackendTimeoutError, ParentNotFoundError, QueueFullError, StorageFullError
from sitq.model import (
    Enqueued,
    NewTask,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    TaskId,
    TaskRecord,
)
from tests.lab.history.entries import (
    Asked,
    Forgone,
    Refused,
    Reported,
    Requeued,
    Reserved,
    Sent,
    Stopped,
    Stored,
    Unwanted,
    Wanted,
)

REFUSALS = (BackendTimeoutError, ParentNotFoundError, QueueFullError, StorageFullError)
"""What `enqueue` raises when it is known that nothing was stored."""


class Journal:
    """Appends entries, those of one call in one write."""

    def __init__(self, path: str, *, synced: bool = False) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._synced = synced

    def write(self, *entries: tuple[Any, ...]) -> None:
        lines = "".join(json.dumps([type(entry).__name__, *entry]) + "\n" for entry in entries)
        if lines:
            os.write(self._fd, f"\n{lines}".encode())
        if self._synced:
            os.fsync(self._fd)


class Journalled:
    """A backend that writes down what it is told, what it handed out and what it accepted."""

    def __init__(self, inner: Backend, journal: Journal) -> None:
        self._inner = inner
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def enqueue(self, tasks: list[NewTask], **arguments: Any) -> list[Enqueued]:
        self._journal.write(*(Asked(task.id) for task in tasks))
        asked = time.monotonic()
        try:
            answers = await self._inner.enqueue(tasks, **arguments)
        except REFUSALS:
            self._journal.write(*(Refused(task.id) for task in tasks))
            raise
        answered = time.monotonic()
        keyed = [answer for task, answer in zip(tasks, answers, strict=True) if task.unique]
        self._journal.write(*(Stored(*answer, asked, answered) for answer in keyed))
        return answers

    async def reserve(self, *args: Any, **kwargs: Any) -> Any:
        asked = time.monotonic()
        answer = await self._inner.reserve(*args, **kwargs)
        times = (os.getpid(), asked, time.monotonic())
        self._journal.write(
            *(Reserved(task.id, task.fence, task.attempt, task.crashes, *times) for task in answer.tasks)
        )
        return answer

    async def complete(self, outcomes: list[Outcome], **arguments: Any) -> Any:
        now, wall = time.monotonic(), time.time()
        self._journal.write(*(_announced(outcome, now, wall) for outcome in outcomes))
        answer = await self._inner.complete(outcomes, **arguments)
        self._journal.write(
            *(
                Reported(*outcome.held, type(outcome).__name__, outcome.held not in answer.stale)
                for outcome in outcomes
            )
        )
        return answer

    async def requeue(self, ended: list[TaskRecord]) -> None:
        """Give tasks another run that ended as they are given here."""
        fences = {task.id: task.fence for task in ended}
        self._journal.write(*map(Wanted, fences, fences.values()))
        done = await self._inner.requeue([*fences])
        answered = time.monotonic()
        self._journal.write(*(Requeued(task_id, fences[task_id], answered) for task_id in done))

    async def cancel(self, ids: Collection[TaskId]) -> dict[TaskId, Status]:
        self._journal.write(*map(Unwanted, ids))
        states = await self._inner.cancel(ids)
        answered = time.monotonic()
        self._journal.write(
            *(Stopped(one, answered) for one, status in states.items() if status == Status.CANCELLED)
        )
        return states

    async def prune(self, limit: int, *, ids: Collection[TaskId] | None = None) -> int:
        self._journal.write(*map(Forgone, ids or ()))
        return await self._inner.prune(limit, ids=ids)

    def within(self, connection: object, /) -> Within:
        return _JournalledWithin(self._inner.within(connection), self._journal)


class _JournalledWithin(Within):
    """Writes down what is to be committed by the application."""

    def __init__(self, inner: Within, journal: Journal) -> None:
        self._inner = inner
        self._journal = journal

    @property
    def blocking(self) -> bool:
        return self._inner.blocking

    async def enqueue(self, tasks: Sequence[NewTask], **arguments: Any) -> list[Enqueued]:
        self._journal.write(*(Asked(task.id) for task in tasks))
        return await self._inner.enqueue(tasks, **arguments)

    async def complete(self, outcome: Succeeded, **arguments: Any) -> bool:
        self._journal.write(_announced(outcome, time.monotonic(), time.time()))
        done = await self._inner.complete(outcome, **arguments)
        if not done:
            self._journal.write(Reported(*outcome.held, "Succeeded", False))
        return done


def _announced(outcome: Outcome, now: float, wall: float) -> Sent:
    due = None
    if isinstance(outcome, Retried | Released):
        due = now if outcome.at is None else now + (outcome.at.timestamp() - wall)
    return Sent(*outcome.held, type(outcome).__name__, now, due)


def whole_lines(text: str) -> Iterator[list[Any]]:
    """The entries of a journal, without those that were cut off."""
    for line in text.split("\n"):
        if line.endswith("]"):
            yield json.loads(line)
        # A cut is the end of what a process wrote, so it never hides behind a whole line.
        elif line:
            assert line.startswith("["), f"not a journal's line: {line!r}"
