"""What a store knows besides tasks: who works, what is paused, and documents."""

import json
import sqlite3
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import MICROSECOND, micros, moment
from sitq.model import WorkerInfo, WorkerRecord

_REMEMBERED: Final = timedelta(days=1) // MICROSECOND
"""For how long a dead worker is."""

# -- Workers ---------------------------------------------------------------------------------------

_SEEN: Final = """
INSERT INTO sitq_workers (id, seen_at, alive_until, info) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, alive_until = excluded.alive_until, info = excluded.info
"""


def see(db: sqlite3.Connection, worker: str, info: WorkerInfo, now: int, alive_until: int) -> None:
    """Put a worker on the list, or take it off if it does not live any longer."""
    if alive_until <= now:
        db.execute("DELETE FROM sitq_workers WHERE id = ?", (worker,))
    else:
        db.execute(_SEEN, (worker, now, alive_until, _encoded(info)))


def workers(db: sqlite3.Connection, now: int) -> list[WorkerRecord]:
    found = db.execute(
        "SELECT id, info, seen_at, alive_until FROM sitq_workers WHERE alive_until > ? ORDER BY number",
        (now - _REMEMBERED,),
    )
    return [
        WorkerRecord(
            id=worker, info=_decoded(info), seen_at=moment(int(seen)), alive_until=moment(int(alive))
        )
        for worker, info, seen, alive in found
    ]


def forget_dead(db: sqlite3.Connection, now: int) -> None:
    db.execute("DELETE FROM sitq_workers WHERE alive_until <= ?", (now - _REMEMBERED,))


def _encoded(info: WorkerInfo) -> str:
    return json.dumps(
        {
            "host": info.host,
            "pid": info.pid,
            "started_at": micros(info.started_at),
            "concurrency": info.concurrency,
            "queues": info.queues,
            "running": info.running,
            "cpu": info.cpu,
            "memory": info.memory,
        }
    )


def _decoded(text: str) -> WorkerInfo:
    fields: dict[str, Any] = json.loads(text)
    queues = fields["queues"]
    return WorkerInfo(
        host=fields["host"],
        pid=fields["pid"],
        started_at=moment(int(fields["started_at"])),
        concurrency=fields["concurrency"],
        queues=None if queues is None else tuple(queues),
        running=tuple(fields["running"]),
        cpu=fields["cpu"],
        memory=fields["memory"],
    )


# -- Queues that are paused ------------------------------------------------------------------------


def set_paused(db: sqlite3.Connection, queue: str, paused: bool, rings: Rings) -> None:
    if paused:
        db.execute("INSERT OR IGNORE INTO sitq_paused (queue) VALUES (?)", (queue,))
    else:
        db.execute("DELETE FROM sitq_paused WHERE queue = ?", (queue,))
        rings.queues.add(queue)


def paused(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT queue FROM sitq_paused")}


# -- Documents -------------------------------------------------------------------------------------


def save(db: sqlite3.Connection, documents: Mapping[str, bytes | None]) -> None:
    for name, data in documents.items():
        if data is None:
            db.execute("DELETE FROM sitq_documents WHERE name = ?", (name,))
        else:
            db.execute("INSERT OR REPLACE INTO sitq_documents (name, data) VALUES (?, ?)", (name, data))


def load(db: sqlite3.Connection, prefix: str) -> dict[str, bytes]:
    end = _after(prefix)
    until = "" if end is None else " AND name < ?"
    values = (prefix,) if end is None else (prefix, end)
    return dict(
        db.execute(
            f"SELECT name, data FROM sitq_documents WHERE name >= ?{until} ORDER BY name", values
        ).fetchall()
    )


_LAST_CHARACTER: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)  # not characters: no text in the file has one


def _after(prefix: str) -> str | None:
    """The least text beyond all that start with `prefix`; None if there is none."""
    shorter = prefix.rstrip(chr(_LAST_CHARACTER))
    if not shorter:
        return None
    following = ord(shorter[-1]) + 1
    return shorter[:-1] + chr(_SURROGATES.stop if following in _SURROGATES else following)
