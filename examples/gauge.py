"""Tasks that count how many of them run at once, for `bounded_concurrency`.

They stand in a module of their own because functions of `__main__` travel by value, together with the globals they use:
each would count in a copy.
"""

import asyncio
import threading
import time
from typing import Self


class Gauge:
    """Counts how many `with gauge:` blocks run at once."""

    def __init__(self) -> None:
        self.most = 0
        self._running = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1


gauge = Gauge()


def on_a_thread() -> None:
    with gauge:
        time.sleep(0.02)


async def on_the_loop() -> None:
    with gauge:
        await asyncio.sleep(0.02)
