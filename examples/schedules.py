"""Repeat calls: declared in the code, and defined, paused and removed at run time.

    python -m examples.schedules

Prints

    declared: nightly, 0 3 * * * in Europe/Berlin
    defined: pulse, every 1 s
    pulse 1
    pulse 2
    pulse 3
    paused: pulse
    left: nightly
"""

import asyncio
import tempfile
from itertools import count
from pathlib import Path

from sitq import TaskQueue, Worker, call

beats = count(1)
enough = asyncio.Event()


def clean_up() -> str:
    return "clean"


async def pulse() -> None:
    number = next(beats)
    if number <= 3:
        print(f"pulse {number}", flush=True)
    if number == 3:
        enough.set()


async def main(db: Path) -> None:
    queue = TaskQueue(db)
    # Usually written as @queue.cron(...) above the function.
    queue.cron("0 3 * * *", tz="Europe/Berlin", name="nightly")(clean_up)

    async with queue, Worker(queue):
        [nightly] = await queue.schedules()
        print(f"declared: {nightly.name}, {nightly.cron} in {nightly.tz}")

        await queue.schedule("pulse", call(pulse), every=1)
        print("defined: pulse, every 1 s")
        await asyncio.wait_for(enough.wait(), timeout=30)

        await queue.pause_schedule("pulse")
        print("paused:", ", ".join(one.name for one in await queue.schedules() if one.paused))
        await queue.remove_schedule("pulse")
        print("left:", ", ".join(one.name for one in await queue.schedules()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "schedules.db"))
