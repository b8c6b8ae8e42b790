"""The journals of a torture run: lines in files that are only appended to.

A process that is killed inside a write may leave a torn line (seen on a busy machine: one that crosses a page is cut
there). So each write begins on a line of its own, and what a torn line would have said counts as not having been said.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.failure import decode_error
from sitq.model import Outcome, TaskQuery, TaskRecord
from sitq.serialization import decode_value
from tests.torture.checker import Final, History, Ran, Reported, Reserved, Seen

KINDS = {kind.__name__: kind for kind in (Reserved, Ran, Reported, Seen)}


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
    """A backend that writes down what it handed out and what it accepted, after the fact."""

    def __init__(self, inner: Backend, journal: Journal) -> None:
        self._inner = inner
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def reserve(self, *args: Any, **kwargs: Any) -> Any:
        answer = await self._inner.reserve(*args, **kwargs)
        self._journal.write(
            *(Reserved(task.id, task.fence, task.attempt, task.crashes) for task in answer.tasks)
        )
        return answer

    async def complete(self, outcomes: list[Outcome]) -> Any:
        answer = await self._inner.complete(outcomes)
        self._journal.write(
            *(
                Reported(*outcome.held, type(outcome).__name__, outcome.held not in answer.stale)
                for outcome in outcomes
            )
        )
        return answer


def collect(database: Path, folder: Path) -> History:
    """Read the journals and the database."""
    history = History()
    entries: dict[str, list[Any]] = {"Acknowledged": [], **{name: [] for name in KINDS}}
    for name, *values in whole_lines((folder / "journal").read_text()):
        entries[name].append(values)
    history.acknowledged = {task_id for [task_id] in entries["Acknowledged"]}
    history.reserved = [Reserved(*values) for values in entries["Reserved"]]
    history.ran = [Ran(*values) for values in entries["Ran"]]
    history.reported = [Reported(*values) for values in entries["Reported"]]
    history.seen = [Seen(*values) for values in entries["Seen"]]
    with closing(sqlite3.connect(database)) as db:
        history.integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
    history.final = [
        Final(
            record.id,
            record.status,
            record.fence,
            record.crashes,
            record.max_crashes,
            record.due_at is not None,
            None if record.result is None else decode_value(record.result),
            None if record.error is None else decode_error(record.error).type,
        )
        for record in asyncio.run(_everything(database))
    ]
    return history


def whole_lines(text: str) -> Iterator[list[Any]]:
    """The entries of a journal, without those that were cut off."""
    for line in text.split("\n"):
        if line.endswith("]"):
            yield json.loads(line)
        # A cut is the end of what a process wrote, so it never hides behind a whole line.
        elif line:
            assert line.startswith("["), f"not a journal's line: {line!r}"


async def _everything(database: Path) -> list[TaskRecord]:
    backend = SQLiteBackend(database)
    await backend.open()
    try:
        return await backend.find(TaskQuery(limit=10_000_000, with_bytes=True))
    finally:
        await backend.close()
