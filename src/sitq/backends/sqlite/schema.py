"""The tables, and how a file comes to have them.

Instants are integers: microseconds since 1970 in UTC. Tables carry the prefix `sitq_`, so that they can live in the
application's own database file.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final, overload

from sitq.errors import BackendConnectionError, BackendSchemaError

VERSION: Final = 1
_SPARE_PAGES: Final = 1_000
_MOST_PAGES: Final = 2_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)

HOLDS_KEY: Final = """CASE unique_until
    WHEN 'start' THEN fence = unique_bound AND status IN ('waiting', 'pending')
    WHEN 'end' THEN status IN ('waiting', 'pending', 'running')
    ELSE unique_until = 'instant' END"""
"""Whether a task with a unique key holds it. The index over those who do is what keeps two from it.

`unique_bound` is the fence that the task had when it took the key until its start, or the instant until which it has
it; 'passed' stands in `unique_until` when somebody came after that instant.
"""

# A task's row is rewritten with each lease, so its payload and its limits lie beside it, written once; the result comes
# last and stays in the row. `sitq_due` is the hot path: a finished task has no `due_at` and is not in it, nor has one
# that a limit holds up, so a reservation costs the same however many are stored; `priority` comes before `due_at`
# because it is sought level by level. An index on every status would cost a tenth of the throughput: those that people
# look for have one.
_TASKS: Final = f"""
CREATE TABLE sitq_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO sitq_meta VALUES ('schema_version', 1), ('fence', 0), ('stale_outcomes', 0), ('requeued', 0);

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
    unique_key TEXT,
    unique_until TEXT,
    unique_bound INTEGER,
    unique_replace INTEGER,
    limited INTEGER,
    edges INTEGER,
    result BLOB,
    error BLOB
) STRICT;
CREATE INDEX sitq_due ON sitq_tasks (queue, priority, due_at) WHERE due_at IS NOT NULL;
CREATE UNIQUE INDEX sitq_unique ON sitq_tasks (unique_key) WHERE unique_key IS NOT NULL AND {HOLDS_KEY};
CREATE INDEX sitq_failed ON sitq_tasks (seq) WHERE status = 'failed';
CREATE INDEX sitq_cancelled ON sitq_tasks (seq) WHERE status = 'cancelled';
CREATE INDEX sitq_expiry ON sitq_tasks (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE sitq_payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;

CREATE TABLE sitq_notes (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX sitq_notes_of_task ON sitq_notes (seq, kind, position);
"""

# One row in `sitq_limits` for each task that has any. While one of them holds a task up, the task stands in a line of
# `sitq_lines`: those of one queue that wait for the same limit. Its `due_at` lies here then, and is empty in
# `sitq_tasks`. `sitq_starts` numbers the starts of each rate, so that the one before `count` others is one seek away.
_LIMITS: Final = """
CREATE TABLE sitq_limits (
    seq INTEGER PRIMARY KEY,
    concurrency_key TEXT,
    concurrency_limit INTEGER,
    rate_key TEXT,
    rate_count INTEGER,
    rate_period INTEGER,
    runs INTEGER NOT NULL DEFAULT 0,
    line INTEGER,
    priority INTEGER,
    due_at INTEGER
) STRICT;
CREATE INDEX sitq_runs ON sitq_limits (concurrency_key, runs) WHERE runs = 1;
CREATE INDEX sitq_paced ON sitq_limits (rate_key) WHERE rate_key IS NOT NULL;
CREATE INDEX sitq_held_up ON sitq_limits (line, priority, due_at) WHERE line IS NOT NULL;

CREATE TABLE sitq_lines (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    queue TEXT NOT NULL,
    number INTEGER NOT NULL,
    period INTEGER NOT NULL,
    opens_at INTEGER,
    UNIQUE (kind, key, queue, number, period)
) STRICT;
CREATE INDEX sitq_lines_of_queue ON sitq_lines (queue, opens_at);
CREATE INDEX sitq_opening ON sitq_lines (opens_at) WHERE opens_at IS NOT NULL;

CREATE TABLE sitq_rates (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    period INTEGER NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0,
    over_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sitq_rates_over ON sitq_rates (over_at);
CREATE TABLE sitq_starts (
    rate INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (rate, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX sitq_starts_at ON sitq_starts (rate, at);
"""

# One row in `sitq_dependents` for each task that has parents; while it waits, its `due_at` lies there. `holds` says of
# an edge whether it keeps its child from running: 1 while the parent has not finished, 2 when that ended in a state
# that `accepts` (a bit for each) does not allow, and nothing when it is met. So whether a child may go is one seek,
# however many parents it has.
_EDGES: Final = """
CREATE TABLE sitq_dependents (
    seq INTEGER PRIMARY KEY,
    due_at INTEGER,
    cancelled_by TEXT
) STRICT;
CREATE INDEX sitq_waiting ON sitq_dependents (seq) WHERE due_at IS NOT NULL;

CREATE TABLE sitq_edges (
    child INTEGER NOT NULL,
    position INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    parent_id TEXT NOT NULL,
    accepts INTEGER NOT NULL,
    holds INTEGER,
    PRIMARY KEY (child, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX sitq_children ON sitq_edges (parent, child);
CREATE INDEX sitq_holding ON sitq_edges (child, holds) WHERE holds IS NOT NULL;
"""

_STORE: Final = """
CREATE TABLE sitq_listeners (
    port INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    queues INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    cancels INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;

CREATE TABLE sitq_counts (
    queue TEXT PRIMARY KEY,
    unfinished INTEGER NOT NULL,
    grown INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sitq_paused (queue TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

CREATE TABLE sitq_workers (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    seen_at INTEGER NOT NULL,
    alive_until INTEGER NOT NULL,
    info TEXT NOT NULL
) STRICT;

CREATE TABLE sitq_documents (name TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: Final = {1: _TASKS + _LIMITS + _EDGES + _STORE}
"""The script that leads to each version from the one before."""


def micros(moment: datetime) -> int:
    """An aware instant as microseconds since 1970, exactly."""
    return (moment - _EPOCH) // MICROSECOND


@overload
def moment(value: int) -> datetime: ...
@overload
def moment(value: int | None) -> datetime | None: ...
def moment(value: int | None) -> datetime | None:
    """The instant that `micros` was given; None for a column that is empty. The nearest one that there is, if a number
    means none: sitq writes no such number, and to look at it must not fail."""
    if value is None:
        return None
    try:
        return _EPOCH + timedelta(microseconds=value)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if value > 0 else datetime.min.replace(tzinfo=UTC)


def let_shrink(db: sqlite3.Connection) -> None:
    """Let an empty file give its space back later (`shrink`). To be called before anything else is written to it."""
    if db.execute("PRAGMA page_count").fetchone()[0] == 0:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")


def shrink(db: sqlite3.Connection) -> None:
    """Give back part of what is free. Some stays, since a store in use would ask for it again at once.

    The file itself becomes smaller at the next checkpoint. One that was not made by sitq only uses its space again.
    """
    [[free]] = db.execute("PRAGMA freelist_count").fetchall()
    if free > _SPARE_PAGES:
        db.execute(f"PRAGMA incremental_vacuum({min(free - _SPARE_PAGES, _MOST_PAGES)})").fetchall()


def migrate(db: sqlite3.Connection) -> None:
    """Bring the file to `VERSION` in one transaction, however many processes try at once.

    Raises:
        BackendSchemaError: The file was written by a newer sitq, or it lacks something. It is left untouched.
        BackendConnectionError: It does not say which sitq wrote it.
    """
    if _version(db) == VERSION:
        if lacking := missing(db):
            raise _lacks(lacking)
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


def missing(db: sqlite3.Connection) -> list[str]:
    """What a file of this version lacks: tables, indexes, columns and counters. What it has besides is no matter."""
    return sorted(_wanted() - _parts(db))


@cache
def _wanted() -> frozenset[str]:
    with closing(sqlite3.connect(":memory:")) as db:
        for script in MIGRATIONS.values():
            db.executescript(script)
        return _parts(db)


def _parts(db: sqlite3.Connection) -> frozenset[str]:
    parts = db.execute(
        "SELECT m.name || coalesce('.' || c.name, '') FROM sqlite_master AS m "
        "LEFT JOIN pragma_table_info(m.name) AS c WHERE m.name GLOB 'sitq_*' "
        "UNION ALL SELECT 'the ' || key || ' in sitq_meta' FROM sitq_meta"
    )
    return frozenset(name for (name,) in parts)


def _lacks(parts: Sequence[str]) -> BackendSchemaError:
    more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    return BackendSchemaError(
        f"the database lacks {', '.join(parts[:3])}{more}: somebody changed the tables of sitq. Run `sitq doctor` on "
        "it, and restore a backup or use another file. Nothing was changed"
    )


def _version(db: sqlite3.Connection) -> int:
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name GLOB 'sitq_*'")]
    if not names:
        return 0
    if "sitq_meta" not in names:
        raise _lacks(["sitq_meta"])
    row = db.execute("SELECT value FROM sitq_meta WHERE key = 'schema_version'").fetchone()
    if row is None:
        raise _lacks(["the schema_version in sitq_meta"])
    if not isinstance(row[0], int) or row[0] < 1:
        raise BackendConnectionError(
            f"the database has schema {row[0]!r}, which no sitq wrote: it is damaged. Run `sitq doctor` on it, or "
            "restore a backup. Nothing was changed"
        )
    return row[0]
