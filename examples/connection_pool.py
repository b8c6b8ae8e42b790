"""A pool of database connections for each worker: opened before its first task, closed after its last one.

    python -m examples.connection_pool

Prints

    3 connections open
    100 tasks counted 10 orders each, over 3 connections
    connections closed
"""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

from examples.surroundings import POOL_SIZE, count_orders, lifespan
from sitq import TaskQueue, Worker, call


def make_orders(db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("CREATE TABLE orders (customer INTEGER)")
        connection.executemany("INSERT INTO orders VALUES (?)", [(number % 100,) for number in range(1000)])


async def main(folder: Path) -> None:
    shop = folder / "shop.db"
    make_orders(shop)
    async with (
        TaskQueue(folder / "tasks.db") as queue,
        Worker(queue, resources=partial(lifespan, shop)),
    ):
        handles = await queue.enqueue_many([call(count_orders, customer) for customer in range(100)])
        found = [await handle.result(timeout=30) for handle in handles]
        counts, connections = {count for count, _ in found}, {used for _, used in found}
        assert counts == {10}
        assert len(connections) <= POOL_SIZE
        print(f"{len(found)} tasks counted 10 orders each, over {POOL_SIZE} connections")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
