"""Forked processes, and fresh interpreters, that end with the one that started them."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import tests.lab.kill.application as application

KILLED = -9


class Nursery:
    """Starts processes. Opens no SQLite and starts no threads, so its children start clean.

    Each of them ends when this process does, however that comes about: they notice that a pipe is closed.
    """

    def __init__(self) -> None:
        self._kept, self._given = os.pipe()
        self.living: set[int] = set()
        # What was imported by now is not looked at again in each child, so its pages stay shared.
        gc.collect()
        gc.freeze()

    def fork(self, main: Callable[[], Coroutine[Any, Any, None]]) -> int:
        """Run `main` in a child. It ends with 0, or with 1 and a traceback on stderr."""
        pid = os.fork()
        if pid:
            self.living.add(pid)
            return pid
        code = 1
        try:
            os.setpgid(0, 0)  # a SIGINT of the terminal is for the parent alone
            os.close(self._given)
            asyncio.run(self._watched(main))
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    async def _watched(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.get_running_loop().add_reader(self._kept, os._exit, 3)
        await main()

    def command(self, folder: Path, *arguments: str) -> int:
        """Run the command `sitq` in a fresh interpreter, on the queue in this folder."""
        pid = os.fork()
        if pid:
            self.living.add(pid)
            return pid
        try:
            os.set_inheritable(self._kept, True)
            os.setpgid(0, 0)
            variables = {application.FOLDER: str(folder), application.PARENT: str(self._kept)}
            path = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, **variables, "PYTHONPATH": path}
            os.execve(sys.executable, [sys.executable, "-m", "sitq", *arguments], environment)
        finally:
            os._exit(1)

    def end(self, pid: int) -> None:
        """Kill a process. One that has ended by itself is a failure of its own."""
        os.kill(pid, signal.SIGKILL)
        self.wait(pid, KILLED)

    def wait(self, pid: int, code: int) -> None:
        """Wait for its end, and see that it ended with this code."""
        _, status = os.waitpid(pid, 0)
        self._gone(pid, status, code)

    def has_ended(self, pid: int, code: int) -> bool:
        """Whether it has ended; if so, with this code."""
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            self._gone(pid, status, code)
        return bool(ended)

    def _gone(self, pid: int, status: int, code: int) -> None:
        self.living.discard(pid)
        found = os.waitstatus_to_exitcode(status)
        if found != code:
            raise RuntimeError(f"a process ended with {found} instead of {code}; what it said is on stderr")

    def close(self) -> None:
        """Kill whoever is left."""
        for pid in self.living:
            # One whose end was seen in the very moment of an interrupt is there no more.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.living.clear()
        os.close(self._given)
        os.close(self._kept)
        gc.unfreeze()
