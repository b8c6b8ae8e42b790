"""A task that is tried again, one that takes too long, and a new run by hand for what failed for good.

    python -m examples.retries

Prints

    got an answer in attempt 3
    attempt 1: ConnectionError, no answer
    attempt 2: ConnectionError, no answer
    failed for good after 2 attempts: TimeoutError
    started again by hand: done
"""

import asyncio
import tempfile
from pathlib import Path

from sitq import RetryPolicy, TaskQueue, TaskRetryExhaustedError, Worker, current_task, task

QUICK = RetryPolicy(max_attempts=3, base=0.01, on=(ConnectionError, TimeoutError))


@task(retry=QUICK)
async def ask() -> str:
    attempt = current_task().attempt
    if attempt < 3:
        raise ConnectionError("no answer")
    return f"got an answer in attempt {attempt}"


@task(max_retries=1, retry_delay=0, timeout=0.2)
async def work_at(server: Path) -> str:
    if not (server / "is-up").exists():  # a look at a local folder
        await asyncio.Event().wait()
    return "done"


async def main(folder: Path) -> None:
    async with TaskQueue(folder / "retries.db") as queue, Worker(queue):
        asking = await queue.enqueue(ask)
        print(await asking.result(timeout=30))
        for failed in (await queue.get(asking)).attempts_log:
            print(f"attempt {failed.attempt}: {failed.error.type}, {failed.error.message}")

        waiting = await queue.enqueue(work_at, folder)
        try:
            await waiting.result(timeout=30)
        except TaskRetryExhaustedError as error:
            print(f"failed for good after {error.attempts} attempts: {error.error_type}")

        (folder / "is-up").touch()
        await queue.requeue(waiting)
        print("started again by hand:", await waiting.result(timeout=30))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
