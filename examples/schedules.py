"""Repeat calls: declared in the code, and defined, paused and removed at run time.

    python -m examples.schedules

Prints

    nightly: 0 3 * * * in Europe/Berlin
    pulse: every 0:00:01
    pulse
    pulse
    pulse
    paused: pulse
    left: nightly
"""

import asyncio
import tempfile
from pathlib import Path

from sitq import TaskQueue, Worker, call


def clean_up() -> str:
    return "clean"


async def pulse() -> None:
    print("pulse", flush=True)


async def main(db: Path) -> None:
    queue = TaskQueue(db)
    # Usually written as @queue.cron(...) above the function.
    queue.cron("0 3 * * *", tz="Europe/Berlin", name="nightly")(clean_up)

    async with queue:
        [nightly] = await queue.schedules()
        print(f"{nightly.name}: {nightly.cron} in {nightly.tz}")

        beat = await queue.schedule("pulse", call(pulse), every=1)
        print(f"{beat.name}: every {beat.every}", flush=True)
        await Worker(queue, max_tasks=3).run()

        await queue.pause_schedule("pulse")
        print("paused:", ", ".join(one.name for one in await queue.schedules() if one.paused))
        await queue.remove_schedule("pulse")
        print("left:", ", ".join(one.name for one in await queue.schedules()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "schedules.db"))
