"""Enqueue tasks that start later: at a time of day, or after a delay.

    python -m examples.delayed_task

Prints in this order, although the tasks are enqueued in the opposite one

    at once
    after a delay
    at its time
    started 0.00 s after its time
"""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sitq import TaskQueue, Worker


def announce(text: str) -> None:
    print(text, flush=True)


async def main(db: Path) -> None:
    async with TaskQueue(db) as queue, Worker(queue):
        # A datetime must say its time zone. A naive one is refused.
        at = datetime.now(UTC) + timedelta(seconds=3)
        last = await queue.enqueue(announce, "at its time", eta=at)
        await queue.options(delay=1).enqueue(announce, "after a delay")
        await queue.enqueue(announce, "at once")

        await last.result(timeout=30)
        task = await queue.get(last)
        assert task.started_at is not None
        print(f"started {(task.started_at - at).total_seconds():.2f} s after its time")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "delayed_task.db"))
