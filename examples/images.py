"""Work for the examples. It stands in a module of its own, so that workers find it by importing `examples.images`."""

import asyncio
import time


def resize(name: str, width: int) -> str:
    """A plain function. Workers run it on a thread, so it may block."""
    time.sleep(0.05)
    return f"{name} is {width} pixels wide"


async def download(name: str) -> str:
    """A coroutine function. Workers run it on their event loop, so it must not block."""
    await asyncio.sleep(0.05)
    return f"{name} is here"
