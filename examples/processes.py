"""Run tasks in child processes: they use other cores, can be killed, and take nobody along when they crash.

    python -m examples.processes

Prints

    primes below 50,000: 5133, 100,000: 9592, 150,000: 13848, 200,000: 17984
    counted in child processes, and none of them was this one
    crashed its process once, and was run again: attempt 2
    never ends, and was killed: it did not finish within its timeout of 0.5 s, and its process was killed
"""

import asyncio
import os
import tempfile
from pathlib import Path

from sitq import TaskFailedError, TaskQueue, Worker, call, current_task


def primes_below(number: int) -> tuple[int, int]:
    sieve = bytearray([1]) * number
    sieve[:2] = 0, 0
    for divisor in range(2, int(number**0.5) + 1):
        if sieve[divisor]:
            sieve[divisor * divisor :: divisor] = bytes(len(range(divisor * divisor, number, divisor)))
    return sum(sieve), os.getpid()


def crash_once() -> str:
    if current_task().attempt == 1:
        os._exit(1)  # as a bug in a C library might
    return f"attempt {current_task().attempt}"


def never_end() -> None:
    while True:
        pass


async def main(db: Path) -> None:
    numbers = [50_000, 100_000, 150_000, 200_000]
    async with TaskQueue(db) as queue, Worker(queue, processes=2):
        in_processes = queue.options(executor="process")
        handles = await in_processes.enqueue_many([call(primes_below, number) for number in numbers])
        found = [await handle.result(timeout=60) for handle in handles]
        counts = [f"{number:,}: {count}" for number, (count, _) in zip(numbers, found, strict=True)]
        print(f"primes below {', '.join(counts)}")
        pids = {pid for _, pid in found}
        assert len(pids) <= 2
        assert os.getpid() not in pids
        print("counted in child processes, and none of them was this one")

        crashed = await in_processes.enqueue(crash_once)
        print(f"crashed its process once, and was run again: {await crashed.result(timeout=60)}")

        endless = await queue.options(executor="process", timeout=0.5).enqueue(never_end)
        try:
            await endless.result(timeout=60)
        except TaskFailedError as error:
            print(f"never ends, and was killed: {error.message}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "processes.db"))
