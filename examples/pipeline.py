"""Tasks that wait for the results of others: pages side by side, then one task for all of them.

    python -m examples.pipeline

Prints

    6 tasks, 3 of them waiting
    the longest line of 3 pages has 16 letters
    the report was cancelled: page four failed with "no such page"
"""

import asyncio
import tempfile
from pathlib import Path

from sitq import Status, TaskCancelledError, TaskQueue, Worker, call, chain, group, result_of

PAGES = {"one": "all is well", "two": "and so\nit is everywhere", "three": "in the town"}


def read(page: str) -> list[str]:
    if page not in PAGES:
        raise LookupError("no such page")
    return PAGES[page].splitlines()


def longest(pages: list[list[str]]) -> int:
    return max(len(line) for lines in pages for line in lines)


def report(length: int, pages: int = 1) -> str:
    return f"the longest line of {pages} pages has {length} letters"


async def main(db: Path) -> None:
    async with TaskQueue(db) as queue:
        # Each page is a task, the group is one, and each step after it.
        length = await queue.enqueue(chain(group([call(read, page) for page in PAGES]), longest))
        told = await queue.enqueue(report, result_of(length), len(PAGES))
        counts = (await queue.stats()).counts

        missing = await queue.options(id="four").enqueue(read, "four")
        last = await queue.enqueue(report, call(longest, [missing]))

        await Worker(queue).run(until_idle=True)
        print(f"{sum(counts.values())} tasks, {counts[Status.WAITING]} of them waiting")
        print(await told.result())
        try:
            await last.result()
        except TaskCancelledError:
            details = await queue.get(last)
            assert details.cancelled_by == "four"
            failed = await queue.get_result("four")
            print(f'the report was cancelled: page {details.cancelled_by} failed with "{failed.error}"')


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "pipeline.db"))
