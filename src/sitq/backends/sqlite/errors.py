"""The one place where sqlite3's exceptions become sitq's."""

import sqlite3

from sitq.errors import (
    BackendConnectionError,
    BackendError,
    BackendTimeoutError,
    SitqError,
    StorageFullError,
)


def translated(error: BaseException) -> BaseException:
    """The sitq error for an exception of the driver; anything else comes back as it is."""
    if isinstance(error, SitqError) or not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            made: BackendError = StorageFullError(
                f"no space left for the database ({error}): nothing was written. Free some space or "
                f"call prune, then repeat"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            made = BackendTimeoutError(
                f"another process held the write lock for longer than busy_timeout ({error}): nothing was written. "
                "Keep transactions on this file short, or raise busy_timeout"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            made = BackendConnectionError(
                f"the database cannot be written ({error}): check the permissions of the file and its folder"
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            made = BackendConnectionError(
                f"the file is damaged or is not a SQLite database ({error}): it was left as it is. Run "
                f"`sitq doctor` on it"
            )
        case sqlite3.SQLITE_CANTOPEN:
            made = BackendConnectionError(
                f"the database file cannot be opened ({error}): check that its folder exists"
            )
        case sqlite3.SQLITE_IOERR:
            made = BackendError(
                f"the disk reported an error ({error}): whether the write happened is unknown; repeat "
                f"it with the same task id"
            )
        case _:
            made = BackendError(f"SQLite failed: {error}")
    made.__cause__ = error
    return made


def commit_unknown(reason: Exception) -> BackendError:
    """The error for a transaction of which nobody can tell whether it took place."""
    made = BackendError(
        f"a commit failed ({reason}): whether it took place is unknown; repeat it with the same task id"
    )
    made.__cause__ = reason
    return made
