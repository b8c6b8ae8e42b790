"""The journals of a run: lines in files that are only appended to.

A process that is killed inside a write may leave a torn line (seen on a busy machine: one that crosses a page is cut
there). So each write begins on a line of its own, and what a torn line would have said counts as not having been said.
"""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.failure import decode_error
from sitq.model import Enqueued, NewTask, NoteKind, Outcome, Released, Retried, TaskQuery, TaskRecord
from sitq.progress import decode_line
from sitq.serialization import decode_value
from tests.lab.history.entries import (
    KINDS,
    Final,
    History,
    Noted,
    Reported,
    Requeued,
    Reserved,
    Sent,
    Stored,
    Wanted,
)


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
        asked = time.monotonic()
        answers = await self._inner.enqueue(tasks, **arguments)
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


def _announced(outcome: Outcome, now: float, wall: float) -> Sent:
    due = None
    if isinstance(outcome, Retried | Released):
        due = now if outcome.at is None else now + (outcome.at.timestamp() - wall)
    return Sent(*outcome.held, type(outcome).__name__, now, due)


def collect(database: Path, folder: Path) -> History:
    """Read the journals and the database."""
    history = History()
    entries: dict[str, list[Any]] = {"Acknowledged": [], **{name: [] for name in KINDS}}
    for name, *values in whole_lines((folder / "journal").read_text()):
        entries[name].append(values)
    history.acknowledged = {task_id for [task_id] in entries["Acknowledged"]}
    for name, kind in KINDS.items():
        setattr(history, name.lower(), [kind(*values) for values in entries[name]])
    with closing(sqlite3.connect(database)) as db:
        history.integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
    records, history.noted = asyncio.run(_everything(database))
    history.final = [_final(record) for record in records]
    return history


def _final(record: TaskRecord) -> Final:
    meta = dict(record.metadata or {})
    if "tick" in meta:
        meta["tick"] = datetime.fromisoformat(meta["tick"]).timestamp()
    return Final(
        record.id,
        record.status,
        record.fence,
        record.crashes,
        record.max_crashes,
        record.due_at is not None,
        None if record.result is None else decode_value(record.result),
        None if record.error is None else decode_error(record.error).type,
        record.attempt,
        meta,
        record.parents,
        record.cancelled_by,
    )


def whole_lines(text: str) -> Iterator[list[Any]]:
    """The entries of a journal, without those that were cut off."""
    for line in text.split("\n"):
        if line.endswith("]"):
            yield json.loads(line)
        # A cut is the end of what a process wrote, so it never hides behind a whole line.
        elif line:
            assert line.startswith("["), f"not a journal's line: {line!r}"


async def _everything(database: Path) -> tuple[list[TaskRecord], list[Noted]]:
    backend = SQLiteBackend(database)
    await backend.open()
    try:
        tasks = await backend.find(TaskQuery(limit=10_000_000, with_bytes=True))
        lines: list[Noted] = []
        for task in tasks:
            if (task.metadata or {}).get("says"):
                notes = await backend.notes(task.id)
                lines += [Noted(task.id, decode_line(one.data)) for one in notes if one.kind is NoteKind.LOG]
        return tasks, lines
    finally:
        await backend.close()
