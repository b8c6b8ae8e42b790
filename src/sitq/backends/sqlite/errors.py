"""The one place where sqlite3's exceptions become sitq's."""

import sqlite3
from collections.abc import Callable
from typing import Final

from sitq.errors import (
    BackendConnectionError,
    BackendError,
    BackendTimeoutError,
    SitqError,
    StorageFullError,
)

_DAMAGE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading raises that meets a value which sitq never writes."""


class DamagedError(BackendError):
    """A row is not as sitq writes it. Nothing was written."""


def checked[**P, T](operation: Callable[P, T]) -> Callable[P, T]:
    """The operation, with a `DamagedError` for rows that it cannot read. Not for one that is given what users made."""

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return operation(*args, **kwargs)
        except SitqError:
            raise
        except _DAMAGE as error:
            raise _damaged(error) from error

    return run


def _damaged(error: BaseException) -> DamagedError:
    return DamagedError(
        f"a row of the database is not as sitq writes it ({type(error).__name__}: {error!s:.200}): it was damaged, or "
        "written by another program. Nothing was written; repair the row, discard its task, or restore a backup"
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
        # Text that is not UTF-8, and bytes where there should be a number or text.
        case _ if str(error).startswith(("Could not decode", "JSON cannot hold BLOB")):
            made = _damaged(error)
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
