"""What a worker says of itself, for the list of workers."""

import os
import socket
from collections.abc import Callable, Collection
from typing import Any

from sitq.clock import Clock
from sitq.config import WorkerConfig
from sitq.model import Held, WorkerInfo


class SelfPortrait:
    """Makes a `WorkerInfo` of the moment. CPU and memory are there if `psutil` is installed (`pip install psutil`)."""

    def __init__(self, config: WorkerConfig, clock: Clock, held: Callable[[], Collection[Held]]) -> None:
        self._config = config
        self._held = held
        self._started_at = clock.now()
        self._process = _process()

    def __call__(self) -> WorkerInfo:
        process = self._process
        return WorkerInfo(
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            concurrency=self._config.concurrency,
            queues=self._config.queues,
            running=tuple(one.id for one in self._held()),
            # Since the call before; the first one measures nothing.
            cpu=None if process is None else process.cpu_percent() / 100,
            memory=None if process is None else process.memory_info().rss,
        )


def _process() -> Any:
    try:
        import psutil  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra
    except ImportError:
        return None
    return psutil.Process()
