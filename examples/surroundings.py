"""What examples about context and resources enqueue, with what it stands on.

In a module of its own: context variables and classes of resources are found by importing their module.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import aiosqlite

from sitq import resource

request_id: ContextVar[str] = ContextVar("request_id", default="none")


# -- Context ---------------------------------------------------------------------------------------


async def charge(order: int) -> str:
    beside = await asyncio.to_thread(request_id.get)
    return f"order {order} charged: request {request_id.get()}, on a thread beside it {beside}"


def print_label(order: int) -> str:
    return f"order {order} labelled: request {request_id.get()}"


# -- Resources -------------------------------------------------------------------------------------

POOL_SIZE = 3


@dataclass(frozen=True)
class Resources:
    """What the tasks of one worker share: connections that are free at the moment."""

    free: asyncio.Queue[aiosqlite.Connection]


@asynccontextmanager
async def lifespan(db: Path) -> AsyncIterator[Resources]:
    """Open the connections of one worker, and close them at its end."""
    free: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        for _ in range(POOL_SIZE):
            free.put_nowait(await stack.enter_async_context(aiosqlite.connect(db)))
        print(f"{POOL_SIZE} connections open")
        yield Resources(free)
    print("connections closed")


async def count_orders(customer: int) -> tuple[int, int]:
    """The number of orders of a customer, and which connection was asked."""
    free = resource(Resources).free
    connection = await free.get()
    try:
        async with connection.execute("SELECT count(*) FROM orders WHERE customer = ?", [customer]) as rows:
            [(count,)] = await rows.fetchall()
        return count, id(connection)
    finally:
        free.put_nowait(connection)
