"""Starting a child process, ending it, and saying how it ended.

Not by multiprocessing: a fork of a process with threads is not safe, and its spawn imports the program's main module
again. A child is a fresh interpreter that knows nothing but its first line.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from contextlib import suppress
from typing import Any, Final, cast

from sitq.worker.wire import ChildSetup, Wire

_FIRST_LINE: Final = (
    "import json, sys; start = json.loads(sys.stdin.readline() or sys.exit(1)); sys.path[:] = start['paths']; "
    "from sitq.worker.child import main; main(start['link'])"
)
_WINDOWS: Final = sys.platform == "win32"


class Spawned:
    """A process that leads a group of its own, and the connection to it. `kill` and `is_dead` from any thread."""

    def __init__(self, setup: ChildSetup) -> None:
        """Start it.

        Raises:
            OSError: The interpreter cannot be started.
        """
        ours, theirs = socket.socketpair()
        self.wire: Final = Wire(ours)
        self._lock = threading.Lock()
        self._reaped = False
        try:
            self._process = _start(theirs)
            _tell(self._process, setup.paths, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def is_dead(self) -> bool:
        """Whether it has ended. It is not reaped by this, so nobody else gets its number meanwhile."""
        if _WINDOWS:  # pragma: no cover: Windows
            return self._process.poll() is not None
        return _has_ended(self._process.pid, os.WNOHANG)

    def kill(self) -> None:
        """Kill it, and what it has started in its group. Nothing happens if it is gone."""
        with self._lock:
            if self._reaped:
                return
            if _WINDOWS:  # pragma: no cover: Windows
                self._process.kill()
            else:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Wait for its end, end what it has left in its group, and return how it ended, as `Popen` has it."""
        if not self._reaped and not _WINDOWS:
            _has_ended(self._process.pid)
            self.kill()
        code = self._process.wait()
        with self._lock:
            self._reaped = True
        return code


def _start(theirs: socket.socket) -> "subprocess.Popen[bytes]":
    options: dict[str, Any] = {"process_group": 0, "pass_fds": [theirs.fileno()]}
    if _WINDOWS:  # pragma: no cover: Windows
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    # As this interpreter was started, with -O, -X dev or -W error: as multiprocessing does it.
    flags: list[str] = vars(subprocess)["_args_from_interpreter_flags"]()
    command = [sys.executable, *flags, "-c", _FIRST_LINE]
    # What a task writes goes where the worker's own goes.
    process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, **options)  # noqa: S603
    return cast("subprocess.Popen[bytes]", process)


def _tell(process: "subprocess.Popen[bytes]", paths: tuple[str, ...], theirs: socket.socket) -> None:
    link: int | str = theirs.fileno()
    if _WINDOWS:  # pragma: no cover: Windows
        link = b64encode(theirs.share(process.pid)).decode()  # type: ignore[attr-defined]
    line = json.dumps({"paths": paths, "link": link}) + "\n"
    assert process.stdin is not None
    with suppress(OSError), process.stdin:  # one that has ended already is found dead later
        process.stdin.write(line.encode())


def _has_ended(pid: int, flags: int = 0) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | flags) is not None
    except ChildProcessError:  # somebody else has reaped it
        return True


def describe_end(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"
