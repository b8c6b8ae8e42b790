"""What is run under the shim: a client that takes every step, and a worker. Both write down what they were told."""

import json
import os
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sitq import RetryPolicy, SitqError, TaskQueue, Worker, current_task
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendTimeoutError, StorageFullError
from sitq.events import StorageFailed
from sitq.model import Held
from tests.lab.storage.recording import record
from tests.lab.storage.shim import Shim
from tests.lab.storage.steps import STEPS, Stage
from tests.lab.storage.zygote import Job, Workload
from tests.support import FakeClock

TRIES = 2
KNOWN = (StorageFullError, BackendTimeoutError)
"""The errors that say that nothing was written."""


class Diary:
    """What happened, line by line, where no fault reaches it."""

    def __init__(self, folder: str) -> None:
        self._fd = os.open(Path(folder, "diary"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *entry: object) -> None:
        os.write(self._fd, (json.dumps(entry) + "\n").encode())


async def tried(diary: Diary, name: str, run: Callable[[], Awaitable[bool]]) -> bool:
    """Ask for it, and once more if that is refused, as one does. Only what sitq says on purpose may be said."""
    for _ in range(TRIES):
        diary.write("asked", name)
        try:
            effective = await run()
        except SitqError as error:
            diary.write("refused", name, isinstance(error, KNOWN), f"{type(error).__name__}: {error}")
        except BaseException:
            diary.write("raw", name, traceback.format_exc())
            raise
        else:
            diary.write("acked", name, effective)
            return effective
    return False


async def take_steps(job: Job, shim: Shim) -> None:
    """Open, take every step whose needs are met, and close."""
    diary = Diary(job.folder)
    shim.arm(job.database, job.fault)
    clock = FakeClock()
    backend = SQLiteBackend(job.database, clock=clock)

    async def opened() -> bool:
        await backend.open()
        return True

    if not await tried(diary, "open", opened):
        return
    held: dict[str, Held] = {}
    stage, done = Stage(backend, clock, held), set[str]()
    for step in STEPS:
        wanted = step.needs is None or step.needs in done
        if wanted and await tried(diary, step.name, lambda step=step: step.run(stage)):  # type: ignore[misc]
            done.add(step.name)

    async def closed() -> bool:
        await backend.close()
        return True

    await tried(diary, "close", closed)


# -- A worker --------------------------------------------------------------------------------------


class Planned(Exception):
    """What tasks fail with on purpose."""


async def value(number: int) -> int:
    return number


async def second_time(number: int) -> int:
    if current_task().attempt == 1:
        raise Planned
    current_task().log("again")
    return number


def in_a_thread(number: int) -> int:
    current_task().progress(50, "half")
    return number


async def after(number: int, parent: int) -> int:
    return number + parent - parent


async def work(job: Job, shim: Shim) -> None:
    """Enqueue, and then let a worker do everything. The fault strikes from the first enqueue on."""
    diary = Diary(job.folder)
    async with TaskQueue(SQLiteBackend(job.database)) as queue:
        policy = RetryPolicy(max_attempts=3, backoff="constant", base=0.01, jitter="none")
        shim.arm(job.database, job.fault)

        handles: list[Any] = []

        async def enqueue(number: int, function: Any, *parents: Any) -> bool:
            view = queue.options(id=f"task-{number}", retry=policy)
            handles.append(await view.enqueue(function, number, *parents))
            return True

        for number, function in enumerate([value, second_time, in_a_thread, value]):
            await tried(diary, f"task-{number}", lambda n=number, f=function: enqueue(n, f))  # type: ignore[misc]
        if handles:
            await tried(diary, "task-4", lambda: enqueue(4, after, handles[0]))
        worker = Worker(queue, concurrency=2, poll_interval=0.2, lease=10)
        worker._emit.on(StorageFailed, lambda event: diary.write("told", event.action, event.error))

        async def finished(handle: Any) -> bool:
            await handle.result(timeout=60)
            return True

        async with worker:
            for handle in handles:
                await tried(diary, f"result of {handle}", lambda handle=handle: finished(handle))  # type: ignore[misc]
        diary.write("worked")


WORKLOADS: dict[str, Workload] = {"steps": take_steps, "work": work, "record": record}
