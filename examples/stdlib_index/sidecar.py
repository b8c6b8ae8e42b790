"""A worker for one file, until `python -m sitq worker` is there."""

import argparse
import asyncio

from sitq import TaskQueue, Worker


async def work(db: str, name: str, concurrency: int, lease: float) -> None:
    async with TaskQueue(db) as queue:
        await Worker(queue, id=name, concurrency=concurrency, lease=lease).run()


parser = argparse.ArgumentParser()
parser.add_argument("db")
parser.add_argument("--id")
parser.add_argument("--concurrency", type=int)
parser.add_argument("--lease", type=float)
args = parser.parse_args()
asyncio.run(work(args.db, args.id, args.concurrency, args.lease))
