"""Writing through a connection of the application, in the transaction that is open there.

Between the transactions of two connections SQLite itself decides; the side lock is not held, since nobody here knows
when the application will commit.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import aiosqlite

from sitq.backends.base import Within, no_notes
from sitq.backends.sqlite import enqueue, reports, rows
from sitq.backends.sqlite.errors import translated
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import VERSION
from sitq.errors import BackendSchemaError, BackendTimeoutError, SitqError, ValidationError
from sitq.model import Enqueued, NewNote, NewTask, Succeeded

type Connection = sqlite3.Connection | aiosqlite.Connection
type Write[T] = Callable[[sqlite3.Connection, Rings], T]

# Changes nothing and takes the write lock. To read first would fix what the transaction sees, and then somebody else's
# write makes SQLite refuse ours instead of waiting.
_LOCK: Final = "UPDATE main.sitq_meta SET value = value WHERE key = ''"
_VERSION: Final = "SELECT key, value FROM main.sitq_meta WHERE key = 'schema_version'"

_CLOSED: Final = ("Connection closed", "no active connection")
"""What aiosqlite says of it."""


class Host(NamedTuple):
    """What the backend gives to those who write through other connections than its own.

    Attributes:
        file: Where the tasks are, resolved; None for a database in memory.
        check: Raises if the backend is not open in this process.
        now: The storage's clock, in microseconds.
        written: Takes what is to be rung when the transaction is over. Callable from any thread.
    """

    file: Path | None
    check: Callable[[], None]
    now: Callable[[], int]
    written: Callable[[Rings], None]


class Guest(Within):
    """What the backend writes through one connection of the application."""

    def __init__(self, host: Host, connection: object) -> None:
        if not isinstance(connection, sqlite3.Connection | aiosqlite.Connection):
            raise ValidationError(
                f"connection is a {type(connection).__qualname__}: give an open sqlite3.Connection or "
                "aiosqlite.Connection (of a wrapper, the driver's connection that is in it)"
            )
        if host.file is None:
            raise ValidationError(
                "this queue is in memory, which belongs to its own connection alone: for a common transaction give the "
                "queue a file"
            )
        self._file = host.file
        self._host = host
        self._connection: Final[Connection] = connection

    @property
    def blocking(self) -> bool:
        return isinstance(self._connection, sqlite3.Connection)

    async def enqueue(
        self, tasks: Sequence[NewTask], *, max_pending: Mapping[str, int] | None = None
    ) -> list[Enqueued]:
        def store(db: sqlite3.Connection, rings: Rings) -> list[Enqueued]:
            done = enqueue.enqueue_carefully(db, tasks, max_pending or {}, self._host.now(), rings)
            if isinstance(done, SitqError):
                raise done
            return done

        return await self._run(store)

    async def complete(
        self, outcome: Succeeded, *, notes: Callable[[], Sequence[NewNote]] = no_notes
    ) -> bool:
        def end(db: sqlite3.Connection, rings: Rings) -> bool:
            row = rows.by_id(db, [outcome.held.id]).get(outcome.held.id)
            if row is None or row.fence != outcome.held.fence or not row.is_held:
                return False
            done, _ = reports.complete(db, [outcome], notes(), self._host.now(), rings)
            return done.accepted == 1

        return await self._run(end)

    async def _run[T](self, write: Write[T]) -> T:
        self._host.check()

        def run(db: sqlite3.Connection) -> T:
            rings = Rings()
            answer = _run_inside(db, self._file, lambda db: write(db, rings))
            if rings:
                self._host.written(rings)
            return answer

        if isinstance(self._connection, sqlite3.Connection):
            return run(self._connection)
        return await _on_its_thread(self._connection, run)


async def _on_its_thread[T](connection: aiosqlite.Connection, run: Callable[[sqlite3.Connection], T]) -> T:
    """Run a function on the thread of a connection, whole or not at all, whatever becomes of the caller meanwhile."""
    left = False

    def unless_left() -> T:
        if left:
            raise asyncio.CancelledError
        return run(connection._conn)  # pyright: ignore[reportPrivateUsage]

    try:
        # Private, since the public methods are one statement a hop: others of the application could come between two of
        # them. Version bounded in pyproject.toml, contract in tests/unit/test_within.py.
        answer: T = await connection._execute(unless_left)  # type: ignore[no-untyped-call]  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]
    except ValueError as error:
        if str(error) in _CLOSED:
            raise _closed() from error
        raise
    except asyncio.CancelledError:
        left = True
        raise
    return answer


# -- On the thread of the connection ---------------------------------------------------------------


def _run_inside[T](db: sqlite3.Connection, file: Path, write: Callable[[sqlite3.Connection], T]) -> T:
    """Run a write in the open transaction: all of it, or nothing."""
    with _plain_rows(db):
        try:
            _check_file(db, file)
            begun = _begin(db)
        except sqlite3.Error as error:
            raise _told(error) from error
        try:
            db.execute("SAVEPOINT sitq_within")
            _take_lock(db)
            answer = write(db)
            db.execute("RELEASE sitq_within")
        except BaseException as error:
            kept = _undo(db, begun)
            known = _told(error)
            if not kept:
                known.add_note("SQLite has rolled back the whole transaction: begin it again")
            if known is error:
                raise
            raise known from error
        return answer


@contextmanager
def _plain_rows(db: sqlite3.Connection) -> Generator[None]:
    """Read as sitq reads, however the application wants its rows and texts made."""
    row_factory, text_factory = db.row_factory, db.text_factory
    db.row_factory, db.text_factory = None, str
    try:
        yield
    finally:
        # With aiosqlite they are set on another thread: what was set meanwhile stays.
        if db.row_factory is None:
            db.row_factory = row_factory
        if db.text_factory is str:
            db.text_factory = text_factory


def _check_file(db: sqlite3.Connection, file: Path) -> None:
    attached = {str(name): str(path) for _, name, path in db.execute("PRAGMA database_list").fetchall()}
    if _is_named(attached["main"], file):
        return
    for name, path in attached.items():
        if name != "main" and _is_named(path, file):
            raise ValidationError(
                f"connection has the queue's file {file} attached as {name!r}: it must be the main database. Connect "
                "to it, and attach the other one"
            )
    raise ValidationError(
        f"connection is to {attached['main'] or 'a database in memory'}, and the queue is in {file}: a transaction is "
        "in one file. Connect to the queue's file"
    )


def _is_named(path: str, file: Path) -> bool:
    # A second hard link is refused: SQLite keeps its log beside each name, and two logs ruin the file.
    if not path:
        return False
    other = Path(path)
    if other.resolve() == file:
        return True
    try:
        return other.samefile(file) and file.stat().st_nlink == 1
    except OSError:
        return False


def _begin(db: sqlite3.Connection) -> bool:
    """Begin a transaction where sqlite3 itself would, before a statement that writes. True if that was done."""
    if db.in_transaction:
        return False
    if db.autocommit == sqlite3.LEGACY_TRANSACTION_CONTROL and db.isolation_level is not None:
        db.execute(f"BEGIN {db.isolation_level}")
        return True
    raise ValidationError(
        "connection has no open transaction and would commit each statement by itself: execute BEGIN IMMEDIATE before, "
        "and COMMIT after it"
    )


def _take_lock(db: sqlite3.Connection) -> None:
    db.execute(_LOCK)
    row = db.execute(_VERSION).fetchone()
    if row == ("schema_version", VERSION):
        return
    if row is not None and row[0] == "schema_version" and isinstance(row[1], int):
        raise BackendSchemaError(
            f"the database has schema {row[1]}, this sitq knows {VERSION}: close and open the queue again"
        )
    raise ValidationError(
        "connection turns what is declared TEXT or INTEGER into something else, by detect_types and a converter: give "
        "one without"
    )


def _undo(db: sqlite3.Connection, begun: bool) -> bool:
    """Leave the transaction as it was. False if SQLite has ended it."""
    try:
        if not db.in_transaction:  # some errors roll back by themselves
            return begun
        if begun:
            db.execute("ROLLBACK")
        else:
            db.execute("ROLLBACK TO sitq_within")
            db.execute("RELEASE sitq_within")
    except sqlite3.Error:
        pass  # there was no savepoint yet, or nothing works any more: the first error says why
    return True


def _told(error: BaseException) -> BaseException:
    """What the application is told of an error on its own connection."""
    if not isinstance(error, sqlite3.Error):
        return error
    code, text = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR), str(error)
    if isinstance(error, sqlite3.ProgrammingError):
        return _closed() if "closed" in text else ValidationError(f"connection cannot be used here: {text}")
    if code == sqlite3.SQLITE_BUSY_SNAPSHOT:
        return BackendTimeoutError(
            "your transaction has read, and somebody else has written since, so that it cannot write any more. This "
            "call wrote nothing. Roll back and repeat it, with BEGIN IMMEDIATE"
        )
    if "in progress" in text:
        return ValidationError(
            f"connection has a statement that is not finished ({text}): fetch all rows of your INSERT, UPDATE or "
            "DELETE ... RETURNING before"
        )
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BackendTimeoutError(
            f"somebody else held the write lock for longer than the timeout of your connection ({text}). This call "
            "wrote nothing. Keep transactions on this file short, or connect with a longer timeout"
        )
    if code & 0xFF == sqlite3.SQLITE_READONLY:
        return ValidationError(f"connection is for reading only ({text}): open it for writing")
    if "no such table: main.sitq_meta" in text:
        return ValidationError(
            "the transaction on connection began before the queue made its tables: open the queue first"
        )
    return translated(error)


def _closed() -> ValidationError:
    return ValidationError("connection is closed: give an open one")
