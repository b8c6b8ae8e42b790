"""What a caller sees of tasks that fail, are cancelled, are not finished, or were never there.

    python -m examples.failures

Prints

    failed: ZeroDivisionError, division by zero
    result() raises TaskFailedError, with the traceback of the worker, such as
        return total / count
    not finished in time: result() raises TaskTimeoutError
    cancelled: result() raises TaskCancelledError
    never there: get_result() raises TaskNotFoundError
"""

import asyncio
import tempfile
from pathlib import Path

from sitq import (
    TaskCancelledError,
    TaskFailedError,
    TaskNotFoundError,
    TaskQueue,
    TaskTimeoutError,
    Worker,
)


def average(total: int, count: int) -> float:
    return total / count


async def main(db: Path) -> None:
    async with TaskQueue(db) as queue, Worker(queue):
        failing = await queue.enqueue(average, 10, count=0)
        # get_result() tells how it ended, and raises nothing because of it.
        result = await queue.get_result(failing, timeout=30)
        print(f"{result.status}: {result.error_type}, {result.error}")
        # result() returns the value, so without a value it raises.
        try:
            await failing.result()
        except TaskFailedError as error:
            print("result() raises TaskFailedError, with the traceback of the worker, such as")
            print(next(line for line in error.traceback.splitlines() if "/ count" in line))

        later = await queue.options(delay=3600).enqueue(average, 10, count=2)
        try:
            await later.result(timeout=0.1)
        except TaskTimeoutError:
            print("not finished in time: result() raises TaskTimeoutError")
        status = await later.cancel()
        try:
            await later.result()
        except TaskCancelledError:
            print(f"{status}: result() raises TaskCancelledError")

        try:
            await queue.get_result("no-such-id")
        except TaskNotFoundError:
            print("never there: get_result() raises TaskNotFoundError")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "failures.db"))
