"""`sitq doctor`: is this database healthy, and will it stay so? Looks and probes, changes nothing."""

import argparse
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sitq.cli.arguments import Parser
from sitq.cli.database import add_options, existing, find_queue
from sitq.cli.exits import CommandError, Exit
from sitq.cli.output import write, write_json

_LARGE_LOG: Final = 256 * 1024 * 1024
_PROBE_TIMEOUT: Final = 2.0
_MAX_REPORTED: Final = 3

type Verdict = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. An error makes the database unhealthy."""

    check: str
    verdict: Verdict
    detail: str


def add(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "doctor",
        help="check a database",
        description="Check a database: its file, its permissions, its schema, its integrity and its write lock. "
        "Changes nothing. Exit code 4 if something is wrong.",
    )
    parser.add_argument("--full", action="store_true", help="check indexes and constraints as well")
    add_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    path = existing(find_queue(arguments).backend)
    findings = list(examine(path, full=arguments.full))
    healthy = all(finding.verdict != "error" for finding in findings)
    if arguments.json:
        write_json(
            {"path": str(path), "healthy": healthy, "findings": [asdict(finding) for finding in findings]}
        )
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            write(f"{finding.verdict:7}  {finding.check:{width}}  {finding.detail}")
    if not healthy:
        raise CommandError(f"{path} is unhealthy", Exit.UNHEALTHY)
    return Exit.OK


def examine(path: Path, *, full: bool = False) -> Iterator[Finding]:
    """Check everything about the database at `path`, which exists."""
    yield _sqlite_version()
    yield _file_system(path)
    yield from _permissions(path)
    yield _log(path)
    yield from _contents(path, full)


# -- Around the file -------------------------------------------------------------------------------


def _sqlite_version() -> Finding:
    from sitq.backends.sqlite import files  # noqa: PLC0415  # aiosqlite is not needed for anything else here

    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < files.MIN_SQLITE:
        needed = ".".join(map(str, files.MIN_SQLITE))
        return Finding(
            "sqlite", "error", f"{version} is too old, sitq needs {needed}: use a newer Python build"
        )
    if files.has_wal_reset_bug():
        fixed = ".".join(map(str, files.WAL_RESET_FIXED))
        return Finding(
            "sqlite",
            "warning",
            f"{version} has the WAL-reset bug, fixed in {fixed}: sitq's processes avoid it by taking turns, so let no "
            "other program write to this file",
        )
    return Finding("sqlite", "ok", version)


def _file_system(path: Path) -> Finding:
    from sitq.backends.sqlite import files  # noqa: PLC0415

    kind = files.file_system(path.parent)
    if kind is None:
        return Finding("file system", "ok", "of unknown type: this system does not tell")
    if kind in files.NETWORK_FILE_SYSTEMS:
        return Finding(
            "file system",
            "error",
            f"{kind} is a network file system: use a local disk, or lose data",
        )
    return Finding("file system", "ok", kind)


def _permissions(path: Path) -> Iterator[Finding]:
    folder = path.parent
    if os.access(folder, os.W_OK | os.X_OK):
        yield Finding("folder", "ok", f"{folder} is writable")
    else:
        yield Finding(
            "folder", "error", f"{folder} is not writable, and SQLite keeps its log beside the database"
        )
    for suffix in ("", "-wal", "-shm", "-lock"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            yield _file_permissions(file)


def _file_permissions(file: Path) -> Finding:
    if not os.access(file, os.R_OK | os.W_OK):
        return Finding("permissions", "error", f"{file.name} cannot be read and written by this user")
    mode = file.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077 and not file.name.endswith("-lock"):
        return Finding(
            "permissions",
            "warning",
            f"{file.name} has mode {mode:o}, so others can read it: chmod 600 it",
        )
    return Finding("permissions", "ok", f"{file.name} has mode {mode:o}")


def _log(path: Path) -> Finding:
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > _LARGE_LOG:
        return Finding(
            "log", "warning", f"{size:,} bytes: a reader that stays open keeps it from being emptied"
        )
    return Finding("log", "ok", f"{size:,} bytes")


# -- Inside the file -------------------------------------------------------------------------------


def _contents(path: Path, full: bool) -> Iterator[Finding]:
    checks: list[tuple[str, Callable[[sqlite3.Connection], Finding]]] = [
        ("schema", _schema),
        ("integrity", _full_check if full else _quick_check),
        ("write lock", _write_lock),
    ]
    # mode=rw: a file that has just vanished must not come back empty.
    try:
        db = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, timeout=_PROBE_TIMEOUT, isolation_level=None
        )
    except sqlite3.Error as error:
        yield Finding("open", "error", str(error))
        return
    with closing(db):
        # The last one to close empties the log into the database, which would be a change.
        db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        for name, check in checks:
            try:
                yield check(db)
            except sqlite3.Error as error:
                yield Finding(name, "error", str(error))


def _schema(db: sqlite3.Connection) -> Finding:
    from sitq.backends.sqlite import schema  # noqa: PLC0415

    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sitq_meta'").fetchone() is None:
        return Finding("schema", "error", "no sitq tables: nothing was ever enqueued in this file")
    [version] = db.execute("SELECT value FROM sitq_meta WHERE key = 'schema_version'").fetchone() or (0,)
    if version > schema.VERSION:
        return Finding("schema", "error", f"version {version}, newer than {schema.VERSION}: upgrade sitq")
    if version < schema.VERSION:
        return Finding(
            "schema", "warning", f"version {version}: migrated to {schema.VERSION} when it is next opened"
        )
    if lacking := schema.missing(db):
        shown = ", ".join(lacking[:_MAX_REPORTED])
        return Finding("schema", "error", f"it lacks {shown}: restore a backup, or use another file")
    return Finding("schema", "ok", f"version {version}")


def _quick_check(db: sqlite3.Connection) -> Finding:
    return _verdict("quick_check", [row[0] for row in db.execute("PRAGMA quick_check")])


def _full_check(db: sqlite3.Connection) -> Finding:
    return _verdict("integrity_check", [row[0] for row in db.execute("PRAGMA integrity_check")])


def _verdict(pragma: str, lines: list[str]) -> Finding:
    if lines == ["ok"]:
        return Finding("integrity", "ok", f"{pragma} found nothing")
    shown = "; ".join(lines[:_MAX_REPORTED])
    return Finding(
        "integrity", "error", f"{pragma}: {shown}: restore a backup, or rescue what `.recover` finds"
    )


def _write_lock(db: sqlite3.Connection) -> Finding:
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return Finding("write lock", "error", f"held by another process for more than {_PROBE_TIMEOUT:g} s")
    db.execute("ROLLBACK")
    return Finding("write lock", "ok", "to be had")
