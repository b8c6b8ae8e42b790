"""The tables, and how a file comes to have them.

Instants are integers: microseconds since 1970 in UTC. Tables carry the prefix `sitq_`, so that they can live in the
application's own database file.
"""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Final, overload

from sitq.errors import BackendSchemaError

VERSION: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)

# A task's row is rewritten with each lease, so its payload lies beside it, written once; the result comes last and
# stays in the row. `sitq_due` is the hot path: a finished task has no `due_at` and is not in it, so a reservation
# costs the same however many are stored; `priority` comes before `due_at` because it is sought level by level.
# An index on every status would cost a tenth of the throughput: those that people look for have one.
_VERSION_1: Final = """
CREATE TABLE sitq_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO sitq_meta VALUES ('schema_version', 1), ('fence', 0), ('stale_outcomes', 0);

CREATE TABLE sitq_tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at INTEGER,
    fence INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    max_crashes INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    result_ttl INTEGER,
    enqueued_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    expires_at INTEGER,
    metadata TEXT,
    result BLOB,
    error BLOB
) STRICT;
CREATE INDEX sitq_due ON sitq_tasks (queue, priority, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX sitq_failed ON sitq_tasks (seq) WHERE status = 'failed';
CREATE INDEX sitq_cancelled ON sitq_tasks (seq) WHERE status = 'cancelled';
CREATE INDEX sitq_expiry ON sitq_tasks (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE sitq_payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;

CREATE TABLE sitq_listeners (
    port INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    queues INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;
"""

MIGRATIONS: Final = {1: _VERSION_1}
"""The script that leads to each version from the one before."""


def micros(moment: datetime) -> int:
    """An aware instant as microseconds since 1970, exactly."""
    return (moment - _EPOCH) // MICROSECOND


@overload
def moment(value: int) -> datetime: ...
@overload
def moment(value: int | None) -> datetime | None: ...
def moment(value: int | None) -> datetime | None:
    """The instant that `micros` was given; None for a column that is empty."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


def migrate(db: sqlite3.Connection) -> None:
    """Bring the file to `VERSION` in one transaction, however many processes try at once.

    Raises:
        BackendSchemaError: if the file was written by a newer sitq. It is left untouched.
    """
    if _version(db) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # again, now that nobody else can change it
        if version > VERSION:
            raise BackendSchemaError(
                f"the database has schema {version}, this sitq knows up to {VERSION}: it was written by a newer sitq. "
                "Upgrade sitq here, or use another file. Nothing was changed"
            )
        for step in range(version + 1, VERSION + 1):
            for statement in MIGRATIONS[step].split(";"):
                db.execute(statement)
        db.execute("UPDATE sitq_meta SET value = ? WHERE key = 'schema_version'", (VERSION,))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sitq_meta'").fetchone() is None:
        return 0
    row = db.execute("SELECT value FROM sitq_meta WHERE key = 'schema_version'").fetchone()
    return int(row[0])
