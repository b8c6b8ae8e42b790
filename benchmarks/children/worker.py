"""A worker that waits for work until the process is killed. Arguments: PATH DURABILITY."""

import asyncio
import sys
from typing import Any

from benchmarks.children import say
from sitq import TaskQueue, Worker
from sitq.backends.sqlite import SQLiteBackend


async def main(path: str, durability: Any) -> None:
    """Run the worker, with the settings that it has by itself."""
    async with TaskQueue(SQLiteBackend(path, durability=durability)) as queue, Worker(queue):
        say(ready=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
