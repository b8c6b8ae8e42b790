"""Whether the files that a connection has open are still those that others find.

When a file is removed or replaced while it is open, SQLite goes on in one that has no name any more, and what is
acknowledged then is lost with it.
"""

import os
import sys
from pathlib import Path

from sitq.errors import BackendConnectionError


class Place:
    """The files of one database, by name and by what the names meant when it was opened.

    Args:
        path: The database. None for one without files, which is always in its place. On Windows nothing is looked
            at: there an open file cannot be removed.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None or sys.platform == "win32" else str(path)
        self._database: os.stat_result | None = None
        self._log: os.stat_result | None = None

    @property
    def is_known(self) -> bool:
        """Whether the database was remembered."""
        return self._database is not None

    def forget(self) -> None:
        """Whatever is found from now on will do: nothing is open."""
        self._database = self._log = None

    def forget_log(self) -> None:
        """The log may be removed from now on: the last connection that is closed does that."""
        self._log = None

    def take_database(self) -> None:
        """Remember the database, before it is opened.

        Raises:
            BackendConnectionError: Another one was remembered.
        """
        if self.is_lost():
            raise self.error()
        if self._path is not None:
            self._database = Path(self._path).stat()

    def take_log(self) -> None:
        """Remember the log, when it is open."""
        if self._path is not None:
            self._log = look(f"{self._path}-wal")

    def is_lost(self) -> bool:
        """Whether another file is there now, or none."""
        return self._path is not None and not (
            is_at(self._path, self._database) and is_at(f"{self._path}-wal", self._log)
        )

    def error(self) -> BackendConnectionError:
        """What to raise then. A new one for each caller."""
        return BackendConnectionError(
            f"{self._path} or its -wal was removed or replaced while it was open: what was just asked for may be in "
            "the old file, and nobody else will find it there. Put the old files back, or close this and open it again "
            "for what is there now, and repeat with the same task ids"
        )


def look(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_at(path: str, known: os.stat_result | None) -> bool:
    """Whether `known` is what the path means. True if that cannot be told."""
    if known is None:
        return True
    try:
        found = os.stat(path)  # noqa: PTH116  # in each transaction: a Path would cost as much again
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # a folder that is closed to us meanwhile, say
        return True
    return found.st_ino == known.st_ino and found.st_dev == known.st_dev
