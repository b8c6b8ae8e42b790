"""A live progress bar on a terminal, of a task that runs in a process of its own.

    python -m examples.progress_bar

Prints, on a terminal as one line that fills up,

    [########################################] 100 % file 40 of 40
    40 files, 820 lines
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from sitq import TaskQueue, current_task
from sitq.events import TaskProgressed

WIDTH = 40


def read_files(number: int) -> str:
    """Pretends to read files, and says how far it is."""
    task, lines = current_task(), 0
    for each in range(1, number + 1):
        time.sleep(0.02)
        lines += each
        task.progress(100 * each / number, f"file {each} of {number}")
    return f"{number} files, {lines} lines"


def bar(percent: float, note: str) -> str:
    return f"[{'#' * int(percent * WIDTH / 100):{WIDTH}}] {percent:3.0f} % {note}"


async def show(db: Path) -> None:
    live = sys.stdout.isatty()
    async with TaskQueue(db) as queue:
        handle = await queue.enqueue(read_files, 40)
        last = ""
        async for entry in handle.events():
            if isinstance(entry.event, TaskProgressed):
                last = bar(entry.event.percent, entry.event.note)
                if live:
                    print(f"\r{last}\x1b[K", end="", flush=True)
        print("" if live else last)
        print(await handle.result())


async def main(db: Path) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sitq", "worker", str(db), "--max-tasks", "1", "--log-level", "error"
    )
    await show(db)
    await worker.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "progress_bar.db"))
