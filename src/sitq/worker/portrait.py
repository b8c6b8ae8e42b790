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
        self._measured = False

    def __call__(self) -> WorkerInfo:
        cpu, memory = self._measure()
        return WorkerInfo(
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            concurrency=self._config.concurrency,
            queues=self._config.queues,
            running=tuple(one.id for one in self._held()),
            cpu=cpu,
            memory=memory,
        )

    def _measure(self) -> tuple[float | None, int | None]:
        if self._process is None:
            return None, None
        try:
            cpu, memory = self._process.cpu_percent() / 100, self._process.memory_info().rss
        except Exception:  # a system that hides these figures must not keep the leases from being renewed
            return None, None
        first, self._measured = not self._measured, True
        return None if first else cpu, memory  # the first call has nothing to count from


def _process() -> Any:
    try:
        import psutil  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra

        return psutil.Process()
    except Exception:  # it is missing, or this system is not one that it knows
        return None
