"""Add an executor: coroutines that block now and then get an event loop of their own, beside the worker's.

    python -m examples.own_runner

Prints

    task work ran on the thread `own-loop`
    one that takes an hour has ended as cancelled
    executor is 'own-lop', which nobody knows here: did you mean 'own-loop'? ...
"""

import asyncio
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sitq import Call, TaskQueue, ValidationError, Worker, current_task, task
from sitq.events import TaskLogged


class OwnLoop:
    """Runs coroutine functions on one event loop in a thread. What blocks that loop does not block the worker."""

    def __init__(self, concurrency: int) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="own-loop", daemon=True).start()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def run(self, call: Call[Any]) -> Any:
        # It is called in the context of the task, and takes a copy of it along. If the task is to stop, the `await` is
        # cancelled, and so the coroutine over there.
        coroutine = call.func(*call.args, **call.kwargs)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@task(executor="own-loop", name="work")
async def work() -> str:
    time.sleep(0.01)  # noqa: ASYNC251  # what the worker's own loop should be spared
    return f"task {current_task().name} ran on the thread `{threading.current_thread().name}`"


@task(executor="own-loop")
async def wait() -> None:
    current_task().log("began")
    await asyncio.sleep(3600)


async def main(db: Path) -> None:
    async with TaskQueue(db, runners={"own-loop": OwnLoop}) as queue, Worker(queue):
        print(await (await queue.enqueue(work)).result(timeout=30))

        waiting = await queue.enqueue(wait)
        async for entry in waiting.events():
            if isinstance(entry.event, TaskLogged):
                print(f"one that takes an hour has ended as {await waiting.cancel(timeout=30)}")

        try:
            await queue.options(executor="own-lop").enqueue(work)
        except ValidationError as error:
            print(str(error).partition("?")[0] + "? ...")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "runner.db"))
