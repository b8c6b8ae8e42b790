"""The worker, in a process of its own."""

import sys
from asyncio.subprocess import Process, create_subprocess_exec
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

LEASE = 1.5
"""Seconds until the tasks of a dead worker are up for grabs. 30 is the default; here nobody wants to wait that long."""

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def worker_process(db: Path, *, concurrency: int) -> AsyncGenerator[Process]:
    """Run a worker on the file `db` for as long as the block lasts.

    It runs in the folder that holds `examples`, so that it can import the functions that the tasks name.
    """
    process = await create_subprocess_exec(*worker_command(db, concurrency), cwd=ROOT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def worker_command(db: Path, concurrency: int) -> list[str]:
    """Return the command line of a worker."""
    options = f"--concurrency {concurrency} --lease {LEASE} --log-level error".split()
    return [sys.executable, "-m", "sitq", "worker", str(db.resolve()), *options]
