"""Reading what was written down of a run, and the file at its end."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from sitq.backends.sqlite import SQLiteBackend
from sitq.failure import decode_error
from sitq.model import NoteKind, TaskQuery, TaskRecord
from sitq.progress import decode_line
from sitq.serialization import decode_value
from tests.lab.history.entries import LISTED, NAMED, Beside, Final, History, Noted
from tests.lab.history.journal import whole_lines

# What an application has in the file besides the tasks.
TABLES = """
CREATE TABLE IF NOT EXISTS orders (task TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS effects (task TEXT NOT NULL, mark TEXT NOT NULL);
"""


def collect(database: Path, folder: Path) -> History:
    """Read the journals and the database, which nobody has open."""
    history = History(asked=set())
    entries: dict[str, list[Any]] = {kind.__name__: [] for kind in (*LISTED, *NAMED)}
    for name, *values in whole_lines((folder / "journal").read_text()):
        entries[name].append(values)
    for kind in NAMED:
        setattr(history, kind.__name__.lower(), {task_id for [task_id] in entries[kind.__name__]})
    for kind in LISTED:
        setattr(history, kind.__name__.lower(), [kind(*values) for values in entries[kind.__name__]])
    records, history.noted = asyncio.run(_everything(database))
    history.final = [final(record) for record in records]
    history.leftovers = [
        f"{name} is there after the last close"
        for name in (f"{database.name}-wal", f"{database.name}-shm")
        if database.with_name(name).exists()
    ]
    with closing(sqlite3.connect(database)) as db:
        history.integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
        history.leftovers += _leftovers(db)
        db.executescript(TABLES)
        rows = db.execute("SELECT task, '' FROM orders UNION ALL SELECT task, mark FROM effects")
        history.beside = [Beside(*row) for row in rows]
    return history


# What belongs to tasks that are gone, or holds up tasks although all have ended.
_STRAY = {
    **{
        f"{table} of no task": f"SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT seq FROM sitq_tasks)"
        for table, column in (
            ("sitq_payloads", "seq"),
            ("sitq_limits", "seq"),
            ("sitq_notes", "seq"),
            ("sitq_dependents", "seq"),
            ("sitq_edges", "child"),
        )
    },
    "tasks without a payload": "SELECT count(*) FROM sitq_tasks WHERE seq NOT IN (SELECT seq FROM sitq_payloads)",
    "places under a limit taken by none that runs": (
        "SELECT count(*) FROM sitq_limits WHERE runs = 1 AND seq NOT IN "
        "(SELECT seq FROM sitq_tasks WHERE status = 'running')"
    ),
    "tasks in line that are not pending": (
        "SELECT count(*) FROM sitq_limits WHERE line IS NOT NULL AND seq NOT IN "
        "(SELECT seq FROM sitq_tasks WHERE status = 'pending')"
    ),
    "edges held open by parents that have ended": (
        "SELECT count(*) FROM sitq_edges WHERE holds = 1 AND parent IN "
        "(SELECT seq FROM sitq_tasks WHERE status IN ('success', 'failed', 'cancelled'))"
    ),
}


def _leftovers(db: sqlite3.Connection) -> Iterator[str]:
    for what, sql in _STRAY.items():
        [[count]] = db.execute(sql).fetchall()
        if count:
            yield f"{count} {what}"


def final(record: TaskRecord) -> Final:
    """How a task stands at the end."""
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
