"""The shim that stands between a process and its disk, from outside and from inside of that process."""

import ctypes
import os
import shutil
import subprocess
import sys
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("shim.c")
EVER = -1


class Call(IntFlag):
    """The kinds of calls, as in shim.c."""

    OPEN = 1
    WRITE = 2
    TRUNCATE = 4
    SYNC = 8
    UNLINK = 16


ALL = Call.OPEN | Call.WRITE | Call.TRUNCATE | Call.SYNC | Call.UNLINK


class Fault(NamedTuple):
    """What is to go wrong.

    Attributes:
        calls: Which are counted.
        nth: Which of them fails first, from 1; 0 for none.
        times: How many fail, or `EVER`.
        error: The errno that they get.
        die_after: How many calls after the first one that fails the process ends: 0 instead of failing, and -1 never.
    """

    calls: Call = ALL
    nth: int = 0
    times: int = 1
    error: int = 0
    die_after: int = -1


def missing() -> str | None:
    """Why it cannot be had here, and the way out."""
    if sys.platform != "linux":
        return "the shim reads /proc/self/fd and is loaded by LD_PRELOAD: run this on Linux"
    if compiler() is None:
        return "no C compiler: install one (apt-get install gcc), or name it in CC"
    return None


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Path:
    """Compile it into `folder`."""
    library, found = folder / "shim.so", compiler()
    assert found is not None, missing()
    command = [found, "-O1", "-Wall", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return library


class Shim:
    """The controls, for the process that it was loaded into."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)

    def arm(self, database: Path, fault: Fault) -> None:
        """Count from now on, and let fail what is to fail."""
        self._library.shim_arm(os.fsencode(database), *fault)

    def trace(self, fd: int) -> None:
        """Write down into `fd` from now on."""
        self._library.shim_trace(fd)

    def mark(self, text: str) -> None:
        """Put a word between what is written down."""
        self._library.shim_mark(text.encode())

    @property
    def counted(self) -> int:
        return int(self._library.shim_counted())

    @property
    def failed(self) -> int:
        return int(self._library.shim_failed())
