"""Enqueue calls, run them in the same process, and read their results.

    python -m examples.quickstart

Prints

    a.png is 300 pixels wide
    b.png is here
    hello from a function of this script
    the last one: success after 1 attempt
"""

import asyncio
import tempfile
from pathlib import Path

from examples.images import download, resize
from sitq import TaskQueue, Worker


def greet() -> str:
    """No worker can import `__main__`, where this is defined. So the function itself travels with the call."""
    return "hello from a function of this script"


async def main(db: Path) -> None:
    async with TaskQueue(db) as queue, Worker(queue):
        # These can be imported. What travels is their name.
        resized = await queue.enqueue(resize, "a.png", width=300)
        downloaded = await queue.enqueue(download, "b.png")
        greeted = await queue.enqueue(greet)

        print(await resized.result(timeout=10))
        print(await downloaded.result(timeout=10))
        print(await greeted.result(timeout=10))

        # A handle is a string, the id of the task. Whoever has the id can ask for the result.
        result = await queue.get_result(str(greeted))
        print(f"the last one: {result.status} after {result.attempts} attempt")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "quickstart.db"))
