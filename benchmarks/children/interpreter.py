"""An interpreter that has loaded what every worker needs, with a connection open, and sleeps. Argument: PATH."""

import asyncio
import sys

import aiosqlite
import cloudpickle  # noqa: F401

from benchmarks.children import say


async def main(path: str) -> None:
    """Sleep until the process is killed."""
    async with aiosqlite.connect(path) as db:
        await db.execute_fetchall("SELECT count(*) FROM sqlite_master")
        say(ready=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
