"""Give a worker more tasks than it may run at once, and count.

    python -m examples.bounded_concurrency

Prints

    60 tasks done, never more than 5 at once
"""

import asyncio
import tempfile
from pathlib import Path

from examples.gauge import gauge, on_a_thread, on_the_loop
from sitq import Status, TaskQueue, Worker, call

LIMIT = 5


async def main(db: Path) -> None:
    async with TaskQueue(db) as queue:
        # One limit for both kinds: functions on threads, and coroutines on the event loop.
        await queue.enqueue_many([call(on_a_thread)] * 30)
        await queue.enqueue_many([call(on_the_loop)] * 30)
        await Worker(queue, concurrency=LIMIT).run(until_idle=True)

        done = await queue.find(status=Status.SUCCESS)
        print(f"{len(done)} tasks done, never more than {gauge.most} at once")
        assert gauge.most == LIMIT


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "bounded_concurrency.db"))
