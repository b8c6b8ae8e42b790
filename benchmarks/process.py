"""Real processes beside this one."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sitq

_ROOT = Path(__file__).resolve().parent.parent
_ANSWER_LIMIT = 120.0


class Child:
    """A Python process that does a part of a measurement, usually a module of `benchmarks.children`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    def tell(self, *words: object) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    async def answer(self) -> dict[str, Any]:
        """Wait for a line and return what it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_ANSWER_LIMIT):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child process {self.pid} ended before it answered")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def child(module: str, *arguments: object) -> AsyncIterator[Child]:
    """Start `python -m MODULE ARGUMENTS`; it is killed at the end of the block."""
    paths = [str(_ROOT), str(Path(sitq.__file__).parent.parent)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        yield Child(process)
        if process.returncode is not None:
            raise RuntimeError(f"python -m {module} ended by itself, with exit code {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
