"""The database as a file: where it may lie, who may read it, and the lock that lets processes take turns."""

import errno
import logging
import os
import re
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from sitq.errors import BackendConnectionError

if sys.platform != "win32":  # pragma: no branch: Windows, where SQLite's busy handler alone makes turns
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock

logger = logging.getLogger("sitq.sqlite")

MIN_SQLITE: Final = (3, 37, 0)
"""STRICT tables came with 3.37 (2021-11)."""

WAL_RESET_FIXED: Final = (3, 51, 3)
"""Before it, a commit and a checkpoint at the same instant may corrupt the file (sqlite.org/wal.html)."""

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs",
     "fuse.s3fs", "fuse.rclone"}
)  # fmt: skip

MOUNTS: Final = Path("/proc/self/mountinfo")
# In the fifth field, the mount point, a space is written as \040, and so on (proc(5)).
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")

_FIRST_PAUSE: Final = 0.000_05
_LONGEST_PAUSE: Final = 0.000_5


def check_sqlite_version() -> None:
    """Raise `BackendConnectionError` if the interpreter's SQLite is too old."""
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise BackendConnectionError(
            f"this Python is linked to SQLite {sqlite3.sqlite_version}; sitq needs "
            f"{'.'.join(map(str, MIN_SQLITE))} or newer: use a newer Python build"
        )


def has_wal_reset_bug() -> bool:
    """Whether the interpreter's SQLite is one of those with the WAL-reset bug."""
    return sqlite3.sqlite_version_info < WAL_RESET_FIXED


@cache
def warn_of_old_sqlite() -> None:
    """Log once in a process that its SQLite has the WAL-reset bug."""
    if has_wal_reset_bug():
        logger.warning(
            "SQLite %s has the WAL-reset bug (fixed in 3.51.3). sitq's processes take turns by a lock and so avoid it; "
            "do not let other programs write to the same file",
            sqlite3.sqlite_version,
        )


def prepare(path: Path, *, allow_network_fs: bool) -> None:
    """Check that a database may live at `path` and create the file, readable by its owner alone.

    Raises:
        BackendConnectionError: naming the path and what is wrong with it. Nothing was created then.
    """
    folder = path.parent
    if not folder.is_dir():
        raise BackendConnectionError(
            f"cannot open {path}: the folder {folder} does not exist. Create it first"
        )
    if path.is_dir():
        raise BackendConnectionError(f"cannot open {path}: it is a folder. Give the path of a file")
    kind = file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS and not allow_network_fs:
        raise BackendConnectionError(
            f"{path} lies on a network file system ({kind}), where SQLite's locks and shared memory do "
            f"not work and data gets "
            "lost. Use a local disk, or pass allow_network_fs=True if only one process on one machine ever opens it"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BackendConnectionError(
            f"cannot write in {folder} as {_user()}: SQLite keeps its log beside the database. Use a "
            f"folder you may write to"
        )
    with _creating:
        _check_log(path)
        try:
            _create(path)
        except OSError as error:
            raise BackendConnectionError(
                f"cannot open {path} for writing as {_user()} ({error.strerror}): check the file's owner and mode"
            ) from error


_creating: Final = threading.Lock()


def _check_log(path: Path) -> None:
    """Refuse a log without its database: SQLite deletes it without a word, whatever is in it."""
    log = path.with_name(path.name + "-wal")
    # In this order: who creates the database at this moment writes into it before there is a log.
    if size_of(log) and not size_of(path):
        raise BackendConnectionError(
            f"{path} is missing or empty, but its log {log.name} is not, and there may be tasks in it: put the "
            "database back beside it, or remove the log as well to begin with nothing. Nothing was changed"
        )


def size_of(path: Path) -> int:
    """In bytes; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _create(path: Path) -> None:
    """Before SQLite creates it with the umask's mode: payloads are code and data of the application.

    A file that is there is not opened, and nobody in this process comes to open this one before it is closed again. To
    close any descriptor of a database drops all locks that the process has on it, and then another process may take
    itself for the last user and delete the log (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None


def file_system(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the file system that holds `folder`, where the platform tells (Linux), else None."""
    try:
        text = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    target = folder.resolve()
    best, kind = -1, None
    for line in filter(None, text.split("\n")):
        before, _, after = line.partition(" - ")
        mount = Path(_ESCAPE.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4]))
        if (target == mount or mount in target.parents) and len(mount.parts) >= best:
            best, kind = len(mount.parts), after.split()[0]
    return kind


def _user() -> str:
    return f"uid {os.getuid()}" if sys.platform != "win32" else "this user"


class WriteLock:
    """An advisory lock on a side file, held around each write transaction by every sitq process.

    SQLite's busy handler sleeps with back-off, which makes shares unfair and waits long. A lock on a side
    file is taken over within a millisecond. It is a courtesy, not a safety measure: when it cannot be had in
    `timeout` seconds the transaction goes ahead and SQLite's own lock decides. A process that dies gives it
    back.
    """

    def __init__(self, path: Path | None, *, timeout: float = 0.0) -> None:
        self._path = path if sys.platform != "win32" else None
        self._timeout = timeout
        self._fd = -1
        self._taken = False
        _locks.add(self)

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold it meanwhile. Used on one thread; within itself it changes nothing."""
        if self._path is None or self._taken:
            yield
            return
        self._taken = self._take(self._path)
        try:
            yield
        finally:
            if self._taken:
                self._taken = False
                flock(self._fd, LOCK_UN)

    def _take(self, path: Path) -> bool:
        if self._fd < 0:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:  # the file of another user, say
                logger.debug("cannot take turns by %s (%s); SQLite's own lock decides", path, error)
                return False
        # flock has no timeout, and a peer may be stopped while it holds the lock; so ask again in short steps.
        deadline = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                flock(self._fd, LOCK_EX | LOCK_NB)
            except OSError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
            else:
                return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


# A forked child shares the descriptor, and with it the lock: if the parent died, the child would go on holding it.
_locks: "weakref.WeakSet[WriteLock]" = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_locks):
        lock.close()


if sys.platform != "win32":  # pragma: no branch: Windows, where nothing forks
    os.register_at_fork(after_in_child=_close_in_child)
