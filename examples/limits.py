"""Ask somebody else's service: two calls at once and ten in a second, whatever the number of workers.

    python -m examples.limits

Prints

    30 calls, never more than 2 at once, never more than 10 within a second
    a second click on the button was the first one again
"""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

from examples.gauge import gauge, on_the_loop
from sitq import TaskQueue, Worker, call

AT_ONCE, A_SECOND = 2, 10


async def main(db: Path) -> None:
    async with TaskQueue(db) as queue:
        service = queue.options(
            concurrency_key="service",
            concurrency_limit=AT_ONCE,
            rate_limit=f"{A_SECOND}/s",
            rate_key="service",
        )
        handles = await service.enqueue_many([call(on_the_loop)] * 30)
        async with Worker(queue), Worker(queue):
            for handle in handles:
                await handle.result(timeout=60)

        starts = sorted([task.started_at for task in await queue.find() if task.started_at is not None])
        spans = [later - earlier for earlier, later in zip(starts, starts[A_SECOND:], strict=False)]
        assert min(spans) >= timedelta(seconds=1)
        assert gauge.most == AT_ONCE
        print(
            f"{len(handles)} calls, never more than {gauge.most} at once, "
            f"never more than {A_SECOND} within a second"
        )

        clicks = [await queue.options(unique_key="refresh").enqueue(on_the_loop) for _ in range(2)]
        assert clicks[0] == clicks[1]
        print("a second click on the button was the first one again")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "limits.db"))
