"""A small shop: orders and their tasks in one transaction, and bookings that are there exactly once.

    python -m examples.shop

Prints

    order 1 is paid for
    order 2 was given up, and its task with it
    order 3 is paid for
    attempts: order 1: 2, order 3: 2
    booked: order 1: 40, order 3: 15
"""

import asyncio
import sqlite3
import tempfile
from pathlib import Path

import aiosqlite

from sitq import TaskHandle, TaskQueue, Worker, current_task, task

TABLES = """
CREATE TABLE orders (number INTEGER PRIMARY KEY, amount INTEGER);
CREATE TABLE bookings (number INTEGER, amount INTEGER);
"""


class RefusedError(Exception):
    """The customer has second thoughts."""


@task(max_retries=2, retry_delay=0)
def book(db: str, number: int, amount: int) -> str:
    """Book an order. However often this starts, the booking is there once: it is committed with the task's success."""
    paid = f"order {number} is paid for"
    connection = sqlite3.connect(db)
    try:
        connection.execute("INSERT INTO bookings VALUES (?, ?)", (number, amount))
        current_task().complete_in(connection, paid)
        if current_task().attempt == 1:
            raise ConnectionError("the machine has a bad moment, after the row and before the commit")
        connection.commit()
        return paid
    finally:
        connection.close()  # what was not committed is rolled back


async def place(
    queue: TaskQueue, shop: aiosqlite.Connection, db: Path, number: int, amount: int
) -> TaskHandle[str] | None:
    """Store an order and the task that books it: both, or none."""
    try:
        await shop.execute("INSERT INTO orders VALUES (?, ?)", (number, amount))
        booking = await queue.within(shop).enqueue(book, str(db), number, amount)
        if amount > 100:
            raise RefusedError
        await shop.commit()  # from here on a worker may start it
    except RefusedError:
        await shop.rollback()
        return None
    return booking


async def main(db: Path) -> None:
    async with TaskQueue(db) as queue, aiosqlite.connect(db) as shop, Worker(queue):
        await shop.executescript(TABLES)
        for number, amount in ((1, 40), (2, 900), (3, 15)):
            booking = await place(queue, shop, db, number, amount)
            if booking is None:
                print(f"order {number} was given up, and its task with it")
            else:
                print(await booking.result(timeout=30))
        await show(queue, shop)


async def show(queue: TaskQueue, shop: aiosqlite.Connection) -> None:
    tasks = reversed(await queue.find())
    orders = await shop.execute_fetchall("SELECT number FROM orders ORDER BY number")
    booked = await shop.execute_fetchall("SELECT number, amount FROM bookings ORDER BY number")
    attempts = zip((number for [number] in orders), (task.attempt for task in tasks), strict=True)
    print("attempts:", ", ".join(f"order {number}: {attempt}" for number, attempt in attempts))
    print("booked:", ", ".join(f"order {number}: {amount}" for number, amount in booked))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "shop.db"))
